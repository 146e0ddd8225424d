//! Resizing: making the disk smaller.
//!
//! What describes the end of the disk is left out of new tables, which take effect with the new size
//! at once. Snapshots keep their sizes and their data.

use super::Qcow2Mut;
use super::references::Tree;
use super::resize::DataFile;
use super::resized_bitmaps::ResizedBitmaps;
use super::shadow::Shadow;
use crate::error::{Error, Result};
use crate::formats::qcow2::tables::{
    ALL_STORED, COPIED, Cluster, OFFSET_MASK, read_words, to_bytes,
};
use crate::model::mutable::ResizeRequest;
use crate::storage::edit::{Edit, Edits};
use crate::storage::number::{to_u32, to_u64, to_usize};

/// Makes the disk smaller.
pub(super) fn shrink(image: &Qcow2Mut, request: &ResizeRequest<'_>) -> Result<()> {
    let size = request.size;
    let header = image.header();
    let data_file = DataFile::open(image, request)?;
    let bitmaps = ResizedBitmaps::find(image, size)?;
    let end = size.next_multiple_of(header.cluster_size());
    let max_bytes = image.old.limits.check_bytes;
    let none = Tree::new(&[], 0, max_bytes);
    let removed = Tree::new(&image.old.l1, end, max_bytes);
    let mut shadow = Shadow::open(image, none, removed)?;
    let entries = size.div_ceil(header.guest_bytes_per_l1_entry());
    let mut l1 = image.old.l1[..to_usize(entries)].to_vec();
    let tail = shorten_last_table(image, &mut shadow, &mut l1, size)?;
    shadow.release(header.l1.offset, header.l1.bytes(), 1)?;
    let l1_offset = shadow.store(&to_bytes(&l1))?;
    bitmaps.begin(image)?;
    shadow.switch(|raw| {
        raw.size = size.into();
        raw.l1_size = to_u32(entries).into();
        raw.l1_table_offset = l1_offset.into();
    })?;
    let mut edits = Edits::new();
    edits.phase(tail);
    edits.apply(&*image.storage).map_err(|e| Error::io("cannot modify the image", e))?;
    if let Some(data_file) = data_file {
        data_file.shrink(size)?;
    }
    bitmaps.finish(image)?;
    match image.storage.has_fixed_len() {
        true => Ok(()),
        false => move_tables(&image.reread()?),
    }
}

/// Moves the tables that were written to the end of the file to clusters that are free now, so that
/// the file can be cut.
fn move_tables(image: &Qcow2Mut) -> Result<()> {
    let header = image.header();
    let none = || Tree::new(&[], 0, image.old.limits.check_bytes);
    let mut shadow = Shadow::open(image, none(), none())?;
    shadow.move_blocks();
    let mut l1 = image.old.l1.clone();
    let is_own = |entry: &&mut u64| **entry & COPIED != 0 && **entry & OFFSET_MASK != 0;
    if let Some(entry) = l1.last_mut().filter(is_own) {
        let (offset, size) = (*entry & OFFSET_MASK, header.cluster_size());
        let words = read_words(&*image.storage, "L2 table", offset, size / 8)?;
        shadow.release(offset, size, 1)?;
        *entry = shadow.store(&to_bytes(&words))? | COPIED;
    }
    shadow.release(header.l1.offset, header.l1.bytes(), 1)?;
    let offset = shadow.store(&to_bytes(&l1))?;
    shadow.switch(|raw| raw.l1_table_offset = offset.into())
}

/// Removes the entries of clusters beyond the end of a disk of `size` bytes from the last L2 table,
/// and makes the rest of its last cluster zero, so that old data does not appear when the disk grows
/// again. Returns what is to be done when the disk has its new size.
fn shorten_last_table(
    image: &Qcow2Mut,
    shadow: &mut Shadow<'_>,
    l1: &mut [u64],
    size: u64,
) -> Result<Option<Edit>> {
    let layout = image.old.layout;
    let cluster_size = layout.cluster_size();
    let Some(entry) = l1.last_mut() else { return Ok(None) };
    let offset = *entry & OFFSET_MASK;
    if offset == 0 {
        return Ok(None);
    }
    let mut words = read_words(&*image.storage, "L2 table", offset, cluster_size / 8)?;
    let old = words.clone();
    let last = (size - 1) / cluster_size * cluster_size;
    let words_per_entry = if layout.extended { 2 } else { 1 };
    let index = to_usize((last >> layout.cluster_bits) & (layout.entries() - 1)) * words_per_entry;
    words[index + words_per_entry..].fill(0);
    let bitmap = if layout.extended { words[index + 1] } else { 0 };
    let mut tail = None;
    let rest = to_usize(size - last);
    if to_u64(rest) < cluster_size && !layout.data_file {
        let host = match layout.decode(words[index], bitmap) {
            Cluster::Data { offset } => Some((offset, cluster_size)),
            Cluster::Subclusters(subclusters) => {
                subclusters.offset.map(|offset| (offset, cluster_size))
            }
            Cluster::Compressed { offset, len } => Some((offset, len.into())),
            Cluster::Unallocated | Cluster::Zero { .. } => None,
        };
        let is_compressed =
            matches!(layout.decode(words[index], bitmap), Cluster::Compressed { .. });
        let is_own = words[index] & COPIED != 0 && !is_compressed;
        match host {
            Some((host, _)) if is_own && shadow.count_at(host)? == 1 => {
                let len = cluster_size - to_u64(rest);
                tail = Some(Edit::Zero { offset: host + to_u64(rest), len });
            }
            // Something else uses its bytes.
            Some((host, len)) => {
                let bytes = last_cluster(image, words[index], bitmap, last)?;
                if bytes[rest..].iter().any(|&byte| byte != 0) {
                    let mut bytes = bytes;
                    bytes[rest..].fill(0);
                    shadow.release(host, len, 1)?;
                    words[index] = shadow.store(&bytes)? | COPIED;
                    if layout.extended && is_compressed {
                        words[index + 1] = ALL_STORED;
                    }
                }
            }
            None => {}
        }
    }
    if words != old {
        shadow.release(offset, cluster_size, 1)?;
        *entry = match words.iter().all(|&word| word == 0) {
            true => 0,
            false => shadow.store(&to_bytes(&words))? | COPIED,
        };
    }
    Ok(tail)
}

/// Returns the bytes of the cluster at guest offset `at` that the image itself stores.
fn last_cluster(image: &Qcow2Mut, entry: u64, bitmap: u64, at: u64) -> Result<Vec<u8>> {
    let layout = image.old.layout;
    let mut bytes = vec![0; to_usize(layout.cluster_size())];
    let host = match layout.decode(entry, bitmap) {
        Cluster::Subclusters(subclusters) => subclusters.offset,
        Cluster::Data { offset } => Some(offset),
        _ => None,
    };
    let Some(offset) = host else {
        image.padded(at + layout.cluster_size()).read_at(&mut bytes, at)?;
        return Ok(bytes);
    };
    let stored = image.storage.current_len().saturating_sub(offset).min(to_u64(bytes.len()));
    let read = image.storage.read_exact_at(&mut bytes[..to_usize(stored)], offset);
    read.map_err(|e| Error::io("cannot read", e).at(offset))?;
    Ok(bytes)
}
