//! The parts of a disk: from extent lines to open extents.
//!
//! ```text
//!   RW 63      FLAT   "disk-pt.vmdk" 0    ─► Flat     verbatim in a file, from an offset on
//!   RW 2097089 ZERO                       ─► Zero     no file
//!   RW 4192256 SPARSE "disk-s001.vmdk"    ─► Sparse   grains by tables (KDMV, COWD)
//!   RW 8388608 SESPARSE "…-sesparse.vmdk" ─► SeSparse grains by wider tables
//!   NOACCESS …                            ─► Forbidden
//! ```
//!
//! Every line becomes a part, in order, or the disk is not opened: a part left
//! out would move all that follows it.

use super::extent_line::{Access, ExtentKind, ExtentLine};
use super::header::{Header, MAGIC};
use super::sesparse::SeSparseExtent;
use super::sparse::{SparseExtent, read_header};
use super::tables::MemoryBudget;
use super::{COWD_MAGIC, SESPARSE_MAGIC, check, cowd};
use crate::error::{Error, ErrorKind, Result};
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::open::OpenContext;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::open::limits::Limits;
use crate::report::check::{CheckReport, Finding, Severity};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{HostFileId, Source};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// What an extent's file is called in errors.
const ROLE: &str = "extent file";

/// One extent and where it is in the disk.
#[derive(Debug)]
pub(super) struct VmdkExtent {
    /// Guest bytes of the disk.
    pub(super) guest: Range<u64>,
    /// What the descriptor says of it.
    pub(super) line: ExtentLine,
    /// Index of its file; 0 where it has none.
    pub(super) file: usize,
    pub(super) layout: Layout,
}

/// How an extent is stored: one variant per layout.
#[derive(Debug)]
pub(super) enum Layout {
    /// Verbatim, from this host offset on.
    Flat { offset: u64 },
    /// Zeros without a file.
    Zero,
    /// The descriptor says that nobody may read it.
    Forbidden,
    /// Grains by tables of 32-bit sectors: hosted sparse and COWD.
    Sparse(SparseExtent),
    /// Grains by tables of 64-bit entries.
    SeSparse(SeSparseExtent),
    /// Not opened: only facts are wanted, and these are the line's. Why, if
    /// there was an attempt.
    Unopened(Option<String>),
}

/// The parts of a disk and the files they are in; the descriptor's own first.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) files: Vec<Arc<dyn Source>>,
    pub(super) parts: Vec<VmdkExtent>,
}

impl Parts {
    /// Opens what `lines` name. `own` is the file that the descriptor is in,
    /// and its header if it is a sparse extent itself.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if a file may not be opened,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if lines and files contradict
    /// each other, [`Unsupported`](crate::ErrorKind::Unsupported),
    /// [`Limit`](crate::ErrorKind::Limit), [`Io`](crate::ErrorKind::Io).
    pub(super) fn open(
        own: Arc<dyn Source>,
        header: Option<Header>,
        lines: &[ExtentLine],
        context: &OpenContext<'_>,
    ) -> Result<Self> {
        let mut opening = Opening {
            context,
            itself: own.path().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned()),
            alone: lines.len() == 1,
            header,
            files: vec![own],
            names: HashMap::new(),
            known: HashMap::new(),
            limits: context.limits.clone(),
            budget: MemoryBudget::default(),
        };
        if let Some(id) = opening.files[0].identity() {
            opening.known.insert(id, 0);
        }
        let mut parts = Vec::with_capacity(lines.len());
        let mut start: u64 = 0;
        for line in lines {
            let end =
                start.checked_add(line.bytes()).filter(|&end| end <= i64::MAX.cast_unsigned());
            let end = end.ok_or_else(|| {
                Error::corrupt("VMDK descriptor", "its extents together exceed 8 EiB")
            })?;
            let (file, layout) = opening.part(line).map_err(|e| in_line(e, line))?;
            if line.sectors == 0 {
                continue;
            }
            parts.push(VmdkExtent { guest: start..end, line: line.clone(), file, layout });
            start = end;
        }
        if parts.is_empty() {
            return Err(Error::corrupt("VMDK descriptor", "it lists no extent"));
        }
        refuse_overlaps(&parts)?;
        Ok(Self { files: opening.files, parts })
    }
}

/// An error in an extent's structures is in the extent's file, not in the
/// descriptor's.
fn in_extent_file(error: Error, files: &[Arc<dyn Source>], file: usize) -> Error {
    match files[file].path().filter(|_| file != 0 && error.structure().is_some()) {
        Some(path) => error.in_file(path),
        None => error,
    }
}

/// An error that names no structure is the line's.
fn in_line(error: Error, line: &ExtentLine) -> Error {
    error.in_structure(format!("extent line '{}'", line.text))
}

/// The line and the file, or two lines, cannot both be right.
fn contradiction(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// Extents being opened.
struct Opening<'a> {
    context: &'a OpenContext<'a>,
    /// The descriptor's file name.
    itself: Option<String>,
    /// There is one line.
    alone: bool,
    /// Of the descriptor's file, if it is a sparse extent.
    header: Option<Header>,
    files: Vec<Arc<dyn Source>>,
    /// Indices of files by the names that lines give them.
    names: HashMap<String, usize>,
    /// … and by what they are.
    known: HashMap<HostFileId, usize>,
    /// What is left of the limits: all extents together must keep them.
    limits: Limits,
    /// For the tables that all extents keep.
    budget: MemoryBudget,
}

impl Opening<'_> {
    /// Index of the line's file, and its layout.
    fn part(&mut self, line: &ExtentLine) -> Result<(usize, Layout)> {
        if line.access == Access::None {
            return Ok((0, Layout::Forbidden));
        }
        let Some(name) = line.name.as_deref().filter(|_| line.kind != ExtentKind::Zero) else {
            return Ok((0, Layout::Zero));
        };
        let verbatim = match line.kind {
            ExtentKind::Sparse | ExtentKind::VmfsSparse | ExtentKind::SeSparse => false,
            ExtentKind::VsanSparse => {
                return Err(Error::unsupported("its bytes are an object of a vSAN")
                    .hint("clone the disk with vmkfstools -i to a datastore of files first"));
            }
            _ => true,
        };
        if self.is_itself(name) && !verbatim {
            return Ok((0, self.sparse(0, line)?));
        }
        if self.context.metadata_only && !self.context.with_extents {
            return Ok((0, Layout::Unopened(None)));
        }
        let file = match self.file(name, line.kind) {
            Ok(file) => file,
            // What else is known of the disk can still be told.
            Err(e) if self.context.metadata_only => {
                return Ok((0, Layout::Unopened(Some(e.to_string()))));
            }
            Err(e) => return Err(e),
        };
        let layout = if verbatim { self.flat(file, line) } else { self.sparse(file, line) };
        let layout = layout.map_err(|e| in_extent_file(e, &self.files, file))?;
        Ok((file, layout))
    }

    /// The descriptor's file is the only extent, whatever its name is now, or
    /// one of several and called so.
    fn is_itself(&self, name: &str) -> bool {
        self.header.is_some() && (self.alone || self.itself.as_deref() == Some(name))
    }

    /// Opens a file, once for all lines that name it.
    fn file(&mut self, name: &str, kind: ExtentKind) -> Result<usize> {
        if let Some(&file) = self.names.get(name) {
            return Ok(file);
        }
        let files = to_u64(self.names.len()) + 1;
        if files > self.limits.extent_files {
            let found = format!("the disk is in {files} files or more");
            return Err(Error::over_limit("extent_files", found, self.limits.extent_files));
        }
        if ["vsan://", "vvol://"].iter().any(|scheme| name.starts_with(scheme)) {
            return Err(Error::unsupported(
                "its bytes are an object of a vSAN or a virtual volume",
            )
            .hint("clone the disk with vmkfstools -i to a datastore of files first"));
        }
        let source = self.resolver().open_path(ROLE, name).map_err(|e| match kind {
            ExtentKind::VmfsRdm | ExtentKind::VmfsRaw => e.hint(
                "the guest's bytes are on the LUN that is mapped: clone the disk on its host \
                 with vmkfstools -i",
            ),
            _ => e,
        })?;
        let next = self.files.len();
        let file = match source.identity() {
            Some(id) => *self.known.entry(id).or_insert(next),
            None => next,
        };
        if file == next {
            self.files.push(source);
        }
        self.names.insert(name.to_owned(), file);
        Ok(file)
    }

    /// Who only asks for facts has no file opened but those beside the image.
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
                        "a raw device map of {len} bytes that does not hold the device's bytes"
                    ))
                    .hint("clone the disk on its host with vmkfstools -i"));
                }
                Ok(Layout::Flat { offset })
            }
            _ => Err(contradiction("the offset is beyond any file")),
        }
    }

    /// A sparse extent of any kind: its own first bytes say which.
    fn sparse(&mut self, file: usize, line: &ExtentLine) -> Result<Layout> {
        if line.offset.is_some_and(|offset| offset != 0) {
            return Err(Error::unsupported("a sparse extent at an offset"));
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
                    format!("{magic:02x?} starts no such extent"),
                )
                .at(0));
            }
        };
        require_size(header.capacity, header.grain_sectors, line)?;
        let extent = SparseExtent::open(source, header, &self.limits, self.budget.clone())?;
        self.spend(extent.table_memory());
        Ok(Layout::Sparse(extent))
    }

    fn se_sparse(&mut self, source: &Arc<dyn Source>, line: &ExtentLine) -> Result<Layout> {
        let extent = SeSparseExtent::open(Arc::clone(source), &self.limits, self.budget.clone())?;
        require_size(extent.size() / super::SECTOR, 1, line)?;
        self.spend(extent.table_memory());
        Ok(Layout::SeSparse(extent))
    }

    fn spend(&mut self, bytes: u64) {
        self.limits.table_bytes = self.limits.table_bytes.saturating_sub(bytes);
    }
}

/// An extent's own capacity is what its line says; or that, rounded up to a
/// grain: the capacity "should be a multiple of the grain size", and VirtualBox
/// gives the disk's size in the line.
fn require_size(capacity: u64, grain_sectors: u64, line: &ExtentLine) -> Result<()> {
    let rounded = line.sectors.next_multiple_of(grain_sectors);
    if [line.sectors, rounded].contains(&capacity) {
        return Ok(());
    }
    Err(contradiction(format!("{} sectors, but {capacity} in the extent's header", line.sectors)))
}

/// No two extents may hold the same bytes of a file.
fn refuse_overlaps(parts: &[VmdkExtent]) -> Result<()> {
    let stored = |part: &VmdkExtent| match &part.layout {
        Layout::Flat { offset } => Some(*offset..offset + part.line.bytes()),
        Layout::Sparse(_) | Layout::SeSparse(_) => Some(0..u64::MAX),
        Layout::Zero | Layout::Forbidden | Layout::Unopened(_) => None,
    };
    let mut taken: Vec<_> =
        parts.iter().filter_map(|p| stored(p).map(|range| (p.file, range, p))).collect();
    taken.sort_unstable_by_key(|(file, range, _)| (*file, range.start));
    for pair in taken.windows(2) {
        let [(file, range, part), (other_file, other_range, other)] = pair else { continue };
        if file == other_file && other_range.start < range.end {
            return Err(Error::corrupt(
                "VMDK descriptor",
                format!(
                    "extent lines '{}' and '{}' name the same bytes of a file",
                    part.line.text, other.line.text
                ),
            ));
        }
    }
    Ok(())
}

impl VmdkExtent {
    /// Appends extents for `range` of the disk, which lies within this part.
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
                Err(Error::unsupported("its descriptor forbids to read it (NOACCESS)")
                    .losing(self.guest.clone()))
            }
            Layout::Unopened(why) => {
                let why = why.as_deref().unwrap_or("the image was opened for its facts alone");
                Err(Error::invalid(format!("it is not open: {why}")))
            }
        }
        .map_err(|e| in_line(in_extent_file(e, files, self.file), &self.line))
    }

    /// As [`Layer::next_allocated_hint`](crate::Layer::next_allocated_hint), for a range that starts here.
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

    /// All of it is data, be it in holes of the file.
    fn map_flat(
        &self,
        offset: u64,
        inside: Range<u64>,
        files: &[Arc<dyn Source>],
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let len = files[self.file].len();
        if offset + inside.end > len {
            let there = len.saturating_sub(offset);
            return Err(Error::corrupt(
                ROLE,
                format!("it ends here, and should go on to {:#x}", offset + self.line.bytes()),
            )
            .at(len)
            .hint("the file is probably truncated")
            .losing(self.guest.start + there..self.guest.end));
        }
        let place = HostOffset { file: self.file, offset: offset + inside.start };
        let base = self.guest.start;
        push(out, base + inside.start..base + inside.end, Kind::Data(place));
        Ok(())
    }

    /// What is stored may lie in a hole of its file.
    pub(super) fn is_flat(&self) -> bool {
        matches!(self.layout, Layout::Flat { .. })
    }

    /// Bytes of a grain, where there are grains.
    pub(super) fn grain_bytes(&self) -> Option<u64> {
        match &self.layout {
            Layout::Sparse(extent) => Some(extent.header().grain_bytes()),
            Layout::SeSparse(extent) => Some(extent.grain_bytes()),
            _ => None,
        }
    }

    /// Its grains are compressed.
    pub(super) fn is_compressed(&self) -> bool {
        matches!(&self.layout, Layout::Sparse(extent) if extent.header().compressed)
    }

    /// Zeros over a parent take no space in it.
    pub(super) fn has_zeroed_grains(&self) -> bool {
        matches!(&self.layout, Layout::Sparse(extent)
            if extent.header().zeroed_grains() && !extent.header().compressed)
    }

    /// Checks the part's own tables; adds to `counts` what was found.
    ///
    /// # Errors
    /// What reading the file said.
    pub(super) fn check(
        &self,
        files: &[Arc<dyn Source>],
        report: &mut dyn FnMut(Finding),
        counts: &mut CheckReport,
    ) -> Result<()> {
        // A finding in another file says in which.
        let file = files[self.file].path().filter(|_| self.file != 0);
        let mut report = |finding: Finding| match file {
            Some(path) => {
                let message = format!("{}: {}", path.display(), finding.message);
                report(Finding { message, ..finding });
            }
            None => report(finding),
        };
        let mut findings = check::Findings { report: &mut report, counts };
        let line = &self.line.text;
        match &self.layout {
            Layout::Sparse(extent) => check::check(extent, &mut report, counts)?,
            Layout::SeSparse(extent) => extent.check(&mut report, counts),
            Layout::Flat { offset } => {
                let (end, len) = (offset + self.line.bytes(), files[self.file].len());
                if end > len {
                    findings.corruption(format!("extent line '{line}': it ends at {len:#x}"));
                }
            }
            Layout::Unopened(why) => {
                let why = why.as_deref().unwrap_or("its file was not opened");
                let message = format!("extent line '{line}': {why}");
                findings.found(Severity::CheckError, message);
            }
            Layout::Zero | Layout::Forbidden => {}
        }
        Ok(())
    }

    /// What was found damaged, and is made up for.
    pub(super) fn warnings(&self, files: &[Arc<dyn Source>]) -> Vec<String> {
        let Layout::Sparse(extent) = &self.layout else { return Vec::new() };
        let file = files[self.file].path().filter(|_| self.file != 0);
        let named = |warning: String| match file {
            Some(path) => format!("{}: {warning}", path.display()),
            None => warning,
        };
        extent.warnings().into_iter().map(named).collect()
    }

    /// What a person should know of it.
    pub(super) fn notes(&self, files: &[Arc<dyn Source>]) -> Vec<String> {
        let mut notes = Vec::new();
        let line = &self.line.text;
        match &self.layout {
            Layout::Sparse(extent) if extent.header().unclean => notes.push(format!(
                "extent line '{line}': its last writer did not close it properly, the tables \
                 may be incomplete"
            )),
            Layout::Forbidden => notes.push(format!("extent line '{line}': it cannot be read")),
            Layout::Unopened(Some(why)) => notes.push(format!("extent line '{line}': {why}")),
            Layout::Flat { offset } if offset + self.line.bytes() > files[self.file].len() => {
                notes.push(format!(
                    "extent line '{line}': the file is shorter, it ends at {:#x}",
                    files[self.file].len()
                ));
            }
            _ => {}
        }
        notes
    }
}
