//! Encoding of directory records (ECMA-119, 9.1), on demand.

use super::hierarchy::{Directory, Entry, Hierarchy, Role};
use super::options::Charsets;
use super::plan::Plan;
use super::rock_ridge::{Areas, Entries, Posix, both_endian_16, both_endian_32};
use super::tree::{Hidden, Kind, NodeId, TreeNode};
use crate::iso::SECTOR;
use crate::iso::time::Timestamp;
use crate::storage::number::{to_index, to_u8, to_u32, to_usize};
use std::borrow::Cow;

/// Length in bytes of all file sections of a file but the last: the maximum number of whole
/// sectors.
const SECTION: u64 = 0xFFFF_F800;

/// File flags (ECMA-119, 9.1.6).
const HIDDEN: u8 = 0x01;
const DIRECTORY: u8 = 0x02;
const MORE_SECTIONS: u8 = 0x80;

/// The two trees of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Primary,
    Joliet,
}

/// The difference between the addresses that are recorded and those in the image. It is 0, except
/// for the second set of trees, whose addresses are counted from the start of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shift {
    /// Of path tables and directories, in sectors, modulo 2^32.
    pub(super) directories: u32,
    /// Of file contents, in sectors, modulo 2^32.
    pub(super) contents: u32,
}

impl Shift {
    pub(super) fn directory(self, lba: u32) -> u32 {
        lba.wrapping_add(self.directories)
    }

    pub(super) fn content(self, lba: u32) -> u32 {
        lba.wrapping_add(self.contents)
    }
}

/// The fields of a directory record except its name.
#[derive(Debug, Clone, Copy)]
struct Extent {
    lba: u32,
    len: u32,
    time: Timestamp,
    flags: u8,
}

/// Encodes the records of one directory.
struct Writer<'w> {
    records: &'w mut Vec<u8>,
    areas: Areas<'w>,
    /// The current record.
    record: Vec<u8>,
    /// Rock Ridge entries of the current record, if the tree has Rock Ridge.
    rock_ridge: Option<Entries>,
    shift: Shift,
}

impl Plan {
    /// Encodes the records and the continuation areas of a directory. Before all addresses are
    /// assigned, only the lengths are correct.
    pub(super) fn directory(
        &self,
        space: Space,
        index: usize,
        shift: Shift,
        records: &mut Vec<u8>,
        areas: &mut Vec<u8>,
    ) {
        records.clear();
        areas.clear();
        let Some(hierarchy) = self.hierarchy(space) else { return };
        let dir = &hierarchy.dirs[index];
        let rock_ridge = space == Space::Primary && self.options.rock_ridge.is_some();
        let mut writer = Writer {
            records,
            areas: Areas { lba: shift.directory(dir.lba + dir.sectors), bytes: areas },
            record: Vec::with_capacity(256),
            rock_ridge: rock_ridge.then(Entries::default),
            shift,
        };
        let parent = &hierarchy.dirs[to_index(dir.parent)];
        self.dot(&mut writer, dir, index == 0);
        self.dot_dot(&mut writer, hierarchy, dir, parent);
        for entry in hierarchy.entries_of(dir) {
            self.entry(&mut writer, hierarchy, entry);
        }
        let len = writer.records.len().next_multiple_of(to_usize(SECTOR));
        writer.records.resize(len, 0);
    }

    fn dot(&self, writer: &mut Writer<'_>, dir: &Directory, root: bool) {
        if let Some(entries) = &mut writer.rock_ridge {
            entries.clear();
            if root {
                entries.sharing();
            }
            self.attributes(entries, dir.node, Some(dir.subdirectories));
            if root {
                entries.extension();
            }
        }
        writer.put(&[0], self.directory_extent(dir, writer.shift));
    }

    fn dot_dot(
        &self,
        writer: &mut Writer<'_>,
        hierarchy: &Hierarchy,
        dir: &Directory,
        parent: &Directory,
    ) {
        if let Some(entries) = &mut writer.rock_ridge {
            entries.clear();
            self.attributes(entries, parent.node, Some(parent.subdirectories));
            if let Some(from) = dir.moved_from {
                entries.parent(writer.shift.directory(hierarchy.dirs[to_index(from)].lba));
            }
        }
        writer.put(&[1], self.directory_extent(parent, writer.shift));
    }

    fn directory_extent(&self, dir: &Directory, shift: Shift) -> Extent {
        let [time, ..] = self.times(self.tree.node(dir.node));
        let len = dir.sectors.wrapping_mul(to_u32(SECTOR));
        Extent { lba: shift.directory(dir.lba), len, time, flags: DIRECTORY }
    }

    fn entry(&self, writer: &mut Writer<'_>, hierarchy: &Hierarchy, entry: &Entry) {
        let node = self.tree.node(entry.node);
        let dir = node.is_dir().then(|| &hierarchy.dirs[to_index(entry.dir)]);
        if let Some(entries) = &mut writer.rock_ridge {
            entries.clear();
            self.attributes(entries, entry.node, dir.map(|dir| dir.subdirectories));
            match (entry.role, dir) {
                (Role::Placeholder, Some(dir)) => entries.child(writer.shift.directory(dir.lba)),
                (Role::Moved, _) => entries.relocated(),
                _ => {}
            }
            match &node.kind {
                &Kind::Device { major, minor, .. } => entries.device(major, minor),
                Kind::Symlink(target) => entries.link(&self.recorded(target)),
                _ => {}
            }
            entries.name(&self.recorded(self.tree.name(entry.node)));
        }
        let name = hierarchy.entry_name(entry);
        match (dir, &node.kind) {
            (Some(dir), _) if entry.role != Role::Placeholder => {
                let extent = self.directory_extent(dir, writer.shift);
                writer.put(name, Extent { flags: extent.flags | hidden(node), ..extent });
            }
            (None, &Kind::File(content)) => self.sections(writer, name, node, content),
            _ => self.sections(writer, name, node, u32::MAX),
        }
    }

    /// Writes the records of a file that is not a directory: one for each file section.
    fn sections(&self, writer: &mut Writer<'_>, name: &[u8], node: &TreeNode, content: u32) {
        let [time, ..] = self.times(node);
        let mut left = match content {
            u32::MAX => 0,
            content => self.contents.get(content).len,
        };
        if !self.options.names.level.has_file_sections() && left > u64::from(u32::MAX) {
            // See `CreateOptions::limited_sizes`.
            left = SECTION;
        }
        let mut lba = writer.shift.content(match left {
            0 => self.empty.unwrap_or_default(),
            _ => self.content_lba[to_index(content)],
        });
        let several = left > u64::from(u32::MAX);
        loop {
            let last = !several || left <= SECTION;
            let len = if last { left } else { SECTION };
            let flags = hidden(node) | if last { 0 } else { MORE_SECTIONS };
            writer.put(name, Extent { lba, len: to_u32(len), time, flags });
            if last {
                return;
            }
            left -= SECTION;
            lba = lba.wrapping_add(to_u32(SECTION / SECTOR));
        }
    }

    /// Returns a name as recorded with Rock Ridge.
    fn recorded<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        let Charsets { host, rock_ridge } = self.options.charsets;
        host.convert(name, rock_ridge)
    }

    /// Adds PX and TF. `subdirectories` is the number of subdirectories of a directory.
    fn attributes(&self, entries: &mut Entries, node: NodeId, subdirectories: Option<u32>) {
        let node = self.tree.node(node);
        let (uid, gid, mode) = self.owner_and_mode(node);
        let numbers = self.files[to_index(node.inode)];
        let links = subdirectories.map_or(numbers.links, |count| count.saturating_add(2));
        let mode = file_type(&node.kind) | mode;
        entries.posix(&Posix { mode, links, uid, gid, serial: numbers.serial });
        let [modified, accessed, changed] = self.times(node);
        entries.times(modified, accessed, changed);
    }
}

/// Returns the file flag of a hidden node.
fn hidden(node: &TreeNode) -> u8 {
    if node.hidden.contains(Hidden::FLAG) { HIDDEN } else { 0 }
}

/// Returns the file type bits of the POSIX mode.
fn file_type(kind: &Kind) -> u32 {
    match kind {
        Kind::Directory(_) => 0o040_000,
        Kind::File(_) => 0o100_000,
        Kind::Symlink(_) => 0o120_000,
        Kind::Device { block: true, .. } => 0o060_000,
        Kind::Device { block: false, .. } => 0o020_000,
        Kind::Fifo => 0o010_000,
        Kind::Socket => 0o140_000,
    }
}

impl Writer<'_> {
    /// Appends a record with the current Rock Ridge entries. Records do not cross sector
    /// boundaries.
    fn put(&mut self, name: &[u8], extent: Extent) {
        let record = &mut self.record;
        record.clear();
        record.extend_from_slice(&[0, 0]);
        record.extend_from_slice(&both_endian_32(extent.lba));
        record.extend_from_slice(&both_endian_32(extent.len));
        record.extend_from_slice(&extent.time.to_record());
        record.extend_from_slice(&[extent.flags, 0, 0]);
        record.extend_from_slice(&both_endian_16(1));
        record.push(to_u8(name.len()));
        record.extend_from_slice(name);
        if !record.len().is_multiple_of(2) {
            record.push(0);
        }
        if let Some(entries) = &self.rock_ridge {
            entries.place(record.len(), record, &mut self.areas);
            if !record.len().is_multiple_of(2) {
                record.push(0);
            }
        }
        // A record has at most 255 bytes, because names are short enough.
        record[0] = to_u8(record.len());
        let sector = to_usize(SECTOR);
        if self.records.len() % sector + record.len() > sector {
            self.records.resize(self.records.len().next_multiple_of(sector), 0);
        }
        self.records.extend_from_slice(record);
    }
}
