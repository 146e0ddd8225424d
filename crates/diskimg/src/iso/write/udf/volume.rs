//! Encoding of the volume structures: recognition sequence, anchors, volume descriptor sequences,
//! integrity and file set descriptors.

use super::encode::{Encoder, REVISION, revision_suffix};
use super::{INTEGRITY, PARTITION, SEQUENCE};
use crate::iso::SECTOR;
use crate::iso::time::Timestamp;
use crate::iso::udf::id;
use crate::storage::number::{to_u32, to_usize};

/// Access type of a partition: read-only (3/10.5.7).
const READ_ONLY: u32 = 1;

/// State of a volume that was closed after it was last written (3/10.10.3).
const CLOSED: u32 = 1;

/// Interchange level of a single volume (3/11), and of a file set (4/15).
const VOLUME_LEVEL: u16 = 2;
const FILE_SET_LEVEL: u16 = 3;

/// The fields of the volume structures that differ between images.
#[derive(Debug)]
pub(super) struct Volume<'v> {
    /// Label.
    pub(super) label: &'v str,
    /// Volume set identifier. Its first sixteen characters are unique to the image.
    pub(super) set: String,
    pub(super) time: Timestamp,
    /// Length of the partition in blocks.
    pub(super) blocks: u32,
    /// Number of names of files.
    pub(super) files: u32,
    /// Number of directories, including the root.
    pub(super) directories: u32,
    /// The next unique ID.
    pub(super) next_id: u64,
    /// Block of the root directory's file entry.
    pub(super) root: u32,
    /// First sector of the logical volume integrity sequence.
    pub(super) integrity: u32,
}

/// Encodes the volume recognition sequence (2/8.3), without the ISO 9660 descriptors.
pub(super) fn recognition() -> Vec<u8> {
    let structures = [b"\0BEA01\x01", b"\0NSR02\x01", b"\0TEA01\x01"];
    let mut bytes = vec![0; structures.len() * to_usize(SECTOR)];
    for (sector, structure) in bytes.chunks_exact_mut(to_usize(SECTOR)).zip(structures) {
        sector[..structure.len()].copy_from_slice(structure);
    }
    bytes
}

/// Encodes the anchor volume descriptor pointer (3/10.2) in sector `sector`. The main volume
/// descriptor sequence is in sector `main`; the reserve sequence follows it.
pub(super) fn anchor(sector: u32, main: u32) -> Vec<u8> {
    let mut anchor = Encoder::new();
    for sequence in [main, main + SEQUENCE] {
        anchor.extent(SEQUENCE * to_u32(SECTOR), sequence);
    }
    anchor.descriptor(id::ANCHOR, sector)
}

/// Encodes the terminating descriptor (3/10.9, 4/14.2) in block `block`.
pub(super) fn terminator(block: u32) -> Vec<u8> {
    Encoder::new().descriptor(id::TERMINATING, block)
}

impl Volume<'_> {
    /// Encodes the volume descriptor sequence that begins at sector `first`.
    pub(super) fn sequence(&self, first: u32) -> Vec<u8> {
        let mut bytes = self.primary(first);
        bytes.extend(self.implementation_use(first + 1));
        bytes.extend(self.partition(first + 2));
        bytes.extend(self.logical(first + 3));
        bytes.extend(unallocated_space(first + 4));
        bytes.extend(terminator(first + 5));
        bytes
    }

    /// Encodes the primary volume descriptor (3/10.1).
    fn primary(&self, sector: u32) -> Vec<u8> {
        let mut primary = Encoder::new();
        primary.u32(1); // sequence number
        primary.u32(0); // number of the descriptor
        primary.dstring(self.label, 32);
        // Volume sequence number and its maximum, interchange level and its maximum.
        [1, 1, VOLUME_LEVEL, VOLUME_LEVEL].into_iter().for_each(|n| primary.u16(n));
        // Character sets: only CS0.
        [1, 1].into_iter().for_each(|sets| primary.u32(sets));
        primary.dstring(&self.set, 128);
        primary.character_set(); // of this descriptor
        primary.character_set(); // of explanatory texts
        primary.zeros(2 * 8); // no abstract, no copyright notice
        primary.zeros(32); // no application
        primary.time(self.time);
        primary.implementation();
        primary.descriptor(id::PRIMARY_VOLUME, sector)
    }

    /// Encodes the implementation use volume descriptor with the label (3/10.4; UDF, 2.2.7).
    fn implementation_use(&self, sector: u32) -> Vec<u8> {
        let mut label = Encoder::new();
        label.u32(2);
        label.entity("*UDF LV Info", revision_suffix());
        label.character_set();
        label.dstring(self.label, 128);
        label.zeros(3 * 36); // no further texts
        label.implementation();
        label.descriptor(id::IMPLEMENTATION_USE, sector)
    }

    /// Encodes the partition descriptor (3/10.5).
    fn partition(&self, sector: u32) -> Vec<u8> {
        let mut partition = Encoder::new();
        partition.u32(3);
        partition.u16(1); // space is allocated
        partition.u16(0); // number
        // This identifier has another flag and no suffix.
        partition.u8(2);
        partition.bytes(b"+NSR02");
        partition.zeros(17 + 8);
        partition.zeros(128); // no list of unallocated space
        partition.u32(READ_ONLY);
        partition.u32(PARTITION);
        partition.u32(self.blocks);
        partition.implementation();
        partition.descriptor(id::PARTITION, sector)
    }

    /// Encodes the logical volume descriptor (3/10.6).
    fn logical(&self, sector: u32) -> Vec<u8> {
        let mut logical = Encoder::new();
        logical.u32(4);
        logical.character_set();
        logical.dstring(self.label, 128);
        logical.u32(to_u32(SECTOR));
        logical.domain();
        // The file set descriptor and its terminating descriptor are the first two blocks.
        logical.long_allocation(2 * to_u32(SECTOR), 0, 0);
        logical.u32(6); // length of the partition maps
        logical.u32(1);
        logical.implementation();
        logical.zeros(128);
        logical.extent(INTEGRITY * to_u32(SECTOR), self.integrity);
        // Type 1 partition map (3/10.7.2): partition 0 of volume 1.
        logical.bytes(&[1, 6, 1, 0, 0, 0]);
        logical.sector(id::LOGICAL_VOLUME, sector)
    }

    /// Encodes the logical volume integrity sequence (3/10.10): one descriptor.
    pub(super) fn integrity(&self) -> Vec<u8> {
        let mut integrity = Encoder::new();
        integrity.time(self.time);
        integrity.u32(CLOSED);
        integrity.extent(0, 0);
        integrity.u64(self.next_id);
        integrity.zeros(24);
        integrity.u32(1); // number of partitions
        integrity.u32(46); // length of the implementation use field
        integrity.u32(0); // no free blocks
        integrity.u32(self.blocks);
        // Implementation use (UDF, 2.2.6.4).
        integrity.implementation();
        integrity.u32(self.files);
        integrity.u32(self.directories);
        // Minimum revision for reading and writing, maximum revision for writing.
        [REVISION; 3].into_iter().for_each(|revision| integrity.u16(revision));
        let mut bytes = integrity.sector(id::INTEGRITY, self.integrity);
        bytes.extend(terminator(self.integrity + 1));
        bytes
    }

    /// Encodes the file set descriptor (4/14.1), which is in block 0, and its terminating
    /// descriptor.
    pub(super) fn file_set(&self) -> Vec<u8> {
        let mut set = Encoder::new();
        set.time(self.time);
        [FILE_SET_LEVEL; 2].into_iter().for_each(|level| set.u16(level));
        [1, 1].into_iter().for_each(|sets| set.u32(sets));
        set.u32(0); // number of the file set
        set.u32(0); // number of the descriptor
        set.character_set();
        set.dstring(self.label, 128);
        set.character_set();
        set.dstring(self.label, 32);
        set.zeros(2 * 32); // no copyright file, no abstract file
        set.long_allocation(to_u32(SECTOR), self.root, 0);
        set.domain();
        let mut bytes = set.descriptor(id::FILE_SET, 0);
        bytes.extend(terminator(1));
        bytes
    }
}

/// Encodes the unallocated space descriptor (3/10.8): there is none.
fn unallocated_space(sector: u32) -> Vec<u8> {
    let mut space = Encoder::new();
    space.u32(5);
    space.u32(0);
    space.sector(id::UNALLOCATED_SPACE, sector)
}
