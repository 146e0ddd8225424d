//! VHD images that no common program writes: bitmaps with holes, damaged footers, chains.
//!
//! Written from the specification (*Virtual Hard Disk Image Format Specification 1.0*) without code of
//! diskimg.

use std::collections::BTreeMap;

pub const SECTOR: usize = 512;

/// A block: which of its sectors are allocated, and their contents.
#[derive(Debug, Clone)]
pub struct Block {
    pub bitmap: Vec<u8>,
    pub data: Vec<u8>,
}

/// A name of the parent.
#[derive(Debug, Clone)]
pub struct Locator {
    pub code: [u8; 4],
    pub bytes: Vec<u8>,
}

impl Locator {
    /// A path of Windows in UTF-16, little endian.
    pub fn windows(code: &[u8; 4], path: &str) -> Self {
        Self { code: *code, bytes: path.encode_utf16().flat_map(u16::to_le_bytes).collect() }
    }
}

/// A dynamic or differencing disk.
#[derive(Debug, Clone)]
pub struct Vhd {
    pub size: u64,
    pub original_size: u64,
    pub creator: [u8; 4],
    pub geometry: (u16, u8, u8),
    pub uuid: [u8; 16],
    /// 3: dynamic, 4: differencing.
    pub disk_type: u32,
    pub block_bytes: u32,
    /// Entries of the table; `None` for as many as the disk needs.
    pub entries: Option<u32>,
    /// Allocated blocks by their index.
    pub blocks: BTreeMap<u32, Block>,
    pub parent_uuid: [u8; 16],
    pub parent_name: String,
    pub locators: Vec<Locator>,
}

impl Vhd {
    /// An empty dynamic disk with blocks of 64 KiB, as small as tests like.
    pub fn dynamic(size: u64) -> Self {
        Self {
            size,
            original_size: size,
            creator: *b"win ",
            geometry: (65535, 16, 255),
            uuid: [7; 16],
            disk_type: 3,
            block_bytes: 64 << 10,
            entries: None,
            blocks: BTreeMap::new(),
            parent_uuid: [0; 16],
            parent_name: String::new(),
            locators: Vec::new(),
        }
    }

    /// An empty child of the disk with this UUID.
    pub fn child(size: u64, parent_uuid: [u8; 16], parent_name: &str) -> Self {
        Self {
            uuid: [8; 16],
            disk_type: 4,
            parent_uuid,
            parent_name: parent_name.to_owned(),
            ..Self::dynamic(size)
        }
    }

    /// Allocates a block: fills it with `byte`, and sets the bits of `sectors` only.
    pub fn block(mut self, index: u32, byte: u8, sectors: impl IntoIterator<Item = usize>) -> Self {
        let len = self.block_bytes as usize;
        let mut bitmap = vec![0; (len / SECTOR).div_ceil(8).next_multiple_of(SECTOR)];
        for sector in sectors {
            bitmap[sector / 8] |= 0x80 >> (sector % 8);
        }
        self.blocks.insert(index, Block { bitmap, data: vec![byte; len] });
        self
    }

    /// Returns the footer.
    pub fn footer(&self) -> [u8; SECTOR] {
        let mut footer = footer(self.disk_type, self.size, SECTOR as u64);
        footer[28..32].copy_from_slice(&self.creator);
        footer[40..48].copy_from_slice(&self.original_size.to_be_bytes());
        footer[56..58].copy_from_slice(&self.geometry.0.to_be_bytes());
        (footer[58], footer[59]) = (self.geometry.1, self.geometry.2);
        footer[68..84].copy_from_slice(&self.uuid);
        seal(&mut footer, 64);
        footer
    }

    /// Returns the host offset of the table.
    pub fn table_at(&self) -> usize {
        let names =
            self.locators.iter().map(|locator| locator.bytes.len().next_multiple_of(SECTOR));
        1536 + names.sum::<usize>()
    }

    /// Returns the file.
    pub fn build(&self) -> Vec<u8> {
        let needed = self.size.div_ceil(self.block_bytes.into()) as u32;
        let entries = self.entries.unwrap_or(needed);
        let mut header = [0; 1024];
        header[..8].copy_from_slice(b"cxsparse");
        header[8..16].fill(0xff);
        header[16..24].copy_from_slice(&(self.table_at() as u64).to_be_bytes());
        header[24..28].copy_from_slice(&0x0001_0000u32.to_be_bytes());
        header[28..32].copy_from_slice(&entries.to_be_bytes());
        header[32..36].copy_from_slice(&self.block_bytes.to_be_bytes());
        header[40..56].copy_from_slice(&self.parent_uuid);
        let name = self.parent_name.encode_utf16().flat_map(u16::to_be_bytes);
        header[64..576].iter_mut().zip(name).for_each(|(to, from)| *to = from);
        let mut names = Vec::new();
        for (index, locator) in self.locators.iter().enumerate() {
            let (len, at) = (locator.bytes.len() as u32, (1536 + names.len()) as u64);
            let entry = &mut header[576 + 24 * index..][..24];
            entry[..4].copy_from_slice(&locator.code);
            entry[4..8].copy_from_slice(&len.next_multiple_of(512).to_be_bytes());
            entry[8..12].copy_from_slice(&len.to_be_bytes());
            entry[16..].copy_from_slice(&at.to_be_bytes());
            names.extend(&locator.bytes);
            names.resize(names.len().next_multiple_of(SECTOR), 0);
        }
        seal(&mut header, 36);
        let mut table = vec![u32::MAX; entries as usize];
        let table_len = (table.len() * 4).next_multiple_of(SECTOR);
        let first = self.table_at() + table_len;
        let mut blocks: Vec<u8> = Vec::new();
        for (&index, block) in &self.blocks {
            table[index as usize] = ((first + blocks.len()) / SECTOR) as u32;
            blocks.extend(&block.bitmap);
            blocks.extend(&block.data);
        }
        let footer = self.footer();
        let mut file = [&footer[..], &header, &names].concat();
        file.extend(table.iter().flat_map(|entry| entry.to_be_bytes()));
        file.resize(first, 0xff);
        file.extend(blocks);
        file.extend(footer);
        file
    }
}

/// Returns a fixed disk with these contents.
pub fn fixed(contents: &[u8]) -> Vec<u8> {
    [contents, &footer(2, contents.len() as u64, u64::MAX)].concat()
}

/// Returns a footer with the largest geometry.
pub fn footer(disk_type: u32, size: u64, data_offset: u64) -> [u8; SECTOR] {
    let mut footer = [0; SECTOR];
    footer[..8].copy_from_slice(b"conectix");
    footer[8..12].copy_from_slice(&2u32.to_be_bytes());
    footer[12..16].copy_from_slice(&0x0001_0000u32.to_be_bytes());
    footer[16..24].copy_from_slice(&data_offset.to_be_bytes());
    footer[28..32].copy_from_slice(b"win ");
    footer[36..40].copy_from_slice(b"Wi2k");
    footer[40..48].copy_from_slice(&size.to_be_bytes());
    footer[48..56].copy_from_slice(&size.to_be_bytes());
    footer[56..60].copy_from_slice(&[0xff, 0xff, 16, 255]);
    footer[60..64].copy_from_slice(&disk_type.to_be_bytes());
    footer[68..84].fill(7);
    seal(&mut footer, 64);
    footer
}

/// Computes the checksum of a structure again and stores it at `at`.
pub fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}
