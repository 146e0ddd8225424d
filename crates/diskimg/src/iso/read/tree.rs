//! A tree of directory records: primary (with or without Rock Ridge), Joliet or enhanced.

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::finding::{Finding, FindingCode, Findings};
use crate::iso::node::{Attributes, Content, Entry, FileExtent, FileTree, FileType, Listing, Node};
use crate::iso::read::descriptor::{VolumeDescriptor, VolumeKind};
use crate::iso::read::path_table::{self, ByteOrder};
use crate::iso::read::record::{self, Record};
use crate::iso::read::rock_ridge::RockRidge;
use crate::iso::read::susp::{self, ContinuationBudget};
use crate::iso::time::Timestamp;
use crate::open::limits::Limits;
use crate::report::finding::Severity;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use byteorder::{BigEndian, ByteOrder as _};
use std::collections::HashSet;
use std::sync::Arc;

/// Length of a typical directory record with Rock Ridge in bytes.
const TYPICAL_RECORD: usize = 128;

/// Maximum number of entries for which memory is reserved in advance.
const MAX_RESERVED: usize = 4096;

/// Which names of a tree are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// File identifiers of ECMA-119, without the version and without a trailing dot.
    Plain,
    /// File identifiers as recorded.
    Enhanced,
    /// File identifiers in UTF-16BE, converted to UTF-8.
    Joliet,
    /// Rock Ridge names. `skipped` is the number of bytes at the start of each system use area that
    /// are not SUSP entries (SUSP, 5.3).
    RockRidge { skipped: usize },
}

/// A tree of directory records.
#[derive(Debug)]
pub(crate) struct RecordTree {
    image: Arc<dyn Source>,
    limits: Limits,
    names: Names,
    strict: bool,
    /// Whether an associated file is an entry if no other file has its name, and what programs read
    /// differently is an error.
    is_inspected: bool,
    root: Node,
    /// Volume sequence number, if the volume set has more than one volume.
    sequence: Option<u16>,
}

impl RecordTree {
    /// Opens the tree of the descriptor `volume`, without Rock Ridge.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the root directory cannot be found,
    /// [`Io`](crate::ErrorKind::Io) if reading fails.
    pub(crate) fn open(
        image: Arc<dyn Source>,
        volume: &VolumeDescriptor,
        limits: &Limits,
        strict: bool,
    ) -> Result<Self> {
        let names = match volume.kind {
            VolumeKind::Joliet => Names::Joliet,
            VolumeKind::Enhanced => Names::Enhanced,
            VolumeKind::Primary | VolumeKind::Other => Names::Plain,
        };
        let root = root_of(&*image, volume)?;
        let limits = limits.clone();
        Ok(Self {
            image,
            limits,
            names,
            strict,
            is_inspected: false,
            root,
            sequence: volume.sequence,
        })
    }

    /// Returns the same tree as programs see it that do not know associated files (ECMA-119,
    /// 9.1.6), which are parts of other files: one is a file if no other has its name. Listings that
    /// other programs may read differently are not complete.
    #[cfg(feature = "inspect")]
    pub(crate) fn inspected(self) -> Self {
        Self { is_inspected: true, ..self }
    }

    /// Returns the same tree with Rock Ridge names, or `None` if it has no Rock Ridge entries.
    ///
    /// # Errors
    /// Returns the errors of reading the root directory.
    pub(crate) fn with_rock_ridge(&self) -> Result<Option<Self>> {
        let Some(extent) = self.root.extents().first() else { return Ok(None) };
        let bytes = self.directory_bytes(&FileExtent { len: extent.len.min(SECTOR), ..*extent })?;
        let offset = extent.offset.unwrap_or_default();
        let mut records = Vec::new();
        record::each(&bytes, offset, &mut Findings::Ignored, |record, _| {
            records.push(record);
            Ok(())
        })?;
        let Some(skipped) = records.first().and_then(|dot| skipped_bytes(dot.system_use)) else {
            // Some writers omit SP. Accepted if a system use area starts with a Rock Ridge entry.
            let first = records.iter().find(|r| looks_like_rock_ridge(r.system_use));
            return Ok(first.map(|_| self.named(Names::RockRidge { skipped: 0 })));
        };
        let tree = self.named(Names::RockRidge { skipped });
        let mut budget = self.continuation_budget(SECTOR);
        for record in &records {
            let skipped = if record.is_dot() { 0 } else { skipped };
            let (budget, findings) = (&mut budget, &mut Findings::Ignored);
            if tree.rock_ridge(record, skipped, offset, budget, findings)?.present {
                return Ok(Some(tree));
            }
        }
        Ok(None)
    }

    fn named(&self, names: Names) -> Self {
        Self {
            image: Arc::clone(&self.image),
            limits: self.limits.clone(),
            names,
            strict: self.strict,
            is_inspected: self.is_inspected,
            root: self.root.clone(),
            sequence: self.sequence,
        }
    }

    /// Reads an extent of a directory. Returns fewer bytes if the image ends within it.
    fn directory_bytes(&self, extent: &FileExtent) -> Result<Vec<u8>> {
        directory_bytes(&*self.image, extent, self.limits.directory_bytes)
    }

    fn continuation_budget(&self, directory_bytes: u64) -> ContinuationBudget {
        ContinuationBudget::new(self.limits.continuations, directory_bytes)
    }

    /// Returns the Rock Ridge entries of a record of the directory at byte offset `dir`.
    fn rock_ridge(
        &self,
        record: &Record<'_>,
        skipped: usize,
        dir: u64,
        budget: &mut ContinuationBudget,
        findings: &mut Findings<'_>,
    ) -> Result<RockRidge> {
        let offset = dir.saturating_add(to_u64(record.at));
        let area = record.system_use.get(skipped..).unwrap_or(&[]);
        let mut rock_ridge = RockRidge::new(record.is_dot());
        susp::each(&*self.image, area, offset, budget, findings, &mut |entry, findings| {
            rock_ridge.add(entry, offset, &self.limits, findings)
        })?;
        Ok(rock_ridge)
    }

    /// Checks the Rock Ridge entries in the records of the directory itself and its parent. These
    /// are not needed to list a directory, so they are read only if findings are reported.
    fn check_dot(
        &self,
        record: &Record<'_>,
        dir: &Node,
        budget: &mut ContinuationBudget,
        findings: &mut Findings<'_>,
    ) -> Result<()> {
        let (Names::RockRidge { skipped }, Findings::Reported(_)) = (self.names, &findings) else {
            return Ok(());
        };
        let is_first = record.at == 0 && dir.location == self.root.location;
        let skipped = if is_first { 0 } else { skipped };
        self.rock_ridge(record, skipped, dir.location, budget, findings).map(|_| ())
    }

    /// Returns the directory entry for a record, or `None` if the record is hidden.
    fn entry(
        &self,
        record: &Record<'_>,
        dir: u64,
        budget: &mut ContinuationBudget,
        findings: &mut Findings<'_>,
    ) -> Result<Option<Entry>> {
        let offset = dir.saturating_add(to_u64(record.at));
        if record.flags.contains(record::Flags::ASSOCIATED) && !self.is_inspected {
            return Ok(None);
        }
        let (name, rock_ridge) = match self.names {
            Names::Plain => (plain_name(record.name).to_vec(), RockRidge::default()),
            Names::Enhanced => (record.name.to_vec(), RockRidge::default()),
            Names::Joliet => (joliet_name(record.name, offset, findings)?, RockRidge::default()),
            Names::RockRidge { skipped } => {
                let mut rock_ridge = self.rock_ridge(record, skipped, dir, budget, findings)?;
                #[cfg(feature = "inspect")]
                if self.is_inspected && rock_ridge.has_ambiguous_name() {
                    report_ambiguous(findings, "the name in a Rock Ridge entry", offset)?;
                }
                if rock_ridge.relocated {
                    return Ok(None);
                }
                let name =
                    rock_ridge.name.take().unwrap_or_else(|| plain_name(record.name).to_vec());
                (name, rock_ridge)
            }
        };
        let node = match rock_ridge.child {
            Some(sector) => self.relocated(sector, rock_ridge, offset, findings)?,
            None => self.node(record, rock_ridge, offset, findings)?,
        };
        Ok(Some(Entry { name, node }))
    }

    fn node(
        &self,
        record: &Record<'_>,
        rock_ridge: RockRidge,
        offset: u64,
        findings: &mut Findings<'_>,
    ) -> Result<Node> {
        let file_type = file_type(record, &rock_ridge, offset, findings)?;
        let mut attributes = rock_ridge.attributes;
        attributes.modified = attributes.modified.or_else(|| Timestamp::from_record(&record.time));
        let extents = vec![FileExtent { offset: Some(record.offset), len: record.size.into() }];
        let mut size = record.size.into();
        let content = match rock_ridge.zisofs {
            _ if record.unit_blocks != 0 => Content::Unsupported("interleaved"),
            _ if self.sequence.is_some_and(|own| own != record.sequence) => {
                Content::Unsupported("on another volume of its set")
            }
            Some(parameters) if file_type == FileType::Regular => {
                size = parameters.size;
                Content::Zisofs { extents, parameters }
            }
            _ => Content::Extents(extents),
        };
        let link_target = rock_ridge.link_target.filter(|_| file_type == FileType::Symlink);
        Ok(Node { file_type, size, attributes, link_target, content, location: record.offset })
    }

    /// Returns the relocated directory that a CL entry refers to (RRIP, 4.1.5.1). Its length is
    /// that in its first record. Relocation entries in that record are ignored.
    fn relocated(
        &self,
        sector: u32,
        rock_ridge: RockRidge,
        offset: u64,
        findings: &mut Findings<'_>,
    ) -> Result<Node> {
        let at = u64::from(sector) * SECTOR;
        let extent = FileExtent { offset: Some(at), len: SECTOR };
        let bytes = match self.directory_bytes(&extent) {
            Err(error) if error.is_storage_failure() => return Err(error),
            outcome => outcome.ok(),
        };
        let dot = bytes.as_ref().and_then(|bytes| Record::parse(bytes, 0));
        let dot = dot.filter(|dot| dot.is_dot() && dot.is_dir() && dot.offset == at);
        let mut attributes = rock_ridge.attributes;
        let (size, content) = match dot {
            Some(dot) => {
                attributes.modified =
                    attributes.modified.or_else(|| Timestamp::from_record(&dot.time));
                let len = u64::from(dot.size);
                (len, Content::Extents(vec![FileExtent { offset: Some(at), len }]))
            }
            None => {
                findings.report(|| {
                    let message =
                        format!("a CL entry refers to sector {sector}, which is not a directory");
                    Finding::new(FindingCode::Relocation, Severity::Error, message).at(offset)
                })?;
                (0, Content::Unsupported("the CL entry does not refer to a directory"))
            }
        };
        let file_type = FileType::Directory;
        Ok(Node { file_type, size, attributes, link_target: None, content, location: at })
    }
}

impl FileTree for RecordTree {
    fn root(&self) -> Result<Node> {
        let mut root = self.root.clone();
        if let Names::RockRidge { .. } = self.names {
            let Some(extent) = root.extents().first().copied() else { return Ok(root) };
            let first = FileExtent { len: extent.len.min(SECTOR), ..extent };
            let bytes = self.directory_bytes(&first)?;
            if let Some(dot) = Record::parse(&bytes, 0) {
                let offset = extent.offset.unwrap_or_default();
                let budget = &mut self.continuation_budget(SECTOR);
                let rock_ridge =
                    self.rock_ridge(&dot, 0, offset, budget, &mut Findings::Ignored)?;
                let modified = root.attributes.modified;
                root.attributes = rock_ridge.attributes;
                root.attributes.modified = root.attributes.modified.or(modified);
            }
        }
        Ok(root)
    }

    fn read_dir(&self, dir: &Node) -> Result<Listing> {
        let mut findings = if self.strict { Findings::Strict } else { Findings::Ignored };
        self.read_dir_reporting(dir, &mut findings)
    }

    fn read_dir_partial(&self, dir: &Node) -> Result<(Listing, Option<Error>)> {
        if self.strict {
            return Ok((self.read_dir(dir)?, None));
        }
        let mut first_error = None;
        if self.is_inspected {
            let mut note = |finding: Finding| {
                // Writers leave the attributes of relocated directories invalid.
                let counts = finding.severity == Severity::Error
                    || finding.severity == Severity::Warning
                        && finding.code != FindingCode::RockRidge;
                if counts && first_error.is_none() {
                    first_error = Some(finding);
                }
            };
            let listing = self.read_dir_reporting(dir, &mut Findings::Reported(&mut note))?;
            return Ok((listing, first_error.map(Finding::into_error)));
        }
        let listing = self.read_dir_reporting(dir, &mut Findings::FirstError(&mut first_error))?;
        Ok((listing, first_error.map(Finding::into_error)))
    }

    fn read_dir_reporting(&self, dir: &Node, findings: &mut Findings<'_>) -> Result<Listing> {
        if let Content::Unsupported(why) = dir.content {
            return Err(Error::corrupt("directory", why).at(dir.location));
        }
        let total: u64 = dir.extents().iter().map(|extent| extent.len).sum();
        if total > self.image.len() {
            return Err(Error::corrupt("directory", "it is longer than the image")
                .at(dir.location)
                .hint("the image may be truncated"));
        }
        let mut budget = self.continuation_budget(total);
        let mut entries: Vec<Entry> = Vec::new();
        let mut relocated = 0;
        let mut unfinished = Sections::default();
        let mut associated = Vec::new();
        for extent in dir.extents() {
            let bytes = self.directory_bytes(extent)?;
            let offset = extent.offset.unwrap_or_default();
            // An estimate. The maximum bounds the memory for a directory with few valid records.
            entries.reserve((bytes.len() / TYPICAL_RECORD).min(MAX_RESERVED));
            if to_u64(bytes.len()) < extent.len {
                findings.report(|| {
                    let message = "the image ends within a directory";
                    Finding::new(FindingCode::Truncated, Severity::Error, message).at(offset)
                })?;
            }
            record::each(&bytes, offset, findings, |record, findings| {
                if record.is_dot() {
                    return self.check_dot(&record, dir, &mut budget, findings);
                }
                #[cfg(feature = "inspect")]
                if self.is_inspected && (record.has_rare_fields || unfinished.is_other(&record)) {
                    report_ambiguous(
                        findings,
                        "fields of a directory record",
                        offset.saturating_add(to_u64(record.at)),
                    )?;
                }
                if let Some(entry) = unfinished.continued(&record, &mut entries) {
                    return unfinished.append(entry, &record, &self.limits);
                }
                if let Some(entry) = self.entry(&record, offset, &mut budget, findings)? {
                    relocated += u64::from(entry.node.is_dir() && !record.is_dir());
                    if record.flags.contains(record::Flags::ASSOCIATED) {
                        associated.push(entry);
                        return Ok(());
                    }
                    entries.push(entry);
                    unfinished.begin(&record);
                }
                Ok(())
            })?;
        }
        #[cfg(feature = "inspect")]
        if self.is_inspected && unfinished.name.is_some() {
            report_ambiguous(findings, "the last section of a file", dir.location)?;
        }
        if !associated.is_empty() {
            let names: HashSet<_> = entries.iter().map(|entry| entry.name.clone()).collect();
            associated.retain(|entry| !names.contains(&entry.name));
            entries.append(&mut associated);
        }
        // The first sector of each relocated directory was read.
        let cost = budget.used().saturating_add(relocated * SECTOR);
        Ok(Listing { entries, cost, error: None })
    }
}

/// A file with several file sections, of which more are to follow (ECMA-119, 6.5.1). Their records
/// are consecutive and have the same name.
#[derive(Debug, Default)]
struct Sections {
    name: Option<Vec<u8>>,
}

impl Sections {
    /// Returns the last entry if this record is a further section of its file.
    fn continued<'a>(
        &mut self,
        record: &Record<'_>,
        entries: &'a mut [Entry],
    ) -> Option<&'a mut Entry> {
        let continues = self.name.take().is_some_and(|name| name == record.name);
        if continues { entries.last_mut() } else { None }
    }

    /// Returns true if this record is not the further section that should follow.
    #[cfg(feature = "inspect")]
    fn is_other(&self, record: &Record<'_>) -> bool {
        self.name.as_ref().is_some_and(|name| name != record.name)
    }

    fn begin(&mut self, record: &Record<'_>) {
        self.name = record.has_more().then(|| record.name.to_vec());
    }

    fn append(&mut self, entry: &mut Entry, record: &Record<'_>, limits: &Limits) -> Result<()> {
        let section = FileExtent { offset: Some(record.offset), len: record.size.into() };
        match &mut entry.node.content {
            Content::Extents(extents) => {
                extents.push(section);
                entry.node.size = entry.node.size.saturating_add(section.len);
                if to_u64(extents.len()) > limits.file_sections {
                    let found = format!("a file of {} sections or more", extents.len());
                    return Err(Error::over_limit("file_sections", found, limits.file_sections)
                        .at(record.offset));
                }
            }
            Content::Zisofs { extents, .. } => extents.push(section),
            Content::Unsupported(_) => {}
        }
        self.begin(record);
        Ok(())
    }
}

/// Reports what programs read differently.
#[cfg(feature = "inspect")]
fn report_ambiguous(findings: &mut Findings<'_>, what: &str, offset: u64) -> Result<()> {
    findings.report(|| {
        let message = format!("programs read {what} differently");
        Finding::new(FindingCode::DirectoryRecord, Severity::Error, message).at(offset)
    })
}

/// Returns the file type from the directory record and the Rock Ridge entries. Whether it is a
/// directory is determined by the directory record, because that defines the tree.
fn file_type(
    record: &Record<'_>,
    rock_ridge: &RockRidge,
    offset: u64,
    findings: &mut Findings<'_>,
) -> Result<FileType> {
    let claimed = match rock_ridge.file_type {
        None if rock_ridge.link_target.is_some() => Some(FileType::Symlink),
        claimed => claimed,
    };
    let by_record = if record.is_dir() { FileType::Directory } else { FileType::Regular };
    let Some(claimed) = claimed else { return Ok(by_record) };
    if record.is_dir() != (claimed == FileType::Directory) {
        findings.warn(FindingCode::RockRidge, offset, || {
            format!("the file type is {claimed:?} in PX, {by_record:?} in the directory record")
        })?;
        return Ok(by_record);
    }
    if claimed == FileType::Symlink && rock_ridge.link_target.is_none() {
        findings.warn(FindingCode::RockRidge, offset, || {
            "a symbolic link without a target (no SL entry)".into()
        })?;
    }
    Ok(claimed)
}

/// Replaces an error because of damage by `None`. I/O errors are returned.
fn ignore_damage<T>(outcome: Result<Option<T>>) -> Result<Option<T>> {
    match outcome {
        Err(error) if !error.is_storage_failure() => Ok(None),
        outcome => outcome,
    }
}

/// Finds the root directory by its record in the volume descriptor or, if there is no directory at
/// that location, by the path table.
fn root_of(image: &dyn Source, volume: &VolumeDescriptor) -> Result<Node> {
    let offset = volume.sector * SECTOR;
    let recorded = Record::parse(&volume.root, 0);
    let location = recorded.as_ref().map(|root| (root.offset, u64::from(root.size)));
    // Returns whether the first record at `offset` is that of a directory itself, and its length.
    let dot_at = |offset: u64, len: u64| {
        let first = FileExtent { offset: Some(offset), len: len.min(SECTOR) };
        let read = directory_bytes(image, &first, SECTOR);
        ignore_damage(read.map(|bytes| {
            let dot = Record::parse(&bytes, 0)?;
            Some((dot.is_dot() && dot.is_dir(), u64::from(dot.size)))
        }))
    };
    let directory_at = |offset, len| {
        let dot = dot_at(offset, len)?;
        Ok(dot.filter(|&(is_directory, _)| is_directory).map(|_| (offset, len)))
    };
    let by_path_table = || {
        // The first record is that of the root.
        let bytes = volume.path_table_bytes.min(10);
        let table = path_table::read(image, volume.path_table_l, bytes, ByteOrder::Little, SECTOR);
        let first = ignore_damage(table.map(|table| table.first().map(|root| root.sector)))?;
        let Some(offset) = first.map(|sector| u64::from(sector) * SECTOR) else { return Ok(None) };
        if directory_at(offset, SECTOR)?.is_none() {
            return Ok(None);
        }
        Ok(dot_at(offset, SECTOR)?.map(|(_, len)| (offset, len)))
    };
    let by_record = match location {
        Some((offset, len)) => directory_at(offset, len)?,
        None => None,
    };
    let location = match by_record {
        Some(location) => Some(location),
        None => by_path_table()?,
    };
    let Some((offset, len)) = location else {
        return Err(Error::corrupt(
            "root directory",
            "the volume descriptor does not refer to a directory",
        )
        .at(offset + 156));
    };
    let modified = recorded.and_then(|root| Timestamp::from_record(&root.time));
    Ok(Node {
        file_type: FileType::Directory,
        size: len,
        attributes: Attributes { modified, ..Attributes::default() },
        link_target: None,
        content: Content::Extents(vec![FileExtent { offset: Some(offset), len }]),
        location: offset,
    })
}

fn directory_bytes(image: &dyn Source, extent: &FileExtent, limit: u64) -> Result<Vec<u8>> {
    let offset = extent.offset.unwrap_or(u64::MAX);
    let in_directory = |error: Error| error.in_structure("directory").at(offset);
    let inside = image.len().checked_sub(offset).filter(|&inside| inside > 0);
    let Some(inside) = inside else {
        return Err(in_directory(
            Error::corrupt("directory", "it is not within the image")
                .hint("the image may be truncated"),
        ));
    };
    let len = extent.len.min(inside);
    if len > limit {
        let found = format!("{len} bytes");
        let error = Error::over_limit("directory_bytes", found, limit);
        return Err(in_directory(error));
    }
    let mut bytes = vec![0; to_usize(len)];
    image
        .read_exact_at(&mut bytes, offset)
        .map_err(|e| in_directory(Error::io("cannot read the directory", e)))?;
    Ok(bytes)
}

/// Returns the number of bytes to skip in each system use area, from the SP entry in the root's
/// first record (SUSP, 5.3), or `None` if there is no SP entry. CD-ROM XA attributes may precede
/// it.
fn skipped_bytes(area: &[u8]) -> Option<usize> {
    const XA: usize = 14;
    let skipped = |area: &[u8]| match *area {
        // The check bytes BE EF are wrong in some images.
        [b'S', b'P', len, _, _, _, skipped, ..] if len >= 7 => Some(usize::from(skipped)),
        _ => None,
    };
    match skipped(area) {
        Some(skipped) => Some(skipped),
        None => skipped(area.get(XA..)?).map(|_| XA),
    }
}

fn looks_like_rock_ridge(area: &[u8]) -> bool {
    let known = [b"RR", b"PX", b"NM", b"TF", b"SL"];
    known.iter().any(|signature| area.starts_with(*signature))
        && area.get(2).is_some_and(|&len| len >= 4 && usize::from(len) <= area.len())
}

/// Returns `NAME.EXT` for `NAME.EXT;1`, and `NAME` for `NAME.;1` (ECMA-119, 7.5).
fn plain_name(name: &[u8]) -> &[u8] {
    let name = without_version(name, b';');
    match name.strip_suffix(b".") {
        Some(stem) if !stem.is_empty() => stem,
        _ => name,
    }
}

/// Removes the last separator if only digits follow it, and those digits.
fn without_version(name: &[u8], separator: u8) -> &[u8] {
    match name.iter().rposition(|&byte| byte == separator) {
        Some(at) if at > 0 && name[at + 1..].iter().all(u8::is_ascii_digit) => &name[..at],
        _ => name,
    }
}

/// Converts UTF-16BE to UTF-8, without the version. Unpaired surrogates become U+FFFD.
fn joliet_name(name: &[u8], offset: u64, findings: &mut Findings<'_>) -> Result<Vec<u8>> {
    if !name.len().is_multiple_of(2) {
        findings.warn(FindingCode::Name, offset, || {
            "the length of a Joliet name is odd; UTF-16 units have two bytes".into()
        })?;
    }
    let units = name.chunks_exact(2).map(BigEndian::read_u16);
    let text: String = char::decode_utf16(units).map(|c| c.unwrap_or('\u{FFFD}')).collect();
    Ok(without_version(text.as_bytes(), b';').to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_has_no_version_and_no_trailing_dot() {
        for (recorded, shown) in [
            ("README.TXT;1", "README.TXT"),
            ("README.;1", "README"),
            ("README", "README"),
            (".;1", "."),
            ("A;B", "A;B"),
            (";1", ";1"),
        ] {
            assert_eq!(plain_name(recorded.as_bytes()), shown.as_bytes(), "{recorded}");
        }
    }

    #[test]
    fn a_joliet_name_is_converted_from_utf_16() {
        let name = |units: &[u16]| {
            let bytes: Vec<_> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
            let name =
                joliet_name(&bytes, 0, &mut Findings::Ignored).expect("findings are ignored");
            String::from_utf8(name).expect("UTF-8")
        };
        assert_eq!(name(&[0x61, 0xD83D, 0xDE00, 0x3B, 0x31]), "a😀");
        assert_eq!(name(&[0x61, 0xD83D]), "a\u{FFFD}");
    }
}
