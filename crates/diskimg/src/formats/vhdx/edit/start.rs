//! What is written before guest data.
//!
//! ```text
//!   the changes in the log, in their places, and the length of the file
//!   the header that does not count, now with an empty log and new GUIDs: it counts
//!   the other header, the same
//! ```
//!
//! Until the first header is written, the log is valid, so that the changes are made again after a
//! crash.

use crate::error::{Error, Result};
use crate::formats::vhdx::guid::Guid;
use crate::formats::vhdx::header::{HEADERS_AT, Header, STRUCTURE};
use crate::formats::vhdx::log::{self, Overlay};
use crate::formats::vhdx::region::{self, TABLE_BYTES, TABLES_AT};
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::io;
use std::sync::Arc;

/// Bytes that are copied from the log at a time.
const CHUNK: u64 = 1 << 20;

/// Makes an image ready for modification: applies the log, and writes headers with new GUIDs. A
/// damaged copy of a structure is restored.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the log is damaged, [`Io`](crate::ErrorKind::Io) if
/// reading or writing fails.
pub(super) fn start(
    storage: &Arc<dyn Storage>,
    header: &Header,
    index: usize,
    damage: &[String],
) -> Result<()> {
    // Children of this disk record the old one: they do not fit it any more.
    start_with(storage, header, index, damage, Guid::random())
}

/// As [`start`], when guest data does not change, so that children still fit the disk.
///
/// # Errors
/// As [`start`].
pub(in super::super) fn restore(
    storage: &Arc<dyn Storage>,
    header: &Header,
    index: usize,
    damage: &[String],
) -> Result<()> {
    start_with(storage, header, index, damage, header.data_write)
}

fn start_with(
    storage: &Arc<dyn Storage>,
    header: &Header,
    index: usize,
    damage: &[String],
    data_write: Guid,
) -> Result<()> {
    let failed = |e| Error::io("cannot modify the image", e);
    let source: Arc<dyn Source> = storage.clone();
    if let Some(overlay) = log::replay(&source, header)? {
        apply(&overlay, &**storage).map_err(|e| failed(e).in_structure("VHDX log"))?;
    }
    let Some(sequence) = header.sequence.checked_add(1).filter(|&next| next < u64::MAX) else {
        let message = "its sequence number is the highest, so that no other can follow";
        return Err(Error::unsupported(message).in_structure(STRUCTURE));
    };
    let new = Header {
        sequence,
        data_write,
        file_write: Guid::random(),
        log: Guid::NIL,
        ..header.clone()
    };
    let again = Header { sequence: sequence + 1, ..new.clone() };
    let write = |at, header: &Header| Edit::Write { offset: at, bytes: header.encode().to_vec() };
    let mut edits = Edits::new();
    edits.phase([write(HEADERS_AT[1 - index], &new)]).phase([write(HEADERS_AT[index], &again)]);
    if !damage.is_empty() {
        edits.phase(damaged_table(&**storage));
    }
    edits.apply(&**storage).map_err(|e| failed(e).in_structure(STRUCTURE))
}

/// Writes what the log changes to its places, and makes it durable.
fn apply(overlay: &Overlay, storage: &dyn Storage) -> io::Result<()> {
    for range in overlay.changed_ranges() {
        if overlay.segment_at(range.start)?.hole {
            // Beyond the end, the file is extended with zeros, which take no space.
            let end = range.end.min(storage.current_len());
            if range.start < end {
                storage.write_zeros_at(range.start, end - range.start)?;
            }
            continue;
        }
        let mut at = range.start;
        while at < range.end {
            let mut bytes = vec![0; to_usize((range.end - at).min(CHUNK))];
            overlay.read_exact_at(&mut bytes, at)?;
            storage.write_all_at(&bytes, at)?;
            at += to_u64(bytes.len());
        }
    }
    if storage.current_len() < overlay.len() && !storage.has_fixed_len() {
        storage.set_len(overlay.len())?;
    }
    storage.barrier()
}

/// Returns what restores a region table that is damaged, if one of the two is.
fn damaged_table(source: &dyn Source) -> Option<Edit> {
    let tables = TABLES_AT.map(|at| {
        let mut bytes = vec![0; TABLE_BYTES];
        source.read_exact_at(&mut bytes, at).ok()?;
        region::parse(bytes.first_chunk()?, at).is_ok().then_some(bytes)
    });
    match tables {
        [Some(bytes), None] => Some(Edit::Write { offset: TABLES_AT[1], bytes }),
        [None, Some(bytes)] => Some(Edit::Write { offset: TABLES_AT[0], bytes }),
        _ => None,
    }
}
