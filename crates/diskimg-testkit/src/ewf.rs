//! EWF images that the installed tools do not write: tables and segments of any size, other
//! checksums, sections in another order.
//!
//! Written from Joachim Metz's specification without code of diskimg.

use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write;

/// Length in bytes of a file header: the first section's descriptor follows.
pub const FILE_HEADER: usize = 13;

/// Length in bytes of a section's descriptor.
pub const DESCRIPTOR: usize = 76;

/// How the chunks are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunks {
    /// Compressed, unless that makes them longer.
    Compressed,
    /// With a checksum.
    Stored,
    /// In turn.
    Mixed,
}

/// Which program's structures an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// EnCase 6: `sectors`, `table` and `table2`.
    EnCase,
    /// EnCase 1: the chunks are in the section `table`, after the checksum of the entries.
    EnCase1,
    /// SMART: the chunks are in the section `table`, all of them are compressed, and entries have
    /// no checksum.
    Smart,
}

/// An image.
#[derive(Debug, Clone)]
pub struct Ewf {
    pub program: Program,
    /// The disk, whole sectors.
    pub disk: Vec<u8>,
    pub chunks: Chunks,
    pub sector_bytes: u32,
    pub chunk_sectors: u32,
    /// Sectors in the volume section; `None` for those of the disk.
    pub sectors: Option<u64>,
    /// Chunks in the volume section; `None` for those of the disk.
    pub chunk_count: Option<u32>,
    /// Chunks that a table has at most.
    pub table_chunks: usize,
    /// Tables that a segment has at most.
    pub segment_tables: usize,
    /// Subtracted from the offsets in tables, and recorded.
    pub base: u64,
    /// The identifier of the set.
    pub set: [u8; 16],
    /// Whether the tables have copies.
    pub table2: bool,
    /// Bytes after the checksum of the entries of EnCase 6's tables.
    pub table_padding: usize,
    /// Names and contents of sections of the first segment that precede all others.
    pub first_sections: Vec<(&'static str, Vec<u8>)>,
    /// Text of the section `header`.
    pub header: Option<String>,
    /// Text of the section `header2`.
    pub header2: Option<String>,
    /// The section `hash`.
    pub md5: Option<[u8; 16]>,
    /// The section `digest`.
    pub digest: Option<([u8; 16], [u8; 20])>,
    /// The section `error2`: first sectors and numbers of sectors.
    pub errors: Vec<(u32, u32)>,
}

/// Returns the Adler-32, as RFC 1950 defines it.
pub fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    for &byte in bytes {
        a = (a + u32::from(byte)) % 65521;
        b = (b + a) % 65521;
    }
    b << 16 | a
}

/// Returns the descriptor of a section of `len` bytes of contents at `at`.
pub fn descriptor(name: &str, at: usize, len: usize) -> Vec<u8> {
    let is_end = matches!(name, "next" | "done");
    let size = DESCRIPTOR + len;
    let next = if is_end { at } else { at + size };
    raw_descriptor(name, next as u64, if is_end { 0 } else { size as u64 })
}

/// Returns a descriptor with these values.
pub fn raw_descriptor(name: &str, next: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; DESCRIPTOR - 4];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[16..24].copy_from_slice(&next.to_le_bytes());
    bytes[24..32].copy_from_slice(&size.to_le_bytes());
    with_checksum(bytes)
}

/// Appends the checksum.
pub fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(adler32(&bytes).to_le_bytes());
    bytes
}

/// Returns the header of a segment file.
pub fn file_header(segment: u16) -> Vec<u8> {
    let number = segment.to_le_bytes();
    [b"EVF\x09\x0d\x0a\xff\0\x01", &number[..], &[0, 0]].concat()
}

/// Returns `bytes`, compressed by zlib.
pub fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A segment file that sections are appended to.
#[derive(Debug, Clone)]
pub struct Segment(pub Vec<u8>);

impl Segment {
    pub fn new(number: u16) -> Self {
        Self(file_header(number))
    }

    /// Appends a section.
    pub fn section(&mut self, name: &str, contents: &[u8]) {
        let descriptor = descriptor(name, self.0.len(), contents.len());
        self.0.extend(descriptor);
        self.0.extend(contents);
    }
}

impl Ewf {
    /// An image as EnCase 6 writes it.
    pub fn new(disk: Vec<u8>) -> Self {
        Self {
            program: Program::EnCase,
            disk,
            chunks: Chunks::Mixed,
            sector_bytes: 512,
            chunk_sectors: 64,
            sectors: None,
            chunk_count: None,
            table_chunks: 16_375,
            segment_tables: usize::MAX,
            base: 0,
            set: *b"0123456789abcdef",
            table2: true,
            table_padding: 0,
            first_sections: Vec::new(),
            header: None,
            header2: None,
            md5: None,
            digest: None,
            errors: Vec::new(),
        }
    }

    /// Returns the bytes of a chunk.
    pub fn chunk_bytes(&self) -> usize {
        (self.chunk_sectors * self.sector_bytes) as usize
    }

    /// Returns the contents of the section `volume`.
    pub fn volume(&self) -> Vec<u8> {
        let chunks = self.disk.len().div_ceil(self.chunk_bytes().max(1)) as u32;
        let chunks = self.chunk_count.unwrap_or(chunks);
        let sectors = (self.disk.len() / self.sector_bytes.max(1) as usize) as u64;
        let sectors = self.sectors.unwrap_or(sectors);
        let smart = self.program == Program::Smart;
        let mut bytes = vec![0; if smart { 90 } else { 1048 }];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(4, &chunks.to_le_bytes());
        put(8, &self.chunk_sectors.to_le_bytes());
        put(12, &self.sector_bytes.to_le_bytes());
        if smart {
            put(0, &1u32.to_le_bytes());
            put(16, &(sectors as u32).to_le_bytes());
            put(85, b"SMART");
        } else {
            put(0, &[1]);
            put(16, &sectors.to_le_bytes());
            put(36, &[3]);
            put(52, &[1]);
            put(56, &64u32.to_le_bytes());
            put(64, &self.set);
        }
        with_checksum(bytes)
    }

    /// Returns whether chunk `index` is compressed, and its stored bytes.
    fn stored(&self, index: usize, bytes: &[u8]) -> (bool, Vec<u8>) {
        let compress = match self.chunks {
            _ if self.program == Program::Smart => true,
            Chunks::Compressed => true,
            Chunks::Stored => false,
            Chunks::Mixed => index.is_multiple_of(2),
        };
        let compressed = zlib(bytes);
        match compress && (compressed.len() < bytes.len() || self.program == Program::Smart) {
            true => (true, compressed),
            false => (false, with_checksum(bytes.to_vec())),
        }
    }

    /// Returns a table with these entries: compressed or not, and host offset.
    pub fn table(&self, entries: &[(bool, u64)]) -> Vec<u8> {
        let mut bytes = (entries.len() as u32).to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(self.base.to_le_bytes());
        bytes.extend([0; 4]);
        bytes = with_checksum(bytes);
        let entry = |&(compressed, at): &(bool, u64)| {
            let offset = (at - self.base) as u32;
            (offset | u32::from(compressed) << 31).to_le_bytes()
        };
        let entries: Vec<u8> = entries.iter().flat_map(entry).collect();
        match self.program {
            Program::Smart => bytes.extend(entries),
            _ => bytes.extend(with_checksum(entries)),
        }
        bytes
    }

    /// Appends chunks and their table. `first` is the index of the first one.
    fn add_chunks(&self, segment: &mut Segment, first: usize, chunks: &[&[u8]]) {
        let (mut data, mut places) = (Vec::new(), Vec::new());
        for (index, chunk) in (first..).zip(chunks) {
            let (compressed, stored) = self.stored(index, chunk);
            places.push((compressed, data.len() as u64));
            data.extend(stored);
        }
        let table_len = 24 + 4 * chunks.len() + if self.program == Program::Smart { 0 } else { 4 };
        let mut data_at = (segment.0.len() + DESCRIPTOR) as u64;
        if self.program != Program::EnCase {
            data_at += table_len as u64;
        }
        places.iter_mut().for_each(|(_, at)| *at += data_at);
        let mut table = self.table(&places);
        if self.program == Program::EnCase {
            table.resize(table.len() + self.table_padding, 0);
            segment.section("sectors", &data);
            segment.section("table", &table);
            if self.table2 {
                segment.section("table2", &table);
            }
        } else {
            segment.section("table", &[table, data].concat());
        }
    }

    /// Appends the sections after the chunks of the last segment.
    fn add_end(&self, segment: &mut Segment) {
        if let Some(md5) = &self.md5 {
            segment.section("hash", &with_checksum([&md5[..], &[0; 16]].concat()));
        }
        if let Some((md5, sha1)) = &self.digest {
            segment.section("digest", &with_checksum([&md5[..], sha1, &[0; 40]].concat()));
        }
        if !self.errors.is_empty() {
            let mut header = (self.errors.len() as u32).to_le_bytes().to_vec();
            header.extend([0; 512]);
            let entry = |(first, count): &(u32, u32)| [first.to_le_bytes(), count.to_le_bytes()];
            let entries = self.errors.iter().flat_map(entry).flatten().collect();
            segment.section("error2", &[with_checksum(header), with_checksum(entries)].concat());
        }
    }

    /// Returns the segment files.
    pub fn build(&self) -> Vec<Vec<u8>> {
        let chunks: Vec<_> = self.disk.chunks(self.chunk_bytes().max(1)).collect();
        let tables: Vec<_> = chunks.chunks(self.table_chunks).collect();
        let parts: Vec<_> = match tables.is_empty() {
            true => vec![&[][..]],
            false => tables.chunks(self.segment_tables).collect(),
        };
        let (mut files, mut index) = (Vec::new(), 0);
        for (number, part) in (1..).zip(&parts) {
            let mut segment = Segment::new(number);
            if number == 1 {
                for (name, contents) in &self.first_sections {
                    segment.section(name, contents);
                }
                if let Some(text) = &self.header2 {
                    let units = text.encode_utf16().flat_map(u16::to_le_bytes);
                    let bytes: Vec<u8> = [0xff, 0xfe].into_iter().chain(units).collect();
                    segment.section("header2", &zlib(&bytes));
                    segment.section("header2", &zlib(&bytes));
                }
                if let Some(text) = &self.header {
                    segment.section("header", &zlib(text.as_bytes()));
                }
                segment.section("volume", &self.volume());
            } else if self.program == Program::EnCase {
                segment.section("data", &self.volume());
            }
            for table in *part {
                self.add_chunks(&mut segment, index, table);
                index += table.len();
            }
            if usize::from(number) == parts.len() {
                self.add_end(&mut segment);
                segment.section("done", &[]);
            } else {
                segment.section("next", &[]);
            }
            files.push(segment.0);
        }
        files
    }

    /// Returns the only segment file.
    pub fn build_one(&self) -> Vec<u8> {
        let mut files = self.build();
        assert_eq!(files.len(), 1);
        files.pop().unwrap()
    }
}

/// Returns the host offset of the descriptor of the `nth` section of this name, from 0.
pub fn find_section(file: &[u8], name: &str, nth: usize) -> usize {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(16, 0);
    let mut at = FILE_HEADER;
    let mut left = nth;
    loop {
        if file[at..at + 16] == padded[..] {
            if left == 0 {
                return at;
            }
            left -= 1;
        }
        let next = u64::from_le_bytes(file[at + 16..at + 24].try_into().unwrap()) as usize;
        assert!(next > at, "there is no section {name}");
        at = next;
    }
}

/// Changes the 32-bit number at `at` and the checksum, which follows `covered` and its bytes.
pub fn patch(file: &mut [u8], at: usize, value: u32, covered: std::ops::Range<usize>) {
    file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let checksum = adler32(&file[covered.clone()]).to_le_bytes();
    file[covered.end..covered.end + 4].copy_from_slice(&checksum);
}
