//! The virtual allocation table (UDF, 2.2.11): where the blocks of a virtual partition went on a
//! medium that can be written only once. It is a file, and its ICB is the last thing recorded.

use super::entry::{self, Icb};
use super::partition::{BlockAddress, BlockRange};
use super::raw::{self, id};
use super::tag;
use super::text::dstring;
use super::volume::UdfVolume;
use crate::error::{Error, Result};
use crate::storage::number::to_usize;

/// Bytes from the end of the image in which the table's ICB is looked for: what is not recorded
/// yet may be in the image as zeros.
const SEARCHED: u64 = 512 << 20;

/// Blocks that are read together.
const AT_ONCE: u64 = 64;

/// The file type of a table since UDF 2.00; before, it is 0.
const FILE_TYPE: u8 = 248;

/// What stands behind a table of UDF 1.50: an identifier, and the block of an older table.
const OLD_TRAILER: usize = 36;

/// The table of the partition in `run`, which is the map `base`'s.
pub(super) fn read(volume: &mut UdfVolume, base: u16, run: BlockRange) -> Result<Vec<u32>> {
    const NAME: &str = "virtual allocation table";
    let (icb, bytes) = find(volume, base, run)?;
    let corrupt = |what: &'static str| Error::corrupt(NAME, what).at(icb.offset);
    let entries = if icb.file_type() == FILE_TYPE {
        let (head, _) =
            raw::read::<raw::VirtualTable>(&bytes).ok_or_else(|| corrupt("it is cut short"))?;
        let info = volume.info_mut();
        info.label = dstring(&head.identifier);
        let known = |n: u32| (n != u32::MAX).then_some(n);
        info.files = known(head.files.get());
        info.directories = known(head.directories.get());
        bytes.get(head.header_length.get().into()..)
    } else {
        bytes.len().checked_sub(OLD_TRAILER).and_then(|end| bytes.get(..end))
    };
    let entries = entries.ok_or_else(|| corrupt("it is cut short"))?;
    let entries = entries.chunks_exact(4).map(|e| u32::from_le_bytes([e[0], e[1], e[2], e[3]]));
    Ok(entries.collect())
}

/// The last ICB in the image that can be a table's, and the file.
fn find(volume: &UdfVolume, base: u16, run: BlockRange) -> Result<(Icb, Vec<u8>)> {
    let size = u64::from(volume.partitions.block_size);
    let start = u64::from(run.start);
    let mut end = (volume.source.len() / size).min(start + u64::from(run.blocks));
    let first = end.saturating_sub(SEARCHED / size).max(start);
    while end > first {
        let from = end.saturating_sub(AT_ONCE).max(first);
        let mut bytes = vec![0; to_usize((end - from) * size)];
        let failed = |e| Error::io("cannot read", e).at(from * size);
        volume.source.read_exact_at(&mut bytes, from * size).map_err(failed)?;
        let blocks = bytes.chunks_exact(to_usize(size)).zip(from - start..);
        for (bytes, block) in blocks.collect::<Vec<_>>().into_iter().rev() {
            // Few blocks begin as a table's ICB does; those are read anew, as any file entry is.
            let tag = tag::tag(bytes).filter(|tag| u64::from(tag.location.get()) == block);
            let kinds = [id::FILE_ENTRY, id::EXTENDED_FILE_ENTRY];
            if let Some(tag) = tag.filter(|tag| kinds.contains(&tag.id.get()))
                && let Some(found) = table(volume, base, tag.location.get())?
            {
                return Ok(found);
            }
        }
        end = from;
    }
    Err(Error::corrupt("virtual allocation table", "there is none at the end of the image")
        .hint("the image may be cut short"))
}

/// The table whose ICB is in that block, if there is one.
fn table(volume: &UdfVolume, base: u16, block: u32) -> Result<Option<(Icb, Vec<u8>)>> {
    let icb = entry::read_one(volume, BlockAddress { partition: base, block })?;
    if !matches!(icb.file_type(), 0 | FILE_TYPE) {
        return Ok(None);
    }
    let bytes = icb.contents(volume)?;
    let name = b"*UDF Virtual Alloc Tbl";
    let at = bytes.len().checked_sub(OLD_TRAILER);
    let named = at.and_then(|at| bytes.get(at + 1..at + 1 + name.len()));
    Ok((icb.file_type() == FILE_TYPE || named == Some(name)).then_some((icb, bytes)))
}
