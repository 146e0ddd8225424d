//! The logical volume integrity sequence (3/8.8.2): whether the volume was closed, and the number
//! of its files.

use super::raw::{self, id};
use super::tag;
use super::volume::UdfVolume;
use crate::error::{Error, Result};
use crate::storage::number::to_index;
use crate::storage::source::read_if_inside;

/// Maximum number of descriptors that are read. Each change of a rewritable volume may have added
/// one.
const MAX_DESCRIPTORS: usize = 1000;

/// Number of bytes of a block that are read. Descriptors are shorter.
const MAX_DESCRIPTOR: u32 = 4096;

/// Contents of the last descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) closed: bool,
    pub(super) files: Option<u32>,
    pub(super) directories: Option<u32>,
}

/// Returns the contents of the last descriptor. It is not needed to read files, so damage only ends
/// the sequence.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) or [`Transient`](crate::ErrorKind::Transient) if reading
/// fails.
pub(super) fn counts(volume: &UdfVolume, logical: &raw::LogicalVolume) -> Result<Option<Counts>> {
    let size = volume.partitions.block_size;
    let mut extent = logical.integrity;
    let mut last = None;
    let mut seen = 0;
    loop {
        let mut block = vec![0; to_index(size.min(MAX_DESCRIPTOR))];
        let (mut left, mut sector) = (extent.length.get(), u64::from(extent.location.get()));
        let mut next = None;
        while left >= size {
            seen += 1;
            let offset = sector * u64::from(size);
            if seen > MAX_DESCRIPTORS {
                return Ok(last);
            }
            let inside = read_if_inside(&*volume.source, &mut block, offset);
            if !inside.map_err(|e| Error::io("cannot read", e).at(offset))? {
                return Ok(last);
            }
            if tag::tag(&block).is_none_or(|tag| tag.id.get() != id::INTEGRITY) {
                break;
            }
            let name = "logical volume integrity descriptor";
            let address = u32::try_from(sector).ok();
            let _ = tag::check(name, &block, &[id::INTEGRITY], offset, address, &volume.notes);
            let Some((head, rest)) = raw::read::<raw::Integrity>(&block) else { return Ok(None) };
            last = Some(parse(head, rest));
            next = Some(head.next);
            left -= size;
            sector += 1;
        }
        match next {
            Some(next) if next.length.get() > 0 => extent = next,
            _ => return Ok(last),
        }
    }
}

fn parse(head: &raw::Integrity, rest: &[u8]) -> Counts {
    // The implementation use follows two tables: free space and size of each partition.
    let tables = u64::from(head.partitions.get()) * 8;
    let bytes = usize::try_from(tables).ok().and_then(|tables| rest.get(tables..));
    let counts = bytes.and_then(raw::read::<raw::IntegrityUse>).map(|(counts, _)| counts);
    let known = |n: u32| (n != u32::MAX).then_some(n);
    Counts {
        closed: head.state.get() == 1,
        files: counts.and_then(|counts| known(counts.files.get())),
        directories: counts.and_then(|counts| known(counts.directories.get())),
    }
}
