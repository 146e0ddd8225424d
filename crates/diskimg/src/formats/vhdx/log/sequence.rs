//! Finding the sequence of entries that counts, and applying it.

use super::super::header::Header;
use super::entry::{self, Change, Entry, Sectors};
use super::overlay::{Changes, Overlay};
use super::{SECTOR, STRUCTURE};
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u64};
use crate::storage::source::Source;
use std::sync::Arc;

/// Returns `source` with the changes that are in the log; `None` if the log is empty.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the log has no valid entry or the file was truncated,
/// [`Unsupported`](crate::ErrorKind::Unsupported) for another version of the log,
/// [`Limit`](crate::ErrorKind::Limit) if the changes need too much memory,
/// [`Io`](crate::ErrorKind::Io) if the log cannot be read.
pub(in super::super) fn replay(
    source: &Arc<dyn Source>,
    header: &Header,
) -> Result<Option<Overlay>> {
    if header.log.is_nil() {
        return Ok(None);
    }
    let log = header.log_range.clone();
    if header.log_version != 0 {
        let message = format!("version {} of the log", header.log_version);
        return Err(Error::unsupported(message).in_structure(STRUCTURE));
    }
    if log.is_empty() {
        return Err(Error::corrupt(STRUCTURE, "its length is 0, but it has a GUID"));
    }
    if log.end > source.len() {
        return Err(Error::corrupt(STRUCTURE, "it extends beyond the end of the file")
            .at(log.start)
            .hint("the file is probably truncated"));
    }
    let mut sectors = Sectors::new(&**source, log.clone());
    let (entries, why) = find_entries(&mut sectors, header)?;
    let Some(active) = active_sequence(&entries, sectors.count()) else {
        let why = why.unwrap_or("no entry is complete up to the one that it needs first");
        let message = format!("the header refers to it, but it has no valid entry: {why}");
        return Err(Error::corrupt(STRUCTURE, message)
            .at(log.start)
            .hint("changes to the metadata are lost; the image was perhaps copied while in use"));
    };
    let head = active[active.len() - 1];
    if head.flushed > source.len() {
        let message = format!(
            "the file had {} bytes when it was written, but has {}",
            head.flushed,
            source.len()
        );
        return Err(Error::corrupt(STRUCTURE, message)
            .at(log.start + u64::from(head.sector) * to_u64(SECTOR) + 48)
            .hint("the file was truncated"));
    }
    let mut changes = Changes::new();
    for entry in &active {
        apply(&mut sectors, entry, &mut changes)?;
    }
    Overlay::new(Arc::clone(source), log, changes, head.last, active.len()).map(Some)
}

/// Finds the valid entries of a log, in the order of their places. Returns why the last one that was
/// looked at is not valid as well.
fn find_entries(
    sectors: &mut Sectors<'_>,
    header: &Header,
) -> Result<(Vec<Entry>, Option<&'static str>)> {
    let (mut found, mut why) = (Vec::new(), None);
    let (mut index, count) = (0, u64::from(sectors.count()));
    while index < count {
        let stored = sectors.skip_hole(index);
        if stored > index {
            index = stored;
            continue;
        }
        if !entry::is_start(sectors.get(index)?) {
            index += 1;
            continue;
        }
        let sector = crate::storage::number::to_u32(index);
        match entry::verify(sectors, sector, header.log)? {
            Ok(entry) => {
                // No other entry starts within a valid one.
                index += u64::from(entry.sectors);
                found.push(entry);
            }
            Err(reason) => {
                why = Some(reason);
                index += 1;
            }
        }
    }
    Ok((found, why))
}

/// Returns the entries to apply, from the tail to the head: those of the sequence with the highest
/// number among those that contain the tail of their last entry.
fn active_sequence(entries: &[Entry], count: u32) -> Option<Vec<Entry>> {
    let next_of = |entry: &Entry| {
        let sector = (entry.sector + entry.sectors) % count;
        let next = entries.binary_search_by_key(&sector, |other| other.sector).ok()?;
        (entry.sequence.checked_add(1) == Some(entries[next].sequence)).then_some(next)
    };
    let mut is_continued = vec![false; entries.len()];
    for next in entries.iter().filter_map(next_of) {
        is_continued[next] = true;
    }
    let mut best: Option<(u64, usize, usize)> = None;
    // Entries do not overlap, and numbers increase: each belongs to one sequence.
    for first in (0..entries.len()).filter(|&first| !is_continued[first]) {
        let (mut last, mut len) = (first, 1);
        while let Some(next) = next_of(&entries[last]) {
            (last, len) = (next, len + 1);
        }
        let tail = entries[last].tail;
        let mut at = first;
        let start = (0..len).find_map(|n| {
            let found = (entries[at].sector == tail).then_some((at, len - n));
            at = next_of(&entries[at]).unwrap_or(at);
            found
        });
        let Some((start, len)) = start else { continue };
        if best.is_none_or(|(sequence, ..)| entries[last].sequence > sequence) {
            best = Some((entries[last].sequence, start, len));
        }
    }
    let (_, start, len) = best?;
    let sequence = std::iter::successors(Some(start), |&at| next_of(&entries[at]));
    Some(sequence.take(len).map(|at| entries[at]).collect())
}

/// Adds the changes of a valid entry.
fn apply(sectors: &mut Sectors<'_>, entry: &Entry, changes: &mut Changes) -> Result<()> {
    let (count, log) = (sectors.count(), sectors.log().clone());
    let mut data = entry.descriptor_sectors();
    for n in 0..entry.descriptors {
        let (sector, offset) = entry::place_of_descriptor(n);
        let at = (entry.sector + sector) % count;
        let bytes = sectors.get(at.into())?;
        let raw = bytes.get(to_index(offset)..).unwrap_or_default();
        let raw = raw.get(..entry::DESCRIPTOR_BYTES).unwrap_or_default();
        let change = entry::change(raw, entry.sequence, &log)
            .map_err(|why| Error::corrupt(STRUCTURE, why).at(log.start))?;
        match change {
            Change::Page(page) => {
                let descriptor = (u64::from(at) * to_u64(SECTOR) + u64::from(offset))
                    / to_u64(entry::DESCRIPTOR_BYTES);
                let descriptor = crate::storage::number::to_u32(descriptor);
                changes.page(page, (entry.sector + data) % count, descriptor);
                data += 1;
            }
            Change::Zeros(range) => changes.zeros(range),
        }
        changes.require_limit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sector: u32, sectors: u32, sequence: u64, tail: u32) -> Entry {
        Entry { sector, sectors, tail, sequence, descriptors: 0, flushed: 0, last: 0 }
    }

    fn active(entries: &[Entry]) -> Option<Vec<u64>> {
        let found = active_sequence(entries, 100)?;
        Some(found.iter().map(|entry| entry.sequence).collect())
    }

    #[test]
    fn the_sequence_with_the_highest_number_counts_from_its_tail_on() {
        // Two sequences, of which the older one has more entries.
        let older = [entry(0, 2, 5, 0), entry(2, 3, 6, 0), entry(5, 1, 7, 2)];
        assert_eq!(active(&older), Some(vec![6, 7]));
        let newer = [entry(10, 2, 20, 10), entry(12, 2, 21, 10)];
        assert_eq!(active(&[&older[..], &newer].concat()), Some(vec![20, 21]));
        // Neighbors whose numbers do not follow each other are different sequences.
        assert_eq!(active(&[entry(0, 2, 5, 0), entry(2, 2, 7, 2)]), Some(vec![7]));
        assert_eq!(active(&[entry(0, 2, 5, 0), entry(2, 2, 4, 2)]), Some(vec![5]));
        // The tail of the newest one is not in its sequence.
        assert_eq!(active(&[entry(0, 2, 5, 0), entry(4, 2, 7, 0)]), Some(vec![5]));
        // The tail is within an entry.
        assert_eq!(active(&[entry(0, 2, 5, 1)]), None);
        assert_eq!(active(&[]), None);
        // Around the end.
        assert_eq!(active(&[entry(3, 2, 9, 95), entry(95, 8, 8, 95)]), Some(vec![8, 9]));
        let last = entry(2, 2, u64::MAX, 0);
        assert_eq!(
            active(&[entry(0, 2, u64::MAX - 1, 0), last]),
            Some(vec![u64::MAX - 1, u64::MAX])
        );
        // The number after the highest one is not 0.
        assert_eq!(active(&[entry(0, 2, 0, 0), last]), Some(vec![0]));
    }
}
