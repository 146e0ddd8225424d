//! The log of a VHDX, entry by entry.
//!
//! ```text
//!   entry   ┌────────┬─────────────┬───┬──────────┬──────────┬───┐
//!           │ header │ descriptors │ 0 │ data     │ data     │ … │  each a multiple of 4 KiB
//!           │ 64 B   │ 32 B each   │   │ 4 KiB    │ 4 KiB    │   │
//!           └────────┴─────────────┴───┴──────────┴──────────┴───┘
//!   log     ┌──────────────┬─────────┬─────────┬─────────┬───────────────┐
//!           │ … of entry 3 │         │ entry 1 │ entry 2 │ entry 3 …     │
//!           └──────────────┴─────────┴─────────┴─────────┴───────────────┘
//!                                    ▲ start: the tail of all entries
//! ```

use super::{put, seal};

/// The unit of the log, and of what it writes.
pub const PAGE: usize = 4096;

const HEADER_BYTES: usize = 64;
const DESCRIPTOR_BYTES: usize = 32;

/// A modification that is recorded in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Descriptor {
    /// A page is replaced.
    Data { at: u64, page: Vec<u8> },
    /// A range is zeroed.
    Zero { at: u64, len: u64 },
}

/// A function that damages an encoded entry.
pub type Damage = fn(&mut Vec<u8>);

/// An entry of the log. Everything that is an `Option` has the value that is right if it is `None`.
#[derive(Debug, Clone, Default)]
pub struct LogEntry {
    pub descriptors: Vec<Descriptor>,
    /// Sequence number, if not that of the entry before plus one.
    pub sequence: Option<u64>,
    /// Offset of the tail in the log, if not the start of the log.
    pub tail: Option<u32>,
    /// Index of the entry at which the tail is, if not the first one.
    pub tail_entry: Option<usize>,
    /// GUID, if not that of the log.
    pub guid: Option<[u8; 16]>,
    /// Length that the file had at least.
    pub flushed_file_offset: u64,
    /// Length that the file needs.
    pub last_file_offset: u64,
    /// Applied before the checksum is computed.
    pub damage: Option<Damage>,
    /// Applied after that: a write that was interrupted.
    pub tear: Option<Damage>,
    /// Pages that are left out after this entry.
    pub gap_after: usize,
}

/// A log.
#[derive(Debug, Clone)]
pub struct Log {
    pub guid: [u8; 16],
    /// Offset of the first entry in the log.
    pub start: usize,
    /// Sequence number of the first entry.
    pub first_sequence: u64,
    pub entries: Vec<LogEntry>,
    /// What the rest of the log contains.
    pub filler: u8,
}

impl Default for Log {
    fn default() -> Self {
        Self { guid: [0x10; 16], start: 0, first_sequence: 21, entries: Vec::new(), filler: 0 }
    }
}

impl Log {
    /// Appends an entry with these descriptors, for a file of `len` bytes.
    pub fn entry(self, len: u64, descriptors: Vec<Descriptor>) -> Self {
        let (flushed_file_offset, last_file_offset) = (len, len);
        self.push(LogEntry {
            descriptors,
            flushed_file_offset,
            last_file_offset,
            ..LogEntry::default()
        })
    }

    /// Appends an entry.
    pub fn push(mut self, entry: LogEntry) -> Self {
        self.entries.push(entry);
        self
    }

    /// Changes the last entry.
    pub fn with_last(mut self, change: impl FnOnce(&mut LogEntry)) -> Self {
        change(self.entries.last_mut().unwrap());
        self
    }

    /// Returns the offsets of the entries in a log of `len` bytes.
    pub fn offsets(&self, len: usize) -> Vec<usize> {
        let mut at = self.start;
        let mut next = |entry: &LogEntry| {
            let start = at % len;
            at += entry.len() + entry.gap_after * PAGE;
            start
        };
        self.entries.iter().map(&mut next).collect()
    }

    /// Returns the log's `len` bytes.
    pub fn encode(&self, len: usize) -> Vec<u8> {
        let mut region = vec![self.filler; len];
        let offsets = self.offsets(len);
        let mut sequence = self.first_sequence;
        for (entry, &at) in self.entries.iter().zip(&offsets) {
            sequence = entry.sequence.unwrap_or(sequence);
            let tail = entry.tail_entry.map_or(self.start, |index| offsets[index]) as u32;
            let bytes = entry.encode(sequence, entry.tail.unwrap_or(tail), self.guid);
            assert!(bytes.len() <= len);
            for (i, page) in bytes.chunks(PAGE).enumerate() {
                put(&mut region, (at + i * PAGE) % len, page);
            }
            sequence += 1;
        }
        region
    }
}

impl LogEntry {
    /// Returns the number of bytes before the first data sector.
    fn descriptor_bytes(&self) -> usize {
        (HEADER_BYTES + DESCRIPTOR_BYTES * self.descriptors.len()).next_multiple_of(PAGE)
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        let is_data = |descriptor: &&Descriptor| matches!(descriptor, Descriptor::Data { .. });
        self.descriptor_bytes() + PAGE * self.descriptors.iter().filter(is_data).count()
    }

    /// Returns true if it has no descriptors.
    pub fn is_empty(&self) -> bool {
        self.descriptors.is_empty()
    }

    fn encode(&self, sequence: u64, tail: u32, guid: [u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; self.descriptor_bytes()];
        put(&mut bytes, 0, b"loge");
        put(&mut bytes, 8, &(self.len() as u32).to_le_bytes());
        put(&mut bytes, 12, &tail.to_le_bytes());
        put(&mut bytes, 16, &sequence.to_le_bytes());
        put(&mut bytes, 24, &(self.descriptors.len() as u32).to_le_bytes());
        put(&mut bytes, 32, &self.guid.unwrap_or(guid));
        put(&mut bytes, 48, &self.flushed_file_offset.to_le_bytes());
        put(&mut bytes, 56, &self.last_file_offset.to_le_bytes());
        for (i, descriptor) in self.descriptors.iter().enumerate() {
            let at = HEADER_BYTES + DESCRIPTOR_BYTES * i;
            let file_offset = match descriptor {
                Descriptor::Data { at: file_offset, page } => {
                    assert_eq!(page.len(), PAGE);
                    put(&mut bytes, at, b"desc");
                    put(&mut bytes, at + 4, &page[PAGE - 4..]);
                    put(&mut bytes, at + 8, &page[..8]);
                    let mut sector = vec![0; PAGE];
                    put(&mut sector, 0, b"data");
                    put(&mut sector, 4, &((sequence >> 32) as u32).to_le_bytes());
                    put(&mut sector, 8, &page[8..PAGE - 4]);
                    put(&mut sector, PAGE - 4, &(sequence as u32).to_le_bytes());
                    bytes.extend(sector);
                    file_offset
                }
                Descriptor::Zero { at: file_offset, len } => {
                    put(&mut bytes, at, b"zero");
                    put(&mut bytes, at + 8, &len.to_le_bytes());
                    file_offset
                }
            };
            put(&mut bytes, at + 16, &file_offset.to_le_bytes());
            put(&mut bytes, at + 24, &sequence.to_le_bytes());
        }
        if let Some(damage) = self.damage {
            damage(&mut bytes);
        }
        seal(&mut bytes);
        if let Some(tear) = self.tear {
            tear(&mut bytes);
        }
        bytes
    }
}

/// Returns descriptors that make `after` of `before`: the pages in which they differ. `after` must
/// not be shorter.
pub fn changed_pages(before: &[u8], after: &[u8]) -> Vec<Descriptor> {
    let pages = after.chunks_exact(PAGE).enumerate();
    let differs = |i: usize, page: &[u8]| before.get(i * PAGE..(i + 1) * PAGE) != Some(page);
    pages
        .filter(|(i, page)| differs(*i, page))
        .map(|(i, page)| Descriptor::Data { at: (i * PAGE) as u64, page: page.to_vec() })
        .collect()
}
