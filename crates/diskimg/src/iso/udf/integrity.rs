//! The logical volume integrity sequence (3/8.8.2): was the volume closed, and how many files it has.

use super::raw::{self, id};
use super::tag;
use super::volume::UdfVolume;
use crate::storage::number::to_index;

/// Descriptors that are looked at: each change of a rewritable volume may have left one.
const MAX_DESCRIPTORS: usize = 1000;

/// What the last descriptor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) closed: bool,
    pub(super) files: Option<u32>,
    pub(super) directories: Option<u32>,
}

/// Reads to the last descriptor. Nobody needs it to read files, so that trouble with it only
/// makes it be absent.
pub(super) fn counts(volume: &UdfVolume, logical: &raw::LogicalVolume) -> Option<Counts> {
    let size = volume.partitions.block_size;
    let mut extent = logical.integrity;
    let mut last = None;
    let mut seen = 0;
    loop {
        let mut block = vec![0; to_index(size)];
        let (mut left, mut sector) = (extent.length.get(), u64::from(extent.location.get()));
        let mut next = None;
        while left >= size {
            seen += 1;
            let offset = sector * u64::from(size);
            if seen > MAX_DESCRIPTORS || volume.source.read_exact_at(&mut block, offset).is_err() {
                return last;
            }
            if tag::tag(&block).is_none_or(|tag| tag.id.get() != id::INTEGRITY) {
                break;
            }
            let name = "logical volume integrity descriptor";
            let place = u32::try_from(sector).ok();
            let _ = tag::check(name, &block, &[id::INTEGRITY], offset, place, &volume.notes);
            let (head, rest) = raw::read::<raw::Integrity>(&block)?;
            last = Some(read(head, rest));
            next = Some(head.next);
            left -= size;
            sector += 1;
        }
        match next {
            Some(next) if next.length.get() > 0 => extent = next,
            _ => return last,
        }
    }
}

fn read(head: &raw::Integrity, rest: &[u8]) -> Counts {
    // Two tables stand before it: free space and size of each partition.
    let tables = u64::from(head.partitions.get()) * 8;
    let told = usize::try_from(tables).ok().and_then(|tables| rest.get(tables..));
    let told = told.and_then(raw::read::<raw::IntegrityUse>).map(|(told, _)| told);
    let unknown = |n: u32| (n != u32::MAX).then_some(n);
    Counts {
        closed: head.state.get() == 1,
        files: told.and_then(|told| unknown(told.files.get())),
        directories: told.and_then(|told| unknown(told.directories.get())),
    }
}
