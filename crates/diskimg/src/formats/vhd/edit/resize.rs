//! Changing the size of a disk.
//!
//! The footer has the size of the disk and the location of the dynamic header, which has that of the
//! block allocation table. New ones are written behind the end of the file. While it has no footer at
//! its end, the copy at its start counts, which is written as a whole:
//!
//! ```text
//!   dynamic, differencing                         then
//!   zeros behind the old end of the disk          the old disk does not show them
//!   dynamic header, table, room for a footer      nothing refers to them
//!   footer at the start                           the disk has its new size
//!   footer at the end                             the file is complete
//!   blocks that are not used any more             they take no space
//!
//!   fixed
//!   footer at the new end
//!   length of the file, or zeros from the old end of the disk on
//! ```

use crate::error::{Error, Result};
use crate::formats::vhd::blocks::{Blocks, FREE};
use crate::formats::vhd::footer::{FOOTER_BYTES, Footer};
use crate::formats::vhd::geometry::Geometry;
use crate::formats::vhd::header::{HEADER_BYTES, Header};
use crate::formats::vhd::layer::Vhd;
use crate::formats::vhd::{MAX_SIZE, SECTOR};
use crate::model::flat::Preallocation;
use crate::model::image::Image;
use crate::model::layer::Layer;
use crate::model::mutable::ResizeRequest;
use crate::open::limits::Limits;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_u32, to_usize};
use std::ops::Range;

/// Changes the size of the disk.
///
/// # Errors
/// As [`MutableLayer::resize`](crate::model::mutable::MutableLayer::resize).
pub(super) fn resize(
    image: &Vhd,
    storage: &dyn Storage,
    request: &ResizeRequest<'_>,
    limits: &Limits,
) -> Result<()> {
    require_possible(image, storage, request)?;
    let footer = Footer {
        current_size: request.size,
        geometry: Geometry::exact_or_max(request.size / SECTOR),
        ..image.footer().clone()
    };
    let edits = match image.dynamic() {
        Some((header, blocks)) => {
            let mut edits = Edits::new();
            // From now on, the copy at the start counts.
            if image.damage().is_some() {
                let bytes = image.footer().encode().to_vec();
                edits.phase([Edit::Write { offset: 0, bytes }]);
            }
            dynamic(header, blocks, footer, storage.current_len(), limits, &mut edits)?;
            edits
        }
        None => fixed(image.disk_layout().size, &footer, storage.current_len()),
    };
    let file_len = storage.current_len();
    edits.apply(storage).map_err(|e| {
        if image.dynamic().is_none() && request.size > image.disk_layout().size {
            // The old footer must be the last sector again.
            let _ = storage.set_len(file_len);
        }
        Error::io("cannot modify the image", e)
    })
}

fn require_possible(image: &Vhd, storage: &dyn Storage, request: &ResizeRequest<'_>) -> Result<()> {
    let unsupported = |message: &str| Err(Error::unsupported(message.to_owned()));
    if request.preallocation != Preallocation::Off {
        return unsupported("images of format vpc cannot be resized with preallocation");
    }
    if storage.has_fixed_len() {
        return unsupported("a VHD on a device cannot be resized");
    }
    if !request.size.is_multiple_of(SECTOR) {
        return Err(Error::invalid("The new size must be a multiple of 512"));
    }
    if request.size > MAX_SIZE {
        return Err(Error::limit(format!("a VHD can have at most {MAX_SIZE} bytes")));
    }
    let old = image.disk_layout().size;
    if request.size > old && request.backing.map_or(0, Image::size) > old {
        return unsupported(
            "the disk is shorter than its parent, of which more would become visible",
        );
    }
    Ok(())
}

/// Returns the modifications of a fixed disk of `old` bytes, in a file of `file_len` bytes.
fn fixed(old: u64, footer: &Footer, file_len: u64) -> Edits {
    let size = footer.current_size;
    let end = size + FOOTER_BYTES;
    let mut edits = Edits::new();
    let last = Edit::Write { offset: size, bytes: footer.encode().to_vec() };
    // One write makes the file longer and puts the footer at its end.
    edits.phase([last]);
    if end < file_len {
        edits.phase([Edit::SetLen(end)]);
    }
    // The footer was there, and may have been behind a gap.
    let stale_end = file_len.min(size);
    if stale_end > old {
        edits.phase([Edit::Zero { offset: old, len: stale_end - old }]);
    }
    edits
}

/// Appends the modifications of a dynamic or differencing disk in a file of `file_len` bytes. The
/// footer will be as given, except for the location of the header.
fn dynamic(
    header: &Header,
    blocks: &Blocks,
    footer: Footer,
    file_len: u64,
    limits: &Limits,
    edits: &mut Edits,
) -> Result<()> {
    for (index, &sector) in (0..).zip(&blocks.table) {
        if sector != FREE {
            blocks.check_block(index, sector)?;
        }
    }
    let entries = to_u32(footer.current_size.div_ceil(blocks.block_bytes));
    let mut table = blocks.table.clone();
    let unused = table.split_off(table.len().min(to_usize(entries.into())));
    table.resize(to_usize(entries.into()), FREE);
    // Programs read whole sectors of the table.
    let table_bytes = (u64::from(entries) * 4).next_multiple_of(SECTOR);
    if table_bytes > limits.table_bytes.next_multiple_of(SECTOR) {
        let found = format!("a block allocation table of {table_bytes} bytes");
        return Err(Error::over_limit("table_bytes", found, limits.table_bytes));
    }
    let last = last_block(blocks);
    let blocks_end = last.as_ref().map_or(0, |last| last.end);
    let header_at = file_len.max(blocks_end).next_multiple_of(SECTOR);
    let table_at = header_at + HEADER_BYTES;
    let table_end = table_at + table_bytes;
    let end = table_end + FOOTER_BYTES;
    let header = Header { table_at, entries, ..header.clone() };
    let mut bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    bytes.resize(to_usize(table_bytes), 0xff);
    let footer = Footer { header_at: Some(header_at), ..footer }.encode().to_vec();
    if blocks_end > file_len {
        edits.phase([Edit::SetLen(blocks_end)]);
    }
    edits
        .phase(last.map(|last| Edit::Zero { offset: last.start, len: last.end - last.start }))
        .phase([
            Edit::SetLen(end),
            Edit::Write { offset: header_at, bytes: header.encode().to_vec() },
            Edit::Write { offset: table_at, bytes },
        ])
        .phase([Edit::Write { offset: 0, bytes: footer.clone() }])
        .phase([Edit::Write { offset: table_end, bytes: footer }]);
    let len = blocks.bitmap_bytes + blocks.block_bytes;
    edits.phase(unused.into_iter().filter(|&sector| sector != FREE).map(|sector| {
        let offset = u64::from(sector) * SECTOR;
        Edit::Discard { offset, len: len.min(file_len - offset.min(file_len)) }
    }));
    Ok(())
}

/// Returns the host range of what the last block has beyond the end of the disk, if it is allocated.
/// (In a differencing disk, its sectors are the parent's, which is not longer.)
fn last_block(blocks: &Blocks) -> Option<Range<u64>> {
    let within = blocks.size % blocks.block_bytes;
    let sector = *blocks.table.get(to_usize(blocks.size / blocks.block_bytes))?;
    if within == 0 || sector == FREE {
        return None;
    }
    let data = u64::from(sector) * SECTOR + blocks.bitmap_bytes;
    Some(data + within..data + blocks.block_bytes)
}
