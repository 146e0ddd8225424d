//! Builds small UDF volumes, every field of which can be made invalid.
//!
//! The section numbers are those of ECMA-167. The layout, in sectors of 2048 bytes:
//!
//! ```text
//!   16 BEA01  17 NSR02  18 TEA01     256 anchor      32 volume descriptors: 1, 6, 5, 8
//!   300 the partition:  block 0 file set   1 root   2 its entries   3 good.txt   4 its bytes
//!                       8.. free for tests
//! ```

use crate::iso::{GOOD, SECTOR};

/// Sector of the partition's block 0.
pub const PARTITION: usize = 300;
/// Size of the partition in blocks, unless a test sets another.
pub const BLOCKS: u32 = 64;
/// The first block that tests may use.
pub const FREE: u32 = 8;

/// Returns a descriptor with a valid tag (3/7.2).
pub fn tagged(id: u16, location: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend([2, 0, 0, 0, 0, 0]);
    bytes.extend(crc(body).to_le_bytes());
    bytes.extend((body.len() as u16).to_le_bytes());
    bytes.extend(location.to_le_bytes());
    bytes[4] = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    bytes.extend(body);
    bytes
}

/// Computes the CRC-16 with the polynomial 0x1021 (3/7.2.6).
fn crc(bytes: &[u8]) -> u16 {
    let mut crc = 0u16;
    for &byte in bytes {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        }
    }
    crc
}

/// Returns the body of a descriptor of `len` bytes including the tag. `parts` are offsets, counted
/// from the start of the tag, and bytes.
pub fn body(len: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, part) in parts {
        bytes[*at..*at + part.len()].copy_from_slice(part);
    }
    bytes.split_off(16)
}

/// Returns a short allocation descriptor (4/14.14.1).
pub fn short(len: u32, block: u32) -> Vec<u8> {
    [len.to_le_bytes(), block.to_le_bytes()].concat()
}

/// Returns a long allocation descriptor (4/14.14.2).
pub fn long(len: u32, block: u32, partition: u16) -> Vec<u8> {
    [&short(len, block)[..], &partition.to_le_bytes(), &[0; 6]].concat()
}

/// A file entry (4/14.9).
#[derive(Clone)]
pub struct FileEntry {
    /// File type: 4 directory, 5 file, 12 symbolic link.
    pub kind: u8,
    /// Type of the allocation descriptors: 0 short, 1 long, 3 embedded data.
    pub form: u8,
    pub size: u64,
    pub extents: Vec<u8>,
    /// Length of the allocation descriptors; `None` for the actual one.
    pub extents_len: Option<u32>,
    pub attributes_len: u32,
    pub strategy: u16,
}

impl FileEntry {
    pub fn new(kind: u8, size: u64, extents: Vec<u8>) -> Self {
        Self { kind, form: 0, size, extents, extents_len: None, attributes_len: 0, strategy: 4 }
    }

    pub fn embedded(kind: u8, bytes: Vec<u8>) -> Self {
        Self { form: 3, ..Self::new(kind, bytes.len() as u64, bytes) }
    }

    pub fn bytes(&self, block: u32) -> Vec<u8> {
        let len = self.extents_len.unwrap_or(self.extents.len() as u32);
        let body = body(
            176 + self.extents.len(),
            &[
                (20, &self.strategy.to_le_bytes()),
                (24, &[1, 0, 0, self.kind]),
                (34, &[self.form, 0]),
                (44, &0x14A5u32.to_le_bytes()),
                (48, &[1, 0]),
                (56, &self.size.to_le_bytes()),
                (64, &self.size.div_ceil(2048).to_le_bytes()),
                (168, &self.attributes_len.to_le_bytes()),
                (172, &len.to_le_bytes()),
                (176, &self.extents),
            ],
        );
        tagged(261, block, &body)
    }
}

/// Returns a file identifier descriptor (4/14.4); flags: 2 directory, 4 deleted, 8 parent.
pub fn identifier(flags: u8, name: &[u8], block: u32, partition: u16) -> Vec<u8> {
    let name_len = [name.len() as u8];
    let icb = long(2048, block, partition);
    let parts = [(16, &[1, 0, flags][..]), (19, &name_len), (20, &icb), (38, name)];
    let mut bytes = tagged(257, 0, &body((38 + name.len()).next_multiple_of(4), &parts));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Encodes a name in 8-bit OSTA compressed Unicode.
pub fn name(text: &str) -> Vec<u8> {
    [&[8], text.as_bytes()].concat()
}

/// A volume under construction.
#[derive(Clone)]
pub struct UdfBuilder {
    pub bytes: Vec<u8>,
}

impl UdfBuilder {
    /// Returns a volume with `good.txt` and these entries in its root.
    pub fn new(entries: &[Vec<u8>]) -> Self {
        let mut volume = Self { bytes: vec![0; (PARTITION + BLOCKS as usize) * SECTOR] };
        for (sector, descriptor) in
            [(16, b"\0BEA01\x01"), (17, b"\0NSR02\x01"), (18, b"\0TEA01\x01")]
        {
            volume.at(sector, descriptor);
        }
        volume.anchor(&short(4 * 2048, 32));
        volume.at(
            32,
            &tagged(1, 32, &body(512, &[(24, b"\x08CRAFT"), (55, &[6]), (56, &[1, 0, 1, 0])])),
        );
        volume.logical_volume(2048, &[&[1, 6, 1, 0, 0, 0]], &long(2048, 0, 0));
        volume.partition(PARTITION as u32, BLOCKS);
        volume.at(35, &tagged(8, 35, &[0; 496]));
        volume.file_set(&long(2048, 1, 0), &long(0, 0, 0));
        let entries =
            [identifier(10, &[], 1, 0), identifier(0, &name("good.txt"), 3, 0), entries.concat()]
                .concat();
        let len = entries.len() as u32;
        assert!(len <= 2048, "too many entries for the root");
        volume.file(1, &FileEntry::new(4, len.into(), short(len, 2)));
        volume.block(2, &entries);
        volume.file(3, &FileEntry::new(5, GOOD.len() as u64, short(GOOD.len() as u32, 4)));
        volume.block(4, GOOD);
        volume
    }

    /// Writes bytes at a sector.
    pub fn at(&mut self, sector: usize, bytes: &[u8]) -> &mut Self {
        let end = (sector * SECTOR + bytes.len()).next_multiple_of(SECTOR);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[sector * SECTOR..sector * SECTOR + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Writes both anchors (3/10.2); `sequence` is the extent of the main and the reserve sequence.
    pub fn anchor(&mut self, sequence: &[u8]) -> &mut Self {
        let last = self.bytes.len() / SECTOR - 1;
        for sector in [256, last] {
            let parts = [(16, sequence), (24, sequence)];
            self.at(sector, &tagged(2, sector as u32, &body(512, &parts)));
        }
        self
    }

    /// Writes the logical volume descriptor (3/10.6).
    pub fn logical_volume(&mut self, block: u32, maps: &[&[u8]], file_set: &[u8]) -> &mut Self {
        let table = maps.concat();
        let parts = [
            (84, &b"\x08CRAFT"[..]),
            (211, &[6]),
            (212, &block.to_le_bytes()),
            (216, b"\0*OSTA UDF Compliant"),
            (240, &[2, 1]),
            (248, file_set),
            (264, &(table.len() as u32).to_le_bytes()),
            (268, &(maps.len() as u32).to_le_bytes()),
            (440, &table),
        ];
        self.at(33, &tagged(6, 33, &body(440 + table.len(), &parts)))
    }

    /// Writes the partition descriptor (3/10.5).
    pub fn partition(&mut self, start: u32, blocks: u32) -> &mut Self {
        let (start, blocks) = (start.to_le_bytes(), blocks.to_le_bytes());
        let parts =
            [(20, &[1, 0][..]), (24, b"\0+NSR02"), (184, &[1]), (188, &start), (192, &blocks)];
        self.at(34, &tagged(5, 34, &body(512, &parts)))
    }

    /// Writes the file set descriptor (4/14.1).
    pub fn file_set(&mut self, root: &[u8], next: &[u8]) -> &mut Self {
        let parts = [
            (304, &b"\x08CRAFT"[..]),
            (335, &[6]),
            (400, root),
            (416, b"\0*OSTA UDF Compliant"),
            (448, next),
        ];
        self.block(0, &tagged(256, 0, &body(512, &parts)))
    }

    /// Writes bytes at a block of the partition.
    pub fn block(&mut self, block: u32, bytes: &[u8]) -> &mut Self {
        self.at(PARTITION + block as usize, bytes)
    }

    /// Writes a file entry at a block of the partition.
    pub fn file(&mut self, block: u32, file: &FileEntry) -> &mut Self {
        self.block(block, &file.bytes(block))
    }

    /// Returns the image.
    pub fn finish(&self) -> Vec<u8> {
        self.bytes.clone()
    }
}
