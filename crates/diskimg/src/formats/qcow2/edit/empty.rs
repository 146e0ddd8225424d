//! Making every cluster of the disk unallocated.
//!
//! ```text
//!   written                                     then
//!   zeros over the L1 table                     L2 tables and guest data are leaks
//!   refcounts of these clusters                 the image is clean; the clusters become holes
//!   entries of the refcount table               refcount blocks are leaks that describe nothing
//!   refcounts of these blocks                   the image is clean
//!   the length of the file
//! ```
//!
//! The backing file has the same content, so that it does not matter which entries of the L1 table
//! are zero after a crash.

use super::Qcow2Mut;
use super::references;
use super::space::{Space, TableLocation};
use super::store::release;
use crate::error::{Error, Result};
use crate::formats::qcow2::header::Autoclear;
use crate::formats::qcow2::tables::{Cluster, OFFSET_MASK, read_words};
use crate::storage::edit::{Edit, Edits};
use crate::storage::number::to_usize;
use std::ops::Range;

/// Number of host ranges that are released together.
const BATCH: usize = 1 << 16;

/// Makes every cluster unallocated. Snapshots and bitmaps are kept.
pub(super) fn make_empty(image: &Qcow2Mut) -> Result<()> {
    let mut space = Space::open(image)?;
    references::verify(image, &mut space)?;
    let header = image.header();
    let mut edits = Edits::new();
    if !header.autoclear.difference(Autoclear::all()).is_empty() {
        let l1 = TableLocation::of_l1(header);
        edits.phase([image.switch(header.size, l1, space.table_location())?]);
    }
    let zeros = vec![0; to_usize(header.l1.bytes())];
    edits.phase([Edit::Write { offset: header.l1.offset, bytes: zeros }]);
    edits.apply(&*image.storage).map_err(|e| Error::io("cannot modify the image", e))?;
    let mut unused = Vec::new();
    for entry in &image.old.l1 {
        let offset = entry & OFFSET_MASK;
        if offset != 0 {
            add_table(image, offset, &mut unused)?;
        }
        if unused.len() >= BATCH {
            release_all(image, &mut space, &mut unused)?;
        }
    }
    release_all(image, &mut space, &mut unused)?;
    space.trim()
}

/// Adds the host ranges of an L2 table and of what it refers to.
fn add_table(image: &Qcow2Mut, offset: u64, unused: &mut Vec<Range<u64>>) -> Result<()> {
    let layout = image.old.layout;
    let size = layout.cluster_size();
    unused.push(offset..offset + size);
    if layout.data_file {
        return Ok(());
    }
    let words = read_words(&*image.storage, "L2 table", offset, size / 8)?;
    let words_per_entry = if layout.extended { 2 } else { 1 };
    for entry in words.chunks_exact(words_per_entry) {
        let range = match layout.decode(entry[0], if layout.extended { entry[1] } else { 0 }) {
            Cluster::Data { offset } | Cluster::Zero { offset: Some(offset) } => {
                offset..offset + size
            }
            Cluster::Subclusters(subclusters) => match subclusters.offset {
                Some(offset) => offset..offset + size,
                None => continue,
            },
            Cluster::Compressed { offset, len } => offset..offset + u64::from(len),
            Cluster::Unallocated | Cluster::Zero { offset: None } => continue,
        };
        unused.push(range);
    }
    Ok(())
}

fn release_all(image: &Qcow2Mut, space: &mut Space, unused: &mut Vec<Range<u64>>) -> Result<()> {
    unused.sort_unstable_by_key(|range| range.start);
    release(space, &*image.storage, unused)?;
    unused.clear();
    Ok(())
}
