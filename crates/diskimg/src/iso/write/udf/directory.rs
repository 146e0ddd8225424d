//! Encoding of directories: file identifier descriptors (4/14.4).

use super::encode::Encoder;
use super::{Udf, block, unique_id};
use crate::iso::SECTOR;
use crate::iso::udf::{characteristics, id};
use crate::iso::write::hierarchy::{Directory, Hierarchy};
use crate::iso::write::tree::{Hidden, Tree};
use crate::storage::number::{to_index, to_u8, to_u32, to_u64};

/// Length of a descriptor without its name.
const FIXED: usize = 38;

/// Alignment of descriptors in bytes.
const ALIGNMENT: usize = 4;

/// Returns the length of a directory in bytes.
pub(super) fn len(tree: &Hierarchy, dir: &Directory) -> u64 {
    let names = tree.entries_of(dir).iter().map(|entry| tree.entry_name(entry).len());
    let len = |name: usize| to_u64((FIXED + name).next_multiple_of(ALIGNMENT));
    // The first descriptor is for the parent and has no name.
    std::iter::once(0).chain(names).map(len).sum()
}

impl Udf {
    /// Encodes the directory with the index `index`, which follows its file entry.
    pub(super) fn directory(&self, nodes: &Tree, index: usize) -> Vec<u8> {
        let dir = &self.tree.dirs[index];
        let parent = &self.tree.dirs[to_index(dir.parent)];
        let mut identifiers = Identifiers { bytes: Vec::new(), first: dir.lba + 1 };
        let to_parent = characteristics::PARENT | characteristics::DIRECTORY;
        identifiers.add(&[], to_parent, parent.lba);
        for entry in self.tree.entries_of(dir) {
            let node = nodes.node(entry.node);
            let (mut kind, sector) = match node.is_dir() {
                true => (characteristics::DIRECTORY, self.tree.dirs[to_index(entry.dir)].lba),
                false => (0, self.files[to_index(node.inode)].sector),
            };
            if node.hidden.contains(Hidden::FLAG) {
                kind |= characteristics::HIDDEN;
            }
            identifiers.add(self.tree.entry_name(entry), kind, sector);
        }
        identifiers.bytes
    }
}

/// The contents of a directory, from sector `first`.
struct Identifiers {
    bytes: Vec<u8>,
    first: u32,
}

impl Identifiers {
    /// Adds a descriptor that refers to the file entry in sector `entry`.
    fn add(&mut self, name: &[u8], kind: u8, entry: u32) {
        let mut identifier = Encoder::new();
        identifier.u16(1); // version of the file
        identifier.u8(kind);
        identifier.u8(to_u8(name.len()));
        identifier.long_allocation(to_u32(SECTOR), block(entry), unique_id(entry));
        identifier.u16(0); // no implementation use
        identifier.bytes(name);
        identifier.pad_to(identifier.len().next_multiple_of(ALIGNMENT));
        // The location is the block in which the descriptor begins.
        let sector = self.first + to_u32(to_u64(self.bytes.len()) / SECTOR);
        self.bytes.extend(identifier.finish(id::FILE_IDENTIFIER, block(sector)));
    }
}
