//! Repairing an image in place.
//!
//! Each structure that is restored is a sector, or two of which only the checksum changes, and nothing
//! else is there: blocks, tables and names are compared with its place before.

use super::blocks::FREE;
use super::footer::{DiskType, FOOTER_BYTES, Footers};
use super::header::{HEADER_BYTES, Header};
use super::layer::Vhd;
use super::{SECTOR, read};
use crate::error::{Error, Result};
use crate::model::layer::Layer;
use crate::model::mutable::RepairRequest;
use crate::open::OpenContext;
use crate::report::check::{Code, Finding, RepairScope};
use crate::storage::edit::{Edit, Edits, Reopened, Storage};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::sync::Arc;

/// Restores a damaged copy of the footer of a dynamic or differencing disk from the other one, and
/// the checksum of a dynamic header whose fields are confirmed by others. If two copies of the footer
/// are valid but contradict each other, both are left.
pub(super) fn repair(
    storage: &Arc<dyn Storage>,
    context: &OpenContext<'_>,
    request: &mut RepairRequest<'_>,
) -> Result<()> {
    let source = Reopened::of(storage);
    let footers = Footers::read(&*source)?;
    if let Some(what) = footers.contradiction() {
        let message = format!("the footer and its copy at the start of the file differ: {what}");
        (request.report)(Finding::of_check(Code::Corruption, message));
        return Ok(());
    }
    if request.scope != RepairScope::All {
        return Ok(());
    }
    let image = Vhd::open(source.clone(), context)?;
    let Some((header, blocks)) = image.dynamic() else { return Ok(()) };
    let (mut is_sound, mut blocks_end) = (true, 0);
    for (index, &sector) in (0..).zip(&blocks.table).filter(|(_, sector)| **sector != FREE) {
        is_sound &= blocks.check_block(index, sector).is_ok();
        blocks_end = blocks_end.max(blocks.data_at(sector).saturating_add(blocks.block_bytes));
    }
    let header_at = image.footer().header_at.unwrap_or(0);
    let table_bytes = to_u64(blocks.table.len()) * 4;
    let places = [(header_at, HEADER_BYTES), (header.table_at, table_bytes)]
        .into_iter()
        .chain(header.locators.iter().map(|locator| (locator.offset, locator.len.into())));
    let mut metadata_end = 0;
    for (start, len) in places {
        is_sound &= start >= FOOTER_BYTES;
        metadata_end = metadata_end.max(start.saturating_add(len));
    }
    if !is_sound {
        return Ok(());
    }
    let mut edits = Edits::new();
    if image.header_damage().is_some() {
        if !is_confirmed(&image, header, header_at, &*source)? {
            return Ok(());
        }
        let bytes = Header::with_checksum(&*source, header_at)?;
        edits.phase([Edit::Write { offset: header_at, bytes: bytes.to_vec() }]);
    }
    edits.phase(restored_footer(&footers, &*source, blocks_end.max(metadata_end))?);
    edits.apply(&**storage).map_err(|e| Error::io("cannot modify the image", e))
}

/// Returns the modification that restores a copy of the footer. Everything else ends at host offset
/// `used_end`.
fn restored_footer(footers: &Footers, source: &dyn Source, used_end: u64) -> Result<Option<Edit>> {
    if footers.damage().is_none() {
        return Ok(None);
    }
    let mut bytes = vec![0; to_usize(FOOTER_BYTES)];
    let offset = match (&footers.head, &footers.tail) {
        // The end may be shorter than a sector.
        (None | Some(Err(_)), Some((at, Ok(_)))) => {
            let len = to_usize((source.len() - at).min(FOOTER_BYTES));
            read(source, &mut bytes[..len], *at, "VHD footer")?;
            0
        }
        (Some(Ok(_)), tail) => {
            read(source, &mut bytes, 0, "VHD footer")?;
            let last = source.len().saturating_sub(FOOTER_BYTES);
            match tail {
                Some((at, Err(_))) if at.is_multiple_of(SECTOR) => *at,
                // Nothing uses the last sector: it may be a footer without its first bytes.
                None if last >= used_end && last.is_multiple_of(SECTOR) => last,
                _ => source.len().max(used_end).next_multiple_of(SECTOR),
            }
        }
        _ => return Ok(None),
    };
    Ok((offset == 0 || offset >= used_end).then_some(Edit::Write { offset, bytes }))
}

/// Returns true if every field of the header that has a wrong checksum is what other structures and
/// the specification say, so that no field can be what is wrong.
fn is_confirmed(image: &Vhd, header: &Header, at: u64, source: &dyn Source) -> Result<bool> {
    // The names of a parent are not confirmed by anything.
    if image.footer().disk_type != DiskType::Dynamic {
        return Ok(false);
    }
    let blocks = image.disk_layout().size.div_ceil(header.block_bytes);
    let wanted = Header { table_at: at + HEADER_BYTES, ..header.clone() };
    let stored = Header::with_checksum(source, at)?;
    Ok(blocks == u64::from(header.entries)
        && wanted.locators.is_empty()
        && wanted.parent_name.is_empty()
        && wanted.parent_timestamp == 0
        && wanted.parent_uuid.0 == [0; 16]
        && wanted.encode() == stored)
}
