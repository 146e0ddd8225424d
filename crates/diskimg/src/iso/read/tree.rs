//! A tree of directory records: the primary one, with or without Rock Ridge, Joliet's, the
//! enhanced one.

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::finding::{Finding, FindingCode, Findings, Severity};
use crate::iso::node::{Attributes, Content, Entry, FileExtent, FileTree, FileType, Node};
use crate::iso::read::descriptor::{VolumeDescriptor, VolumeKind};
use crate::iso::read::path_table::{self, ByteOrder};
use crate::iso::read::record::{self, Record};
use crate::iso::read::rock_ridge::RockRidge;
use crate::iso::read::susp::{self, Allowance};
use crate::iso::time::Timestamp;
use crate::open::limits::Limits;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::sync::Arc;

/// Bytes of a usual record with Rock Ridge.
const TYPICAL_RECORD: usize = 128;

/// Entries that room is made for before they are seen.
const MOST_RESERVED: usize = 4096;

/// Whose names are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// ECMA-119's, without version and without the dot that an empty extension leaves.
    Plain,
    /// Recorded bytes.
    Enhanced,
    /// UTF-16BE, as UTF-8.
    Joliet,
    /// Rock Ridge's; so many bytes of each system use field are others'.
    RockRidge { skipped: usize },
}

/// A tree of directory records.
#[derive(Debug)]
pub(crate) struct RecordTree {
    image: Arc<dyn Source>,
    limits: Limits,
    names: Names,
    strict: bool,
    root: Node,
    /// The volume's number in a set of several.
    sequence: Option<u16>,
}

impl RecordTree {
    /// The tree that `volume` describes, by its own names.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it has no root in the image.
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
        Ok(Self { image, limits, names, strict, root, sequence: volume.sequence })
    }

    /// The same tree by Rock Ridge's names; `None` if it has none.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io).
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
            // Without SP: taken at its word if the entries are where they would be.
            let first = records.iter().find(|r| looks_like_rock_ridge(r.system_use));
            return Ok(first.map(|_| self.named(Names::RockRidge { skipped: 0 })));
        };
        let tree = self.named(Names::RockRidge { skipped });
        let mut allowance = self.allowance(SECTOR);
        for record in &records {
            let skipped = if record.is_dot() { 0 } else { skipped };
            let (allowance, findings) = (&mut allowance, &mut Findings::Ignored);
            if tree.rock_ridge(record, skipped, offset, allowance, findings)?.present {
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
            root: self.root.clone(),
            sequence: self.sequence,
        }
    }

    /// The bytes of a directory's extent; fewer if the image ends before it does.
    fn directory_bytes(&self, extent: &FileExtent) -> Result<Vec<u8>> {
        directory_bytes(&*self.image, extent, self.limits.directory_bytes)
    }

    fn allowance(&self, directory_bytes: u64) -> Allowance {
        Allowance::new(self.limits.continuations, directory_bytes)
    }

    /// What Rock Ridge says in a record of the directory at `dir`.
    fn rock_ridge(
        &self,
        record: &Record<'_>,
        skipped: usize,
        dir: u64,
        allowance: &mut Allowance,
        findings: &mut Findings<'_>,
    ) -> Result<RockRidge> {
        let offset = dir.saturating_add(to_u64(record.at));
        let area = record.system_use.get(skipped..).unwrap_or(&[]);
        let mut says = RockRidge::of(record.is_dot());
        susp::each(&*self.image, area, offset, allowance, findings, &mut |entry, findings| {
            says.take(entry, offset, &self.limits, findings)
        })?;
        Ok(says)
    }

    /// Looks at what Rock Ridge says in a directory's own record and its parent's, for whoever
    /// wants to hear of it: the directory is listed without them.
    fn check_dot(
        &self,
        record: &Record<'_>,
        dir: &Node,
        allowance: &mut Allowance,
        findings: &mut Findings<'_>,
    ) -> Result<()> {
        let (Names::RockRidge { skipped }, Findings::Told(_)) = (self.names, &findings) else {
            return Ok(());
        };
        let is_first = record.at == 0 && dir.location == self.root.location;
        let skipped = if is_first { 0 } else { skipped };
        self.rock_ridge(record, skipped, dir.location, allowance, findings).map(|_| ())
    }

    /// The entry that a record stands for; `None` if it is not shown.
    fn entry(
        &self,
        record: &Record<'_>,
        dir: u64,
        allowance: &mut Allowance,
        findings: &mut Findings<'_>,
    ) -> Result<Option<Entry>> {
        let offset = dir.saturating_add(to_u64(record.at));
        if record.flags.contains(record::Flags::ASSOCIATED) {
            return Ok(None);
        }
        let (name, says) = match self.names {
            Names::Plain => (plain_name(record.name).to_vec(), RockRidge::default()),
            Names::Enhanced => (record.name.to_vec(), RockRidge::default()),
            Names::Joliet => (joliet_name(record.name, offset, findings)?, RockRidge::default()),
            Names::RockRidge { skipped } => {
                let mut says = self.rock_ridge(record, skipped, dir, allowance, findings)?;
                if says.relocated {
                    return Ok(None);
                }
                let name = says.name.take().unwrap_or_else(|| plain_name(record.name).to_vec());
                (name, says)
            }
        };
        let node = match says.child {
            Some(sector) => self.relocated(sector, says, offset, findings)?,
            None => self.node(record, says, offset, findings)?,
        };
        Ok(Some(Entry { name, node }))
    }

    fn node(
        &self,
        record: &Record<'_>,
        says: RockRidge,
        offset: u64,
        findings: &mut Findings<'_>,
    ) -> Result<Node> {
        let file_type = file_type(record, &says, offset, findings)?;
        let mut attributes = says.attributes;
        attributes.modified = attributes.modified.or_else(|| Timestamp::from_record(&record.time));
        let extents = vec![FileExtent { offset: Some(record.offset), len: record.size.into() }];
        let mut size = record.size.into();
        let content = match says.zisofs {
            _ if record.unit_blocks != 0 => Content::Unread("interleaved"),
            _ if self.sequence.is_some_and(|own| own != record.sequence) => {
                Content::Unread("on another volume of its set")
            }
            Some(form) if file_type == FileType::Regular => {
                size = form.size;
                Content::Zisofs { extents, form }
            }
            _ => Content::Extents(extents),
        };
        let link_target = says.link_target.filter(|_| file_type == FileType::Symlink);
        Ok(Node { file_type, size, attributes, link_target, content, location: record.offset })
    }

    /// The directory that was moved away from here (RRIP, 4.1.5.1): its own first record knows
    /// how long it is. Whatever that record says of moves is not followed.
    fn relocated(
        &self,
        sector: u32,
        says: RockRidge,
        offset: u64,
        findings: &mut Findings<'_>,
    ) -> Result<Node> {
        let at = u64::from(sector) * SECTOR;
        let extent = FileExtent { offset: Some(at), len: SECTOR };
        let bytes = self.directory_bytes(&extent);
        let dot = bytes.as_ref().ok().and_then(|bytes| Record::parse(bytes, 0));
        let dot = dot.filter(|dot| dot.is_dot() && dot.is_dir() && dot.offset == at);
        let mut attributes = says.attributes;
        let (size, content) = match dot {
            Some(dot) => {
                attributes.modified =
                    attributes.modified.or_else(|| Timestamp::from_record(&dot.time));
                let len = u64::from(dot.size);
                (len, Content::Extents(vec![FileExtent { offset: Some(at), len }]))
            }
            None => {
                findings.tell(|| {
                    let message = format!("no directory at sector {sector}, where it was moved");
                    Finding::new(FindingCode::Relocation, Severity::Error, message).at(offset)
                })?;
                (0, Content::Unread("a directory that was moved to where none is"))
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
                let allowance = &mut self.allowance(SECTOR);
                let says = self.rock_ridge(&dot, 0, offset, allowance, &mut Findings::Ignored)?;
                let modified = root.attributes.modified;
                root.attributes = says.attributes;
                root.attributes.modified = root.attributes.modified.or(modified);
            }
        }
        Ok(root)
    }

    fn read_dir(&self, dir: &Node) -> Result<Vec<Entry>> {
        let mut findings = if self.strict { Findings::Strict } else { Findings::Ignored };
        self.read_dir_telling(dir, &mut findings)
    }

    fn read_dir_as_far(&self, dir: &Node) -> Result<(Vec<Entry>, Option<Error>)> {
        if self.strict {
            return Ok((self.read_dir(dir)?, None));
        }
        let mut lost = None;
        let entries = self.read_dir_telling(dir, &mut Findings::Lost(&mut lost))?;
        Ok((entries, lost.map(Finding::into_error)))
    }

    fn read_dir_telling(&self, dir: &Node, findings: &mut Findings<'_>) -> Result<Vec<Entry>> {
        if let Content::Unread(why) = dir.content {
            return Err(Error::corrupt("directory", why).at(dir.location));
        }
        let whole: u64 = dir.extents().iter().map(|extent| extent.len).sum();
        if whole > self.image.len() {
            return Err(Error::corrupt("directory", "it is longer than the image")
                .at(dir.location)
                .hint("the image may be truncated"));
        }
        let mut allowance = self.allowance(whole);
        let mut entries: Vec<Entry> = Vec::new();
        let mut unfinished = Sections::default();
        for extent in dir.extents() {
            let bytes = self.directory_bytes(extent)?;
            let offset = extent.offset.unwrap_or_default();
            // About as many as there are; what claims to be longer has to show it.
            entries.reserve((bytes.len() / TYPICAL_RECORD).min(MOST_RESERVED));
            if to_u64(bytes.len()) < extent.len {
                findings.tell(|| {
                    let message = "the image ends within a directory";
                    Finding::new(FindingCode::Truncated, Severity::Error, message).at(offset)
                })?;
            }
            record::each(&bytes, offset, findings, |record, findings| {
                if record.is_dot() {
                    return self.check_dot(&record, dir, &mut allowance, findings);
                }
                if let Some(entry) = unfinished.of(&record, &mut entries) {
                    return unfinished.append(entry, &record, &self.limits);
                }
                if let Some(entry) = self.entry(&record, offset, &mut allowance, findings)? {
                    entries.push(entry);
                    unfinished.begin(&record);
                }
                Ok(())
            })?;
        }
        Ok(entries)
    }
}

/// A file of several sections, some of them still to come (ECMA-119, 6.5.1): their records
/// follow each other and have the same name.
#[derive(Debug, Default)]
struct Sections {
    name: Option<Vec<u8>>,
}

impl Sections {
    /// The entry that this record is a further section of: the last one.
    fn of<'a>(&mut self, record: &Record<'_>, entries: &'a mut [Entry]) -> Option<&'a mut Entry> {
        let continues = self.name.take().is_some_and(|name| name == record.name);
        if continues { entries.last_mut() } else { None }
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
            Content::Unread(_) => {}
        }
        self.begin(record);
        Ok(())
    }
}

/// What a record and Rock Ridge together say it is. The record's word on directories is the last
/// one: that is how the tree hangs together.
fn file_type(
    record: &Record<'_>,
    says: &RockRidge,
    offset: u64,
    findings: &mut Findings<'_>,
) -> Result<FileType> {
    let claimed = match says.file_type {
        None if says.link_target.is_some() => Some(FileType::Symlink),
        claimed => claimed,
    };
    let by_record = if record.is_dir() { FileType::Directory } else { FileType::Regular };
    let Some(claimed) = claimed else { return Ok(by_record) };
    if record.is_dir() != (claimed == FileType::Directory) {
        findings.warn(FindingCode::RockRidge, offset, || {
            format!("PX says {claimed:?}, the directory record {by_record:?}")
        })?;
        return Ok(by_record);
    }
    if claimed == FileType::Symlink && says.link_target.is_none() {
        findings.warn(FindingCode::RockRidge, offset, || "a symbolic link to nowhere".into())?;
    }
    Ok(claimed)
}

/// What is damaged is not there; storage that fails is an error all the same.
fn damage_is_none<T>(outcome: Result<Option<T>>) -> Result<Option<T>> {
    match outcome {
        Err(error) if !error.is_of_storage() => Ok(None),
        outcome => outcome,
    }
}

/// The root by its record in the descriptor or, if nothing is there, by the path table.
fn root_of(image: &dyn Source, volume: &VolumeDescriptor) -> Result<Node> {
    let offset = volume.sector * SECTOR;
    let recorded = Record::parse(&volume.root, 0);
    let place = recorded.as_ref().map(|root| (root.offset, u64::from(root.size)));
    // Whether a directory's own record is there, and what length it gives.
    let dot_at = |offset: u64, len: u64| {
        let first = FileExtent { offset: Some(offset), len: len.min(SECTOR) };
        let read = directory_bytes(image, &first, SECTOR);
        damage_is_none(read.map(|bytes| {
            let dot = Record::parse(&bytes, 0)?;
            Some((dot.is_dot() && dot.is_dir(), u64::from(dot.size)))
        }))
    };
    let here = |offset, len| {
        let dot = dot_at(offset, len)?;
        Ok(dot.filter(|&(is_directory, _)| is_directory).map(|_| (offset, len)))
    };
    let by_path_table = || {
        // Only the first record is of interest.
        let bytes = volume.path_table_bytes.min(10);
        let table = path_table::read(image, volume.path_table_l, bytes, ByteOrder::Little, SECTOR);
        let first = damage_is_none(table.map(|table| table.first().map(|root| root.sector)))?;
        let Some(offset) = first.map(|sector| u64::from(sector) * SECTOR) else { return Ok(None) };
        if here(offset, SECTOR)?.is_none() {
            return Ok(None);
        }
        Ok(dot_at(offset, SECTOR)?.map(|(_, len)| (offset, len)))
    };
    let by_record = match place {
        Some((offset, len)) => here(offset, len)?,
        None => None,
    };
    let place = match by_record {
        Some(place) => Some(place),
        None => by_path_table()?,
    };
    let Some((offset, len)) = place else {
        return Err(Error::corrupt("root directory", "it is not where the descriptor says")
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

fn directory_bytes(image: &dyn Source, extent: &FileExtent, most: u64) -> Result<Vec<u8>> {
    let offset = extent.offset.unwrap_or(u64::MAX);
    let in_directory = |error: Error| error.in_structure("directory").at(offset);
    let inside = image.len().checked_sub(offset).filter(|&inside| inside > 0);
    let Some(inside) = inside else {
        return Err(in_directory(
            Error::corrupt("directory", "it lies outside the image")
                .hint("the image may be truncated"),
        ));
    };
    let len = extent.len.min(inside);
    if len > most {
        let found = format!("{len} bytes");
        let error = Error::over_limit("directory_bytes", found, most);
        return Err(in_directory(error));
    }
    let mut bytes = vec![0; to_usize(len)];
    image
        .read_exact_at(&mut bytes, offset)
        .map_err(|e| in_directory(Error::io("cannot read it", e)))?;
    Ok(bytes)
}

/// How many bytes of each system use field are to be skipped, by the SP entry of the root's own
/// record (SUSP, 5.3); `None` without one. CD-ROM XA's attributes may stand before it.
fn skipped_bytes(area: &[u8]) -> Option<usize> {
    const XA: usize = 14;
    let skipped = |area: &[u8]| match *area {
        // The check bytes BE EF are not right in every image.
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

/// `NAME.EXT;1` without its version, and without the dot if there is no extension (ECMA-119, 7.5).
fn plain_name(name: &[u8]) -> &[u8] {
    let name = without_version(name, b';');
    match name.strip_suffix(b".") {
        Some(stem) if !stem.is_empty() => stem,
        _ => name,
    }
}

/// The name before a last separator that only digits follow.
fn without_version(name: &[u8], separator: u8) -> &[u8] {
    match name.iter().rposition(|&byte| byte == separator) {
        Some(at) if at > 0 && name[at + 1..].iter().all(u8::is_ascii_digit) => &name[..at],
        _ => name,
    }
}

/// UTF-16BE as UTF-8, without the version. Half a surrogate pair becomes U+FFFD.
fn joliet_name(name: &[u8], offset: u64, findings: &mut Findings<'_>) -> Result<Vec<u8>> {
    if !name.len().is_multiple_of(2) {
        findings.warn(FindingCode::Name, offset, || "half a UTF-16 unit ends a name".into())?;
    }
    let units = name.chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let text: String = char::decode_utf16(units).map(|c| c.unwrap_or('\u{FFFD}')).collect();
    Ok(without_version(text.as_bytes(), b';').to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_loses_its_version_and_an_idle_dot() {
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
    fn a_joliet_name_is_utf_16() {
        let name = |units: &[u16]| {
            let bytes: Vec<_> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
            let name = joliet_name(&bytes, 0, &mut Findings::Ignored).expect("nobody listens");
            String::from_utf8(name).expect("UTF-8")
        };
        assert_eq!(name(&[0x61, 0xD83D, 0xDE00, 0x3B, 0x31]), "a😀");
        assert_eq!(name(&[0x61, 0xD83D]), "a\u{FFFD}");
    }
}
