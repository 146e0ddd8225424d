//! The checksums that the file records of its contents.
//!
//! ```text
//!   trailer: data checksum      of the data fork as it is stored
//!   table: checksum             of the table's chunks as they are decoded, in guest order, without
//!                               chunks of the type "ignore"
//!   trailer: master checksum    of the checksums of the tables, in order (`check.rs`)
//! ```

use super::chunks::Chunks;
use super::table::{TABLE, chunk_type};
use super::trailer::{TRAILER, Trailer};
use crate::report::check::{DigestedBytes, RecordedDigest};
use std::ops::Range;

/// Returns the digests whose kind is known. Those of tables are at the offset of the list of tables.
pub(super) fn recorded(trailer: &Trailer, chunks: &Chunks, list_at: u64) -> Vec<RecordedDigest> {
    let mut recorded = Vec::new();
    if let Some(value) = trailer.data_checksum.value() {
        let contents = DigestedBytes::Host { file: 0, range: trailer.data_fork.clone() };
        let structure = format!("{TRAILER}: data fork");
        recorded.push(RecordedDigest::new(structure, trailer.at, contents, value));
    }
    for (number, ranges) in ranges_by_table(chunks).into_iter().enumerate() {
        let table = &chunks.tables[number];
        if let Some(value) = table.checksum.value() {
            let structure = format!("{TABLE}: {}", table.label(number));
            let contents = DigestedBytes::Guest(ranges);
            recorded.push(RecordedDigest::new(structure, list_at, contents, value));
        }
    }
    recorded
}

/// Returns the guest ranges that the checksum of each table covers.
fn ranges_by_table(chunks: &Chunks) -> Vec<Vec<Range<u64>>> {
    let mut all: Vec<Vec<Range<u64>>> = vec![Vec::new(); chunks.tables.len()];
    for chunk in &chunks.chunks {
        if chunk.chunk_type == chunk_type::IGNORE {
            continue;
        }
        let Some(ranges) = all.get_mut(Chunks::table_of(chunk)) else { continue };
        match ranges.last_mut() {
            Some(last) if last.end == chunk.start => last.end = chunk.end,
            _ => ranges.push(chunk.start..chunk.end),
        }
    }
    all
}
