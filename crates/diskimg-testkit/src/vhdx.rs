//! VHDX images that no common program writes: logs, differencing disks, every state of a block,
//! sectors of 4096 bytes, tables with unknown entries.
//!
//! Written from the specification (*\[MS-VHDX\]: Virtual Hard Disk v2 (VHDX) File Format*) without
//! code of diskimg.
//!
//! ```text
//!   0        64K      128K     192K     256K     1 MiB    log_at   metadata_at  bat_at
//!   ┌────────┬────────┬────────┬────────┬────────┬────────┬────────┬────────────┬─────┬─────────
//!   │ file   │ header │ header │ region │ region │        │ log    │ metadata   │ BAT │ blocks
//!   │ type   │ 1      │ 2      │ table  │ copy   │        │        │            │     │
//!   └────────┴────────┴────────┴────────┴────────┴────────┴────────┴────────────┴─────┴─────────
//! ```

mod log;

pub use log::{Damage, Descriptor, Log, LogEntry, PAGE, changed_pages};

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

pub const MIB: u64 = 1 << 20;

/// Host offsets of the two headers and the two region tables.
pub const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
pub const REGIONS_AT: [u64; 2] = [192 << 10, 256 << 10];

pub const HEADER_BYTES: usize = 4096;
pub const TABLE_BYTES: usize = 64 << 10;

pub const BAT_REGION: &str = "2DC27766-F623-4200-9D64-115E9BFD4A08";
pub const METADATA_REGION: &str = "8B7CA206-4790-4B9A-B8FE-575F050F886E";
pub const FILE_PARAMETERS: &str = "CAA16737-FA36-4D43-B3B6-33F0AA44E76B";
pub const DISK_SIZE: &str = "2FA54224-CD1B-4876-B211-5DBED83BF4B8";
pub const PAGE_83: &str = "BECA12AB-B2E6-4523-93EF-C309E000C746";
pub const LOGICAL_SECTOR: &str = "8141BF1D-A96F-4709-BA47-F233A8FAAB5F";
pub const PHYSICAL_SECTOR: &str = "CDA348C7-445D-4471-9CC9-E9885251C556";
pub const PARENT_LOCATOR: &str = "A8D35F2D-B30B-454D-ABF7-D3D84834AB0C";
pub const LOCATOR_TYPE: &str = "B04AEFB7-D19E-4A81-B789-25B8E9445913";

/// States of a payload block.
pub const NOT_PRESENT: u8 = 0;
pub const UNDEFINED: u8 = 1;
pub const ZERO: u8 = 2;
pub const UNMAPPED: u8 = 3;
pub const PRESENT: u8 = 6;
pub const PARTIAL: u8 = 7;

/// An entry of the block allocation table and what it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub state: u8,
    /// The bytes that are stored, zeros after them up to the end of the block; `None` if the block
    /// has no place in the file.
    pub data: Option<Vec<u8>>,
    /// The offset in MiB in the entry, instead of that of the data, or in addition to a state
    /// without data.
    pub megabyte: Option<u64>,
}

/// An entry of the region table or of the metadata table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub guid: [u8; 16],
    /// Bit 0 of a region: it is required. Bits 0 to 2 of a metadata item: it is the user's, it
    /// concerns the virtual disk, it is required.
    pub flags: u32,
    pub bytes: Vec<u8>,
}

/// A VHDX image.
#[derive(Debug, Clone)]
pub struct Vhdx {
    pub size: u64,
    pub creator: String,
    pub block_bytes: u32,
    pub sector: u32,
    pub physical_sector: u32,
    pub leave_blocks_allocated: bool,
    pub has_parent: bool,
    /// Sequence numbers of the two headers. The higher one counts.
    pub sequences: [u64; 2],
    pub version: u16,
    pub log_version: u16,
    pub file_write_guid: [u8; 16],
    pub data_write_guid: [u8; 16],
    pub log_guid: [u8; 16],
    pub page_83: [u8; 16],
    pub log_bytes: u32,
    /// Length of the region of the block allocation table, if not as needed.
    pub bat_bytes: Option<u32>,
    /// Payload blocks by their index; the others are not present.
    pub blocks: BTreeMap<u64, Block>,
    /// Sector bitmap blocks by the index of their chunk: bits, least significant first.
    pub bitmaps: BTreeMap<u64, Vec<u8>>,
    /// Entries of the parent locator.
    pub locator: Vec<(String, String)>,
    pub locator_type: [u8; 16],
    /// Regions besides the two known ones, each of 1 MiB.
    pub more_regions: Vec<Item>,
    /// Metadata items besides the known ones.
    pub more_items: Vec<Item>,
    /// Items that are left out.
    pub without: Vec<&'static str>,
}

impl Vhdx {
    /// An empty dynamic disk with blocks of 1 MiB, as small as the format allows.
    pub fn dynamic(size: u64) -> Self {
        Self {
            size,
            creator: "diskimg-testkit".to_owned(),
            block_bytes: 1 << 20,
            sector: 512,
            physical_sector: 4096,
            leave_blocks_allocated: false,
            has_parent: false,
            sequences: [7, 8],
            version: 1,
            log_version: 0,
            file_write_guid: [0xf1; 16],
            data_write_guid: [0xd1; 16],
            log_guid: [0; 16],
            page_83: [0x83; 16],
            log_bytes: 1 << 20,
            bat_bytes: None,
            blocks: BTreeMap::new(),
            bitmaps: BTreeMap::new(),
            locator: Vec::new(),
            locator_type: guid(LOCATOR_TYPE),
            more_regions: Vec::new(),
            more_items: Vec::new(),
            without: Vec::new(),
        }
    }

    /// An empty child of `parent`, which is found by this path of Windows relative to the child.
    pub fn child(parent: &Self, relative_path: &str) -> Self {
        let linkage = braced(parent.data_write_guid);
        Self {
            has_parent: true,
            data_write_guid: [0xd2; 16],
            file_write_guid: [0xf2; 16],
            blocks: BTreeMap::new(),
            bitmaps: BTreeMap::new(),
            locator: vec![
                ("parent_linkage".to_owned(), linkage),
                ("relative_path".to_owned(), relative_path.to_owned()),
            ],
            ..parent.clone()
        }
    }

    /// Sets an entry without data.
    pub fn state(mut self, index: u64, state: u8) -> Self {
        self.blocks.insert(index, Block { state, data: None, megabyte: None });
        self
    }

    /// Stores a block whose first bytes are these; the rest is zeros.
    pub fn data(mut self, index: u64, bytes: impl Into<Vec<u8>>) -> Self {
        let data = Some(bytes.into());
        self.blocks.insert(index, Block { state: PRESENT, data, megabyte: None });
        self
    }

    /// Stores a block full of `byte`.
    pub fn filled(self, index: u64, byte: u8) -> Self {
        let len = self.block_bytes as usize;
        self.data(index, vec![byte; len])
    }

    /// Stores a block full of `byte`, of which a child has only these sectors of the block.
    pub fn partial(mut self, index: u64, byte: u8, sectors: impl IntoIterator<Item = u64>) -> Self {
        let data = Some(vec![byte; self.block_bytes as usize]);
        self.blocks.insert(index, Block { state: PARTIAL, data, megabyte: None });
        let per_block = u64::from(self.block_bytes / self.sector);
        let first = index % self.chunk_ratio() * per_block;
        let chunk = index / self.chunk_ratio();
        let bits = self.bitmaps.entry(chunk).or_insert_with(|| vec![0; MIB as usize]);
        for sector in sectors {
            assert!(sector < per_block);
            let bit = (first + sector) as usize;
            bits[bit / 8] |= 1 << (bit % 8);
        }
        self
    }

    /// Returns the number of payload blocks that one sector bitmap covers.
    pub fn chunk_ratio(&self) -> u64 {
        (u64::from(self.sector) << 23) / u64::from(self.block_bytes)
    }

    /// Returns the number of payload blocks of the disk.
    pub fn block_count(&self) -> u64 {
        self.size.div_ceil(self.block_bytes.into())
    }

    /// Returns the number of entries of the block allocation table.
    pub fn entry_count(&self) -> u64 {
        let (blocks, ratio) = (self.block_count(), self.chunk_ratio());
        match self.has_parent {
            true => blocks.div_ceil(ratio) * (ratio + 1),
            false => blocks + blocks.saturating_sub(1) / ratio,
        }
    }

    /// Returns the host offset of the entry of a payload block.
    pub fn entry_at(&self, block: u64) -> u64 {
        self.bat_at() + 8 * (block + block / self.chunk_ratio())
    }

    /// Returns the host offset of the entry of the sector bitmap of a chunk.
    pub fn bitmap_entry_at(&self, chunk: u64) -> u64 {
        self.bat_at() + 8 * (chunk * (self.chunk_ratio() + 1) + self.chunk_ratio())
    }

    pub fn log_at(&self) -> u64 {
        MIB
    }

    pub fn metadata_at(&self) -> u64 {
        self.log_at() + u64::from(self.log_bytes).next_multiple_of(MIB)
    }

    pub fn bat_at(&self) -> u64 {
        self.metadata_at() + MIB
    }

    pub fn bat_len(&self) -> u64 {
        self.bat_bytes.map_or((self.entry_count() * 8).next_multiple_of(MIB).max(MIB), u64::from)
    }

    /// Returns the host offset of the first block.
    pub fn blocks_at(&self) -> u64 {
        let regions = self.more_regions.len() as u64;
        self.bat_at() + self.bat_len().next_multiple_of(MIB) + regions * MIB
    }

    /// Returns the host offsets of the data of the payload blocks that are stored: in ascending
    /// order, then the sector bitmaps.
    fn places(&self) -> (BTreeMap<u64, u64>, BTreeMap<u64, u64>, u64) {
        let mut at = self.blocks_at();
        let mut take = |len: u64| {
            let start = at;
            at += len;
            start
        };
        let stored = self.blocks.iter().filter(|(_, block)| block.data.is_some());
        let payload = stored.map(|(&i, _)| (i, take(self.block_bytes.into()))).collect();
        let bitmaps = self.bitmaps.keys().map(|&chunk| (chunk, take(MIB))).collect();
        (payload, bitmaps, at)
    }

    /// Returns the host offset of the data of a block that is stored.
    pub fn data_at(&self, block: u64) -> u64 {
        self.places().0[&block]
    }

    /// Returns the host offset of the sector bitmap of a chunk.
    pub fn bitmap_at(&self, chunk: u64) -> u64 {
        self.places().1[&chunk]
    }

    /// Returns a header.
    pub fn header(&self, sequence: u64) -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES];
        put(&mut header, 0, b"head");
        put(&mut header, 8, &sequence.to_le_bytes());
        put(&mut header, 16, &self.file_write_guid);
        put(&mut header, 32, &self.data_write_guid);
        put(&mut header, 48, &self.log_guid);
        put(&mut header, 64, &self.log_version.to_le_bytes());
        put(&mut header, 66, &self.version.to_le_bytes());
        put(&mut header, 68, &self.log_bytes.to_le_bytes());
        put(&mut header, 72, &self.log_at().to_le_bytes());
        seal(&mut header);
        header
    }

    /// Returns the region table.
    pub fn region_table(&self) -> Vec<u8> {
        let mut table = vec![0; TABLE_BYTES];
        put(&mut table, 0, b"regi");
        put(&mut table, 8, &(2 + self.more_regions.len() as u32).to_le_bytes());
        let mut at = 16;
        let mut entry = |guid: [u8; 16], offset: u64, len: u32, flags: u32| {
            put(&mut table, at, &guid);
            put(&mut table, at + 16, &offset.to_le_bytes());
            put(&mut table, at + 24, &len.to_le_bytes());
            put(&mut table, at + 28, &flags.to_le_bytes());
            at += 32;
        };
        entry(guid(BAT_REGION), self.bat_at(), self.bat_len() as u32, 1);
        entry(guid(METADATA_REGION), self.metadata_at(), MIB as u32, 1);
        let more_at = self.bat_at() + self.bat_len().next_multiple_of(MIB);
        for (i, region) in (0..).zip(&self.more_regions) {
            entry(region.guid, more_at + i * MIB, MIB as u32, region.flags);
        }
        seal(&mut table);
        table
    }

    /// Returns the metadata items.
    fn items(&self) -> Vec<Item> {
        let item = |id, flags, bytes: &[u8]| Item { guid: guid(id), flags, bytes: bytes.to_vec() };
        let flags = u32::from(self.leave_blocks_allocated) | u32::from(self.has_parent) << 1;
        let parameters = [self.block_bytes.to_le_bytes(), flags.to_le_bytes()].concat();
        let mut items = vec![
            item(FILE_PARAMETERS, 4, &parameters),
            item(DISK_SIZE, 6, &self.size.to_le_bytes()),
            item(PAGE_83, 6, &self.page_83),
            item(LOGICAL_SECTOR, 6, &self.sector.to_le_bytes()),
            item(PHYSICAL_SECTOR, 6, &self.physical_sector.to_le_bytes()),
        ];
        if self.has_parent {
            items.push(item(PARENT_LOCATOR, 4, &self.parent_locator()));
        }
        let without: Vec<_> = self.without.iter().map(|id| guid(id)).collect();
        items.retain(|item| !without.contains(&item.guid));
        items.extend(self.more_items.iter().cloned());
        items
    }

    /// Returns the metadata item that names the parent.
    fn parent_locator(&self) -> Vec<u8> {
        let mut header = vec![0; 20 + 12 * self.locator.len()];
        put(&mut header, 0, &self.locator_type);
        put(&mut header, 18, &(self.locator.len() as u16).to_le_bytes());
        let mut texts: Vec<u8> = Vec::new();
        for (i, (key, value)) in self.locator.iter().enumerate() {
            let entry = 20 + 12 * i;
            for (text, offset, len) in [(key, 0, 8), (value, 4, 10)] {
                let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                let at = (20 + 12 * self.locator.len() + texts.len()) as u32;
                put(&mut header, entry + offset, &at.to_le_bytes());
                put(&mut header, entry + len, &(bytes.len() as u16).to_le_bytes());
                texts.extend(bytes);
            }
        }
        header.extend(texts);
        header
    }

    /// Returns the first bytes of the metadata region: its table and items.
    pub fn metadata(&self) -> Vec<u8> {
        let items = self.items();
        let mut region = vec![0; TABLE_BYTES];
        put(&mut region, 0, b"metadata");
        put(&mut region, 10, &(items.len() as u16).to_le_bytes());
        for (i, item) in items.iter().enumerate() {
            let (entry, at) = (32 + 32 * i, region.len() as u32);
            put(&mut region, entry, &item.guid);
            put(&mut region, entry + 16, &at.to_le_bytes());
            put(&mut region, entry + 20, &(item.bytes.len() as u32).to_le_bytes());
            put(&mut region, entry + 24, &item.flags.to_le_bytes());
            region.extend(&item.bytes);
            region.resize(region.len().next_multiple_of(8), 0);
        }
        region
    }

    /// Returns the block allocation table.
    pub fn bat(&self) -> Vec<u8> {
        let (payload, bitmaps, _) = self.places();
        let mut table = vec![0; (self.entry_count() * 8) as usize];
        let mut set = |at: u64, state: u8, megabyte: u64| {
            let entry = u64::from(state) | megabyte << 20;
            put(&mut table, (at - self.bat_at()) as usize, &entry.to_le_bytes());
        };
        for (index, block) in &self.blocks {
            let stored = payload.get(index).map(|at| at / MIB);
            let megabyte = block.megabyte.or(stored).unwrap_or(0);
            set(self.entry_at(*index), block.state, megabyte);
        }
        for (chunk, at) in bitmaps {
            set(self.bitmap_entry_at(chunk), PRESENT, at / MIB);
        }
        table
    }

    /// Returns the parts of the file that are not zeros, by their offsets, and its length.
    pub fn parts(&self) -> (Vec<(u64, Vec<u8>)>, u64) {
        let mut file_type = b"vhdxfile".to_vec();
        file_type.extend(self.creator.encode_utf16().take(256).flat_map(u16::to_le_bytes));
        let mut parts = vec![
            (0, file_type),
            (HEADERS_AT[0], self.header(self.sequences[0])),
            (HEADERS_AT[1], self.header(self.sequences[1])),
            (REGIONS_AT[0], self.region_table()),
            (REGIONS_AT[1], self.region_table()),
            (self.metadata_at(), self.metadata()),
            (self.bat_at(), self.bat()),
        ];
        let more_at = self.bat_at() + self.bat_len().next_multiple_of(MIB);
        let more = (0..).zip(&self.more_regions);
        parts.extend(more.map(|(i, region)| (more_at + i * MIB, region.bytes.clone())));
        let (payload, bitmaps, end) = self.places();
        for (index, at) in payload {
            parts.push((at, self.blocks[&index].data.clone().unwrap_or_default()));
        }
        parts.extend(bitmaps.into_iter().map(|(chunk, at)| (at, self.bitmaps[&chunk].clone())));
        (parts, end)
    }

    /// Returns the file.
    pub fn build(&self) -> Vec<u8> {
        let (parts, len) = self.parts();
        let mut file = vec![0; len as usize];
        for (at, bytes) in parts {
            put(&mut file, at as usize, &bytes);
        }
        file
    }

    /// Writes the file, with holes.
    pub fn write(&self, path: &Path) {
        let (parts, len) = self.parts();
        let mut file = std::fs::File::create(path).unwrap();
        file.set_len(len).unwrap();
        for (at, bytes) in parts {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&bytes).unwrap();
        }
    }

    /// Writes `log` into `file`, an image like this one, and its GUID into the headers.
    pub fn put_log(&self, file: &mut [u8], log: &Log) {
        let region = log.encode(self.log_bytes as usize);
        put(file, self.log_at() as usize, &region);
        let logged = Self { log_guid: log.guid, ..self.clone() };
        for (at, sequence) in HEADERS_AT.into_iter().zip(self.sequences) {
            put(file, at as usize, &logged.header(sequence));
        }
    }
}

/// Parses a GUID: its first three groups are stored as little-endian numbers.
pub fn guid(text: &str) -> [u8; 16] {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16).unwrap();
    assert_eq!(digits.len(), 32, "{text}");
    swap(number.to_be_bytes())
}

/// Returns a GUID as text in braces, as parent locators contain it.
pub fn braced(guid: [u8; 16]) -> String {
    let digits: String = swap(guid).iter().map(|byte| format!("{byte:02x}")).collect();
    let groups = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    format!("{{{}}}", groups.join("-"))
}

fn swap(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

/// Copies `bytes` to offset `at`.
pub fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Computes the checksum of a structure again: a header, a region table or an entry of the log.
pub fn seal(structure: &mut [u8]) {
    structure[4..8].fill(0);
    let sum = crc32c(structure);
    put(structure, 4, &sum.to_le_bytes());
}

/// CRC-32C (RFC 3720, appendix B.4).
pub fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    static TABLE: std::sync::LazyLock<[u32; 256]> = std::sync::LazyLock::new(|| {
        std::array::from_fn(|byte| {
            (0..8).fold(byte as u32, |sum, _| (sum >> 1) ^ ((sum & 1) * POLYNOMIAL))
        })
    });
    !bytes.iter().fold(!0, |sum, &byte| (sum >> 8) ^ TABLE[(sum as u8 ^ byte) as usize])
}
