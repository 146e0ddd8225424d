//! The two directories, of which one is active.
//!
//! ```text
//!   0                   8             16
//!   ┌───────────────────┬─────────────┬─────────────┬───┐
//!   │ sequence number   │ chunk of    │ chunk of    │ … │
//!   │                   │ table 0     │ table 1     │   │
//!   └───────────────────┴─────────────┴─────────────┴───┘
//! ```

use super::header::Header;
use super::read;
use crate::error::{Error, Result};
use crate::formats::holes::require_stored;
use crate::open::limits::Limits;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use zerocopy::byteorder::big_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

/// How messages call a directory.
pub(super) const DIRECTORY: &str = "ASIF directory";

/// Length in bytes of the sequence number, and of each entry.
const ENTRY: u64 = 8;

/// The active directory.
#[derive(Debug)]
pub(super) struct Directory {
    /// Host offset.
    pub(super) at: u64,
    pub(super) sequence: u64,
    /// Why the other directory cannot be used; `None` if it can.
    pub(super) other: Option<String>,
    /// For each table the chunk of the file in which it is; 0 if there is none.
    tables: Vec<U64>,
    /// The chunks of tables, in ascending order.
    in_order: Vec<u64>,
    chunk_bytes: u64,
    /// Host bytes that are in no chunk of a table or of the disk: the header and the directories.
    reserved: [Range<u64>; 3],
}

impl Directory {
    /// Reads the directory with the higher sequence number. If one of the two is not within the
    /// file, reads the other.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if neither can be used, or if they have the same
    /// sequence number but differ; [`Limit`](crate::ErrorKind::Limit) if they are too large,
    /// [`Io`](crate::ErrorKind::Io).
    pub(super) fn open(source: &dyn Source, header: &Header, limits: &Limits) -> Result<Self> {
        let bytes = ENTRY * (header.tables() + 1);
        if bytes > limits.table_bytes {
            let found = format!("a directory of {bytes} bytes");
            return Err(
                Error::over_limit("table_bytes", found, limits.table_bytes).in_structure(DIRECTORY)
            );
        }
        let [first, second] = header.directories;
        let number = |at: u64| sequence_number(source, at, bytes, header);
        let (at, sequence, other) = match (number(first), number(second)) {
            (Ok(a), Ok(b)) => {
                if a == b && first != second {
                    require_equal(source, [first, second], bytes)?;
                }
                if b > a { (second, b, None) } else { (first, a, None) }
            }
            (Ok(a), Err(error)) if !error.is_storage_failure() => (first, a, Some(error)),
            (Err(error), Ok(b)) if !error.is_storage_failure() => (second, b, Some(error)),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let mut tables = read_words(source, at, bytes)?;
        tables.remove(0);
        let chunks = tables.iter().map(|chunk| chunk.get()).filter(|&chunk| chunk != 0);
        let mut in_order: Vec<_> = chunks.collect();
        in_order.sort_unstable();
        let directory = |at: u64| at..at.saturating_add(bytes);
        Ok(Self {
            at,
            sequence,
            other: other.map(|error| error.without_remedy()),
            tables,
            in_order,
            chunk_bytes: header.chunk_bytes,
            reserved: [0..header.header_end(), directory(first), directory(second)],
        })
    }

    /// Returns the number of tables, including those that do not exist.
    pub(super) fn len(&self) -> u64 {
        to_u64(self.tables.len())
    }

    /// Returns the chunk of the file in which table number `table` is; `None` if it does not exist,
    /// and all chunks of the disk that it would map are zeros.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if another table is in the same chunk, or the header
    /// or a directory; [`Unsupported`](crate::ErrorKind::Unsupported) for unknown bits of the
    /// entry.
    pub(super) fn table(&self, table: u64) -> Result<Option<u64>> {
        let entry = self.tables.get(to_usize(table)).map_or(0, |entry| entry.get());
        if entry == 0 {
            return Ok(None);
        }
        let at = self.at + ENTRY * (table + 1);
        if entry >> 55 != 0 {
            let message = format!("the entry of table {table}, {entry:#x}, has unknown bits");
            return Err(Error::unsupported(message).in_structure(DIRECTORY).at(at));
        }
        if self.is_reserved(entry) {
            let message =
                format!("table {table} is in chunk {entry}, in which the header or a directory is");
            return Err(Error::corrupt(DIRECTORY, message).at(at));
        }
        let first = self.in_order.partition_point(|&chunk| chunk < entry);
        if self.in_order.get(first + 1) == Some(&entry) {
            let message = format!("several tables are in the same chunk {entry} of the file");
            return Err(Error::corrupt(DIRECTORY, message).at(at));
        }
        Ok(Some(entry))
    }

    /// As [`table`](Self::table), but returns true if the entry is 0, without validating it.
    pub(super) fn is_absent(&self, table: u64) -> bool {
        self.tables.get(to_usize(table)).is_none_or(|entry| entry.get() == 0)
    }

    /// Returns true if the header or a directory is in `chunk` of the file.
    pub(super) fn is_reserved(&self, chunk: u64) -> bool {
        let start = chunk.saturating_mul(self.chunk_bytes);
        let end = start.saturating_add(self.chunk_bytes);
        self.reserved.iter().any(|other| other.start < end && start < other.end)
    }

    /// Returns true if a table is in `chunk` of the file.
    pub(super) fn is_table(&self, chunk: u64) -> bool {
        self.in_order.binary_search(&chunk).is_ok()
    }
}

/// Returns the sequence number of the directory at `at`.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the directory is not within the file, after the
/// header.
fn sequence_number(source: &dyn Source, at: u64, bytes: u64, header: &Header) -> Result<u64> {
    let corrupt = |message: String| Error::corrupt(DIRECTORY, message).at(at);
    if at < header.header_end() {
        return Err(corrupt("it overlaps the header".to_owned()));
    }
    if at.checked_add(bytes).is_none_or(|end| end > source.len()) {
        let error = corrupt(format!("its {bytes} bytes extend beyond the end of the file"));
        return Err(error.hint("the file is probably truncated"));
    }
    let mut number = U64::ZERO;
    read(source, number.as_mut_bytes(), at, DIRECTORY)?;
    Ok(number.get())
}

/// Requires that two directories, whose sequence numbers are the same, do not differ.
fn require_equal(source: &dyn Source, [first, second]: [u64; 2], bytes: u64) -> Result<()> {
    if read_words(source, first, bytes)? == read_words(source, second, bytes)? {
        return Ok(());
    }
    let message = format!(
        "the directories at {first:#x} and {second:#x} have the same sequence number, but differ"
    );
    Err(Error::corrupt(DIRECTORY, message).at(second))
}

/// Reads the sequence number and the entries of the directory at `at`.
fn read_words(source: &dyn Source, at: u64, bytes: u64) -> Result<Vec<U64>> {
    require_stored(source, DIRECTORY, at, bytes)?;
    let mut words = vec![U64::new_zeroed(); to_usize(bytes / ENTRY)];
    read(source, words.as_mut_bytes(), at, DIRECTORY)?;
    Ok(words)
}
