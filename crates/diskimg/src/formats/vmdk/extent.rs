//! The extents of a disk: from extent lines to open extents.
//!
//! ```text
//!   RW 63      FLAT   "disk-pt.vmdk" 0    ─► Flat     verbatim in a file, starting at an offset
//!   RW 2097089 ZERO                       ─► Zero     no file
//!   RW 4192256 SPARSE "disk-s001.vmdk"    ─► Sparse   grains, 32-bit tables (KDMV, COWD)
//!   RW 8388608 SESPARSE "…-sesparse.vmdk" ─► SeSparse grains, 64-bit tables
//!   NOACCESS …                            ─► Forbidden
//! ```
//!
//! Every line becomes an extent, in order, or opening fails: skipping one would shift the guest
//! offsets of all extents after it.

use super::extent_line::{Access, ExtentKind, ExtentLine};
use super::header::{Header, MAGIC};
use super::sesparse::SeSparseExtent;
use super::sparse::{OnDamage, SparseExtent, read_header};
use super::{COWD_MAGIC, SESPARSE_MAGIC, check, cowd};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::findings::Findings;
use crate::formats::table_cache::MemoryBudget;
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::open::OpenContext;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::open::limits::Limits;
use crate::report::check::{CheckReport, Code, Finding};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{HostFileId, Source};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The term for an extent's file in error messages.
const ROLE: &str = "extent file";

/// One extent and its position in the disk.
#[derive(Debug)]
pub(super) struct VmdkExtent {
    /// The range of guest offsets that the extent covers.
    pub(super) guest: Range<u64>,
    /// The extent's line in the descriptor.
    pub(super) line: ExtentLine,
    /// Index of its file in [`OpenExtents::files`]; 0 if it has none.
    pub(super) file: usize,
    pub(super) layout: Layout,
}

/// How an extent is stored: one variant per layout.
#[derive(Debug)]
pub(super) enum Layout {
    /// Stored verbatim, starting at this host offset.
    Flat { offset: u64 },
    /// Reads as zeros and has no file.
    Zero,
    /// The descriptor forbids reading it (`NOACCESS`).
    Forbidden,
    /// Grains located by tables of 32-bit sector numbers: hosted sparse and COWD.
    Sparse(SparseExtent),
    /// Grains located by tables of 64-bit entries.
    SeSparse(SeSparseExtent),
    /// Not opened, because only metadata was requested. Holds the error if opening was attempted.
    Unopened(Option<String>),
}

/// The extents of a disk and the files that store them.
#[derive(Debug)]
pub(super) struct OpenExtents {
    /// The file with the descriptor comes first.
    pub(super) files: Vec<Arc<dyn Source>>,
    /// In guest order, without gaps.
    pub(super) list: Vec<VmdkExtent>,
}

impl OpenExtents {
    /// Opens the extents that `lines` describe. `descriptor_file` is the file that contains the
    /// descriptor; `header` is its header if that file is itself a sparse extent.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if the policy forbids opening a file,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if lines and files contradict each other,
    /// [`Unsupported`](crate::ErrorKind::Unsupported), [`Limit`](crate::ErrorKind::Limit),
    /// [`Io`](crate::ErrorKind::Io).
    pub(super) fn open(
        descriptor_file: Arc<dyn Source>,
        header: Option<Header>,
        lines: &[ExtentLine],
        context: &OpenContext<'_>,
    ) -> Result<Self> {
        let descriptor_file_name = descriptor_file.path().and_then(Path::file_name);
        let mut opener = ExtentOpener {
            context,
            descriptor_file_name: descriptor_file_name
                .map(|name| name.to_string_lossy().into_owned()),
            is_only_extent: lines.len() == 1,
            lines: lines.len(),
            opened: 0,
            header,
            files: vec![descriptor_file],
            by_name: HashMap::new(),
            by_identity: HashMap::new(),
            limits: context.limits.clone(),
            budget: MemoryBudget::default(),
        };
        if let Some(id) = opener.files[0].identity() {
            opener.by_identity.insert(id, 0);
        }
        let mut list = Vec::with_capacity(lines.len());
        let mut start: u64 = 0;
        for line in lines {
            let end =
                start.checked_add(line.bytes()).filter(|&end| end <= i64::MAX.cast_unsigned());
            let end = end.ok_or_else(|| {
                Error::corrupt("VMDK descriptor", "its extents together exceed 8 EiB")
            })?;
            let (file, layout) = opener.open_line(line).map_err(|e| in_line(e, line))?;
            if line.sectors == 0 {
                continue;
            }
            list.push(VmdkExtent { guest: start..end, line: line.clone(), file, layout });
            start = end;
        }
        if list.is_empty() {
            return Err(Error::corrupt("VMDK descriptor", "it lists no extents"));
        }
        refuse_overlaps(&list)?;
        Ok(Self { files: opener.files, list })
    }
}

/// Attributes an error in an extent's structures to the extent's file instead of the descriptor's.
fn in_extent_file(error: Error, files: &[Arc<dyn Source>], file: usize) -> Error {
    match files[file].path().filter(|_| file != 0 && error.structure().is_some()) {
        Some(path) => error.in_file(path),
        None => error,
    }
}

/// Attributes an error that names no structure to the extent line.
fn in_line(error: Error, line: &ExtentLine) -> Error {
    error.in_structure(format!("extent line '{}'", line.text))
}

/// The error for a line that contradicts its file.
fn contradiction(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// Opens the extents of one disk.
struct ExtentOpener<'a> {
    context: &'a OpenContext<'a>,
    /// Name of the file with the descriptor.
    descriptor_file_name: Option<String>,
    /// Whether the descriptor has only one extent line.
    is_only_extent: bool,
    /// Number of extent lines.
    lines: usize,
    /// Number of those whose opening was begun.
    opened: usize,
    /// Header of the file with the descriptor, if that file is a sparse extent.
    header: Option<Header>,
    files: Vec<Arc<dyn Source>>,
    /// Indices into `files` by the name in the extent line.
    by_name: HashMap<String, usize>,
    /// Indices into `files` by identity: two names may lead to one file.
    by_identity: HashMap<HostFileId, usize>,
    /// The limits, reduced by what the extents opened so far use.
    limits: Limits,
    /// Shared by the table caches of all extents.
    budget: MemoryBudget,
}

impl ExtentOpener<'_> {
    /// Opens the extent of `line` and returns the index of its file and its layout.
    fn open_line(&mut self, line: &ExtentLine) -> Result<(usize, Layout)> {
        self.opened += 1;
        if line.access == Access::None {
            return Ok((0, Layout::Forbidden));
        }
        let Some(name) = line.name.as_deref().filter(|_| line.kind != ExtentKind::Zero) else {
            return Ok((0, Layout::Zero));
        };
        let verbatim = match line.kind {
            ExtentKind::Sparse | ExtentKind::VmfsSparse | ExtentKind::SeSparse => false,
            ExtentKind::VsanSparse => {
                return Err(Error::unsupported("the extent is stored as a vSAN object")
                    .hint("clone the disk to a file-based datastore with vmkfstools -i first"));
            }
            _ => true,
        };
        if self.is_descriptor_file(name) && !verbatim {
            return Ok((0, self.sparse(0, line)?));
        }
        if self.context.metadata_only && !self.context.with_extents {
            return Ok((0, Layout::Unopened(None)));
        }
        let file = match self.open_file(name, line.kind) {
            Ok(file) => file,
            // The rest of the metadata can still be reported.
            Err(e) if self.context.metadata_only => {
                return Ok((0, Layout::Unopened(Some(e.without_remedy()))));
            }
            Err(e) => return Err(e),
        };
        let layout = if verbatim { self.flat(file, line) } else { self.sparse(file, line) };
        let layout = layout.map_err(|e| in_extent_file(e, &self.files, file))?;
        Ok((file, layout))
    }

    /// True if `name` refers to the file with the descriptor. A single extent always does, because
    /// the file may have been renamed; one of several only if the names are equal.
    fn is_descriptor_file(&self, name: &str) -> bool {
        self.header.is_some()
            && (self.is_only_extent || self.descriptor_file_name.as_deref() == Some(name))
    }

    /// Opens the file `name`, once for all lines that name it, and returns its index.
    fn open_file(&mut self, name: &str, kind: ExtentKind) -> Result<usize> {
        if let Some(&file) = self.by_name.get(name) {
            return Ok(file);
        }
        let files = to_u64(self.by_name.len()) + 1;
        if files > self.limits.extent_files {
            let found = format!("the disk is stored in at least {files} files");
            return Err(Error::over_limit("extent_files", found, self.limits.extent_files));
        }
        if ["vsan://", "vvol://"].iter().any(|scheme| name.starts_with(scheme)) {
            return Err(Error::unsupported("the extent is stored as a vSAN or vVol object")
                .hint("clone the disk to a file-based datastore with vmkfstools -i first"));
        }
        let source = self.resolver().open_path(ROLE, name).map_err(|e| match kind {
            ExtentKind::VmfsRdm | ExtentKind::VmfsRaw => e.hint(
                "the guest data is on the mapped LUN: clone the disk on its ESXi host with \
                 vmkfstools -i",
            ),
            _ => e,
        })?;
        let next = self.files.len();
        let file = match source.identity() {
            Some(id) => *self.by_identity.entry(id).or_insert(next),
            None => next,
        };
        if file == next {
            self.files.push(source);
        }
        self.by_name.insert(name.to_owned(), file);
        Ok(file)
    }

    /// Returns the resolver for extent files. If only metadata is requested, no files outside the
    /// image's directory are opened.
    fn resolver(&self) -> Resolver<'_> {
        match self.context.resolver.policy {
            ExternalFiles::Any if self.context.metadata_only => {
                Resolver { policy: ExternalFiles::SameDir, ..self.context.resolver }
            }
            _ => self.context.resolver,
        }
    }

    fn flat(&self, file: usize, line: &ExtentLine) -> Result<Layout> {
        let offset = super::sectors_to_bytes(line.offset.unwrap_or(0));
        let end = offset.and_then(|offset| offset.checked_add(line.bytes()));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= i64::MAX.cast_unsigned() => {
                let len = self.files[file].len();
                let raw = matches!(line.kind, ExtentKind::VmfsRdm | ExtentKind::VmfsRaw);
                if raw && end > len && !self.context.metadata_only {
                    return Err(Error::unsupported(format!(
                        "a raw device mapping file of {len} bytes, which does not contain the \
                         device's data"
                    ))
                    .hint("clone the disk on its ESXi host with vmkfstools -i"));
                }
                Ok(Layout::Flat { offset })
            }
            _ => Err(contradiction("the extent would end beyond 8 EiB")),
        }
    }

    /// Opens a sparse extent. Its signature distinguishes hosted sparse from COWD; seSparse must
    /// also be declared in its line.
    fn sparse(&mut self, file: usize, line: &ExtentLine) -> Result<Layout> {
        if line.offset.is_some_and(|offset| offset != 0) {
            return Err(Error::unsupported("a sparse extent at an offset other than 0"));
        }
        let source = Arc::clone(&self.files[file]);
        let mut magic = [0; 8];
        let len = to_usize(source.len().min(to_u64(magic.len())));
        super::read(&*source, &mut magic[..len], 0, "extent header")?;
        let se_sparse = line.kind == ExtentKind::SeSparse;
        let header = match (file, &self.header) {
            (0, Some(header)) if !se_sparse => header.clone(),
            _ if magic == SESPARSE_MAGIC && se_sparse => return self.se_sparse(&source, line),
            _ if magic.starts_with(&MAGIC) && !se_sparse => read_header(&*source)?,
            _ if magic.starts_with(&COWD_MAGIC) && !se_sparse => {
                cowd::read_header(&*source)?.header
            }
            _ => {
                return Err(Error::corrupt(
                    "extent header",
                    format!("the magic {magic:02x?} is not that of a {} extent", line.kind.name()),
                )
                .at(0));
            }
        };
        // While the size of a disk changes, its last extent is the longer one.
        if file == 0 || self.opened < self.lines || header.capacity < line.sectors {
            require_size(header.capacity, header.grain_sectors, line)?;
        }
        let on_damage = match self.context {
            context if context.tolerates_damage() => OnDamage::Report,
            context if context.salvage => OnDamage::Scan,
            _ => OnDamage::Fail,
        };
        let (limits, budget) = (&self.limits, self.budget.clone());
        let extent = SparseExtent::open(source, header, limits, budget, on_damage)?;
        self.charge(extent.table_memory());
        Ok(Layout::Sparse(extent))
    }

    fn se_sparse(&mut self, source: &Arc<dyn Source>, line: &ExtentLine) -> Result<Layout> {
        let extent = SeSparseExtent::open(Arc::clone(source), &self.limits, self.budget.clone())?;
        require_size(extent.size() / super::SECTOR, 1, line)?;
        self.charge(extent.table_memory());
        Ok(Layout::SeSparse(extent))
    }

    /// Deducts table memory from the limits for the remaining extents.
    fn charge(&mut self, bytes: u64) {
        self.limits.table_bytes = self.limits.table_bytes.saturating_sub(bytes);
    }
}

/// Verifies that the capacity in an extent's header equals the size in its line, or that size
/// rounded up to a grain: the specification says that the capacity "should be a
/// multiple of the grain size", and VirtualBox
/// writes the size of the disk to the line.
fn require_size(capacity: u64, grain_sectors: u64, line: &ExtentLine) -> Result<()> {
    let rounded = line.sectors.next_multiple_of(grain_sectors);
    if [line.sectors, rounded].contains(&capacity) {
        return Ok(());
    }
    Err(contradiction(format!("{} sectors, but {capacity} in the extent's header", line.sectors)))
}

/// Verifies that no two extents share bytes of a file.
fn refuse_overlaps(extents: &[VmdkExtent]) -> Result<()> {
    let stored = |extent: &VmdkExtent| match &extent.layout {
        Layout::Flat { offset } => Some(*offset..offset + extent.line.bytes()),
        Layout::Sparse(_) | Layout::SeSparse(_) => Some(0..u64::MAX),
        Layout::Zero | Layout::Forbidden | Layout::Unopened(_) => None,
    };
    let mut ranges: Vec<_> =
        extents.iter().filter_map(|e| stored(e).map(|range| (e.file, range, e))).collect();
    ranges.sort_unstable_by_key(|(file, range, _)| (*file, range.start));
    for pair in ranges.windows(2) {
        let [(file, range, extent), (other_file, other_range, other)] = pair else { continue };
        if file == other_file && other_range.start < range.end {
            return Err(Error::corrupt(
                "VMDK descriptor",
                format!(
                    "extent lines '{}' and '{}' refer to the same bytes of a file",
                    extent.line.text, other.line.text
                ),
            ));
        }
    }
    Ok(())
}

impl VmdkExtent {
    /// Appends mappings for `range` of the disk, which must be within this extent.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    pub(super) fn map(
        &self,
        range: Range<u64>,
        files: &[Arc<dyn Source>],
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let base = self.guest.start;
        let inside = range.start - base..range.end - base;
        match &self.layout {
            Layout::Flat { offset } => self.map_flat(*offset, inside, files, out),
            Layout::Zero => {
                push(out, range, Kind::Zero(None));
                Ok(())
            }
            Layout::Sparse(extent) => extent.map(inside, base, self.file, out),
            Layout::SeSparse(extent) => extent.map(inside, base, self.file, out),
            Layout::Forbidden => {
                Err(Error::unsupported("the descriptor forbids reading this extent (NOACCESS)")
                    .losing(self.guest.clone()))
            }
            Layout::Unopened(why) => {
                let why = why.as_deref().unwrap_or("only the image's metadata was requested");
                Err(Error::invalid(format!("the extent is not open: {why}"))
                    .losing(self.guest.clone()))
            }
        }
        .map_err(|e| in_line(in_extent_file(e, files, self.file), &self.line))
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint), for a range that
    /// starts within this extent.
    pub(super) fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        let end = range.end.min(self.guest.end);
        let base = self.guest.start;
        match &self.layout {
            Layout::Zero => end,
            Layout::Sparse(extent) => {
                base + extent.next_allocated_hint(range.start - base..end - base)
            }
            Layout::SeSparse(extent) => {
                base + extent.next_allocated_hint(range.start - base..end - base)
            }
            _ => range.start,
        }
    }

    /// As [`Layer::prefetch_tables`](crate::Layer::prefetch_tables), for the part of `range` that is
    /// within this extent.
    pub(super) fn prefetch_tables(&self, range: &Range<u64>) {
        let base = self.guest.start;
        let inside = range.start.max(base) - base..range.end.min(self.guest.end) - base;
        match &self.layout {
            Layout::Sparse(extent) => extent.prefetch_tables(inside),
            Layout::SeSparse(extent) => extent.prefetch_tables(inside),
            _ => {}
        }
    }

    /// Maps a range of a flat extent. All of it is data, even holes of the file.
    fn map_flat(
        &self,
        offset: u64,
        inside: Range<u64>,
        files: &[Arc<dyn Source>],
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let len = files[self.file].len();
        if offset + inside.end > len {
            let present = len.saturating_sub(offset);
            return Err(Error::corrupt(
                ROLE,
                format!("the file ends here; expected {:#x} bytes", offset + self.line.bytes()),
            )
            .at(len)
            .hint("the file is probably truncated")
            .losing(self.guest.start + present..self.guest.end));
        }
        let host = HostOffset { file: self.file, offset: offset + inside.start };
        let base = self.guest.start;
        push(out, base + inside.start..base + inside.end, Kind::Data(host));
        Ok(())
    }

    /// True for a flat extent. Parts of its data may be holes of the file, which read as zeros.
    pub(super) fn is_flat(&self) -> bool {
        matches!(self.layout, Layout::Flat { .. })
    }

    /// Returns the grain size in bytes, if the extent has grains.
    pub(super) fn grain_bytes(&self) -> Option<u64> {
        match &self.layout {
            Layout::Sparse(extent) => Some(extent.header().grain_bytes()),
            Layout::SeSparse(extent) => Some(extent.grain_bytes()),
            _ => None,
        }
    }

    /// True if the grains are compressed.
    pub(super) fn is_compressed(&self) -> bool {
        matches!(&self.layout, Layout::Sparse(extent) if extent.header().compressed)
    }

    /// True if a table entry can mark a grain as zero, so that zeros that hide the parent's data
    /// take no space.
    pub(super) fn has_zeroed_grains(&self) -> bool {
        matches!(&self.layout, Layout::Sparse(extent)
            if extent.header().zeroed_grains() && !extent.header().compressed)
    }

    /// Checks the extent's tables, reports the findings and adds them to `counts`.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the markers of a stream cannot be read.
    pub(super) fn check(
        &self,
        files: &[Arc<dyn Source>],
        report: &mut dyn FnMut(Finding),
        counts: &mut CheckReport,
    ) -> Result<()> {
        // Findings outside the descriptor's file name the file.
        let file = files[self.file].path().filter(|_| self.file != 0);
        let mut report = |finding: Finding| match file {
            Some(path) => {
                let message = format!("{}: {}", path.display(), finding.message);
                report(Finding { message, ..finding });
            }
            None => report(finding),
        };
        let mut findings = Findings { report: &mut report, counts };
        let line = &self.line.text;
        match &self.layout {
            Layout::Sparse(extent) => check::check(extent, &mut report, counts)?,
            Layout::SeSparse(extent) => extent.check(&mut report, counts),
            Layout::Flat { offset } => {
                let (end, len) = (offset + self.line.bytes(), files[self.file].len());
                if end > len {
                    findings.corruption(format!(
                        "extent line '{line}': the file has {len} bytes; expected {end}"
                    ));
                }
            }
            Layout::Unopened(why) => {
                let why = why.as_deref().unwrap_or("its file was not opened");
                let message = format!("extent line '{line}': {why}");
                findings.found(Code::CheckError, message);
            }
            Layout::Zero | Layout::Forbidden => {}
        }
        Ok(())
    }

    /// Describes damage that was found and worked around.
    pub(super) fn warnings(&self, files: &[Arc<dyn Source>]) -> Vec<String> {
        let Layout::Sparse(extent) = &self.layout else { return Vec::new() };
        let file = files[self.file].path().filter(|_| self.file != 0);
        let named = |warning: String| match file {
            Some(path) => format!("{}: {warning}", path.display()),
            None => warning,
        };
        extent.warnings().into_iter().map(named).collect()
    }

    /// Returns true if the extent's header states more than the line, as it does while the size of
    /// the disk changes.
    fn has_unused_capacity(&self, header: &Header) -> bool {
        header.capacity > self.line.sectors.next_multiple_of(header.grain_sectors)
    }

    /// Remarks for `info`.
    pub(super) fn notes(&self, files: &[Arc<dyn Source>]) -> Vec<String> {
        let mut notes = Vec::new();
        let line = &self.line.text;
        if let Layout::Sparse(extent) = &self.layout {
            notes.extend(extent.missing().map(|why| format!("the grains cannot be read: {why}")));
        }
        match &self.layout {
            Layout::Sparse(extent) if self.has_unused_capacity(extent.header()) => {
                notes.push(format!(
                    "extent line '{line}': the extent's header has {} sectors: a change of the \
                     disk's size was interrupted",
                    extent.header().capacity
                ));
            }
            Layout::Sparse(extent) if extent.header().unclean => notes.push(format!(
                "extent line '{line}': the extent was not closed properly; its tables may be \
                 incomplete"
            )),
            Layout::Forbidden => {
                notes.push(format!("extent line '{line}': the extent cannot be read"));
            }
            Layout::Unopened(Some(why)) => notes.push(format!("extent line '{line}': {why}")),
            Layout::Flat { offset } if offset + self.line.bytes() > files[self.file].len() => {
                notes.push(format!(
                    "extent line '{line}': the file has {} bytes; expected {}",
                    files[self.file].len(),
                    offset + self.line.bytes()
                ));
            }
            _ => {}
        }
        notes
    }
}
