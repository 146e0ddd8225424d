//! Whether the grain directory and its redundant copy describe the same disk. Which of them is read
//! depends on the reader: QEMU uses the first one only, others the copy where the first one has no
//! table, and VirtualBox refuses an image in which they differ.

use super::header::Header;
use super::{SECTOR, read};
use crate::error::Result;
use crate::formats::inspect::Subject;
use crate::report::inspection::{Code, Inspection};
use crate::storage::number::to_usize;
use std::borrow::Cow;
use std::ops::Range;

/// Maximum number of grain tables that are compared: those of a disk of 16 TiB with grains of the
/// usual size. Tables that are holes in the file, as in an image without data, do not count.
const MAX_TABLES: u64 = 1 << 19;

/// Compares the directories and the tables of the extent with this header, whose own location of
/// the directory is valid.
pub(super) fn compare(subject: &Subject<'_>, header: &Header, found: &mut Inspection) {
    let Some(copy) = header.redundant() else { return };
    let difference = difference(subject, header, copy);
    match difference.unwrap_or_else(|error| Some(Cow::Owned(error.without_remedy()))) {
        None => {}
        Some(message) => {
            let message = format!("the redundant grain directory: {message}");
            found.add(Code::CopiesDiffer, copy * SECTOR, message);
        }
    }
}

/// Describes the first difference.
fn difference(
    subject: &Subject<'_>,
    header: &Header,
    copy: u64,
) -> Result<Option<Cow<'static, str>>> {
    let count = header.tables();
    let stored = subject.len() / (u64::from(header.gtes) * 4);
    if count > subject.limits.table_bytes / 4 {
        return Ok(Some("too many tables to compare them".into()));
    }
    let directories =
        (directory(subject, header.gd_offset, count)?, directory(subject, copy, count)?);
    let mut compared = 0;
    let mut holes = [Hole::default(), Hole::default()];
    for (index, (first, second)) in directories.0.iter().zip(&directories.1).enumerate() {
        if first == second {
            continue;
        }
        if *first == 0 || *second == 0 {
            let message = format!("only one of the directories has grain table {index}");
            return Ok(Some(message.into()));
        }
        let places = holes.iter_mut().zip([*first, *second]);
        let in_holes = places.map(|(hole, sector)| hole.has_table(subject, header, sector));
        if in_holes.fold(true, |all, is_hole| all & is_hole) {
            continue;
        }
        compared += 1;
        // Each table has its own place, unless the image is damaged.
        if compared > stored {
            return Ok(Some("more tables than the file can have".into()));
        }
        if compared > MAX_TABLES {
            return Ok(Some("too many tables to compare them".into()));
        }
        if table(subject, header, *first)? != table(subject, header, *second)? {
            return Ok(Some(format!("the copies of grain table {index} differ").into()));
        }
    }
    Ok(None)
}

fn directory(subject: &Subject<'_>, sector: u64, count: u64) -> Result<Vec<u32>> {
    let mut bytes = vec![0; to_usize(count * 4)];
    read(&**subject.source, &mut bytes, sector * SECTOR, "grain directory")?;
    let (entries, _) = bytes.as_chunks::<4>();
    Ok(entries.iter().map(|entry| u32::from_le_bytes(*entry)).collect())
}

/// A hole of the file, which reads as zeros.
#[derive(Default)]
struct Hole(Range<u64>);

impl Hole {
    /// Returns true if the table at this sector is in a hole. Looks for another one only if the
    /// table is not in this one.
    fn has_table(&mut self, subject: &Subject<'_>, header: &Header, sector: u32) -> bool {
        let start = u64::from(sector) * SECTOR;
        let end = start + u64::from(header.gtes) * 4;
        if end > subject.len() {
            return false;
        }
        if !self.0.contains(&start) {
            let segment = subject.source.segment_at(start).ok().filter(|segment| segment.hole);
            self.0 = segment.map_or(0..0, |segment| start..segment.end);
        }
        self.0.contains(&start) && end <= self.0.end
    }
}

fn table(subject: &Subject<'_>, header: &Header, sector: u32) -> Result<Vec<u8>> {
    let mut bytes = vec![0; to_usize(u64::from(header.gtes) * 4)];
    read(&**subject.source, &mut bytes, u64::from(sector) * SECTOR, "grain table")?;
    Ok(bytes)
}
