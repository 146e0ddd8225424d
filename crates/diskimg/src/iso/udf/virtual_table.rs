//! The virtual allocation table (VAT; UDF, 2.2.11): the locations of the blocks of a virtual
//! partition on write-once media. It is a file whose ICB is the last block recorded.

use super::allocation::Cost;
use super::entry::{self, Icb};
use super::partition::{BlockAddress, BlockRange};
use super::raw::{self, id};
use super::tag;
use super::text::dstring;
use super::volume::UdfVolume;
use crate::error::{Error, Result};
use crate::iso::content::ExtentSource;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use byteorder::{ByteOrder, LittleEndian};

/// Number of bytes at the end of the image that are searched for the ICB of the table. Unrecorded
/// blocks may be in the image as zeros.
const MAX_SEARCHED: u64 = 512 << 20;

/// Maximum number of blocks read at once.
const BLOCKS_PER_READ: u64 = 64;

/// File type of a table since UDF 2.00; earlier ones have file type 0.
const FILE_TYPE: u8 = 248;

/// Length in bytes of the fields after a table of UDF 1.50: an entity identifier, and the block of
/// the previous table.
const OLD_TRAILER: usize = 36;

/// Reads the table of the virtual partition stored in `range`, the blocks of the partition with the
/// map `base`.
pub(super) fn read(volume: &mut UdfVolume, base: u16, range: BlockRange) -> Result<Vec<u32>> {
    const NAME: &str = "virtual allocation table";
    let (icb, bytes) = find(volume, base, range)?;
    let corrupt = |what: &'static str| Error::corrupt(NAME, what).at(icb.offset);
    let entries = if icb.file_type() == FILE_TYPE {
        let (head, _) =
            raw::read::<raw::VirtualTable>(&bytes).ok_or_else(|| corrupt("it is truncated"))?;
        let info = volume.info_mut();
        info.label = dstring(&head.identifier);
        let known = |n: u32| (n != u32::MAX).then_some(n);
        info.files = known(head.files.get());
        info.directories = known(head.directories.get());
        bytes.get(head.header_length.get().into()..)
    } else {
        bytes.len().checked_sub(OLD_TRAILER).and_then(|end| bytes.get(..end))
    };
    let entries = entries.ok_or_else(|| corrupt("it is truncated"))?;
    let entries = entries.chunks_exact(4).map(LittleEndian::read_u32);
    Ok(entries.collect())
}

/// Finds the last virtual allocation table in the image. Returns its ICB and its contents.
fn find(volume: &UdfVolume, base: u16, range: BlockRange) -> Result<(Icb, Vec<u8>)> {
    let size = u64::from(volume.partitions.block_size);
    let start = u64::from(range.start);
    let mut end = (volume.source.len() / size).min(start + u64::from(range.blocks));
    let first = end.saturating_sub(MAX_SEARCHED / size).max(start);
    let mut cost = Cost::default();
    while end > first {
        let from = end.saturating_sub(BLOCKS_PER_READ).max(first);
        let mut bytes = vec![0; to_usize((end - from) * size)];
        let cannot_read = |e| Error::io("cannot read", e).at(from * size);
        volume.source.read_exact_at(&mut bytes, from * size).map_err(cannot_read)?;
        let blocks = bytes.chunks_exact(to_usize(size)).zip(from - start..);
        for (bytes, block) in blocks.collect::<Vec<_>>().into_iter().rev() {
            // Only blocks with the tag of a file entry are parsed, and read again for that.
            let tag = tag::tag(bytes).filter(|tag| u64::from(tag.location.get()) == block);
            let kinds = [id::FILE_ENTRY, id::EXTENDED_FILE_ENTRY];
            if let Some(tag) = tag.filter(|tag| kinds.contains(&tag.id.get()))
                && let Some(found) = table(volume, base, tag.location.get(), &mut cost)?
            {
                return Ok(found);
            }
        }
        end = from;
    }
    Err(Error::corrupt("virtual allocation table", "not found at the end of the image")
        .hint("the image may be truncated"))
}

/// Returns the table whose ICB is in block `block`, if there is one. Adds to `cost` what was read
/// to find out.
fn table(
    volume: &UdfVolume,
    base: u16,
    block: u32,
    cost: &mut Cost,
) -> Result<Option<(Icb, Vec<u8>)>> {
    const IDENTIFIER: &[u8] = b"*UDF Virtual Alloc Tbl";
    let icb = entry::read_one(volume, BlockAddress { partition: base, block }, cost)?;
    cost.require_within(volume.source.len()).map_err(|e| e.at(icb.offset))?;
    if !matches!(icb.file_type(), 0 | FILE_TYPE) {
        return Ok(None);
    }
    let extents = icb.extents(volume, cost)?;
    if icb.file_type() != FILE_TYPE {
        // Any file may have type 0: only its end is read.
        let mut identifier = [0; IDENTIFIER.len()];
        let Some(at) = extents.len.checked_sub(to_u64(OLD_TRAILER)) else { return Ok(None) };
        let source = ExtentSource::new(volume.source.clone(), &extents.list)?;
        let cannot_read = |e| Error::io("cannot read", e).at(icb.offset);
        source.read_exact_at(&mut identifier, at + 1).map_err(cannot_read)?;
        if identifier != *IDENTIFIER {
            return Ok(None);
        }
    }
    let bytes = icb.contents(volume, &extents)?;
    Ok(Some((icb, bytes)))
}
