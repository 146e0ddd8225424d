//! Repairing an image in place.

use super::blocks::is_index;
use super::layer::Vdi;
use crate::error::{Error, Result};
use crate::model::mutable::RepairRequest;
use crate::open::OpenContext;
use crate::report::check::RepairScope;
use crate::storage::edit::{Edit, Edits, Reopened, Storage};
use crate::storage::number::to_u64;
use std::sync::Arc;

/// Corrects the number of allocated blocks in the header, at which other programs append the next
/// block: to the index after the last one in use. Where blocks are invalid, or entries may be in use
/// that the disk does not need, it does not become lower.
pub(super) fn repair(
    storage: &Arc<dyn Storage>,
    context: &OpenContext<'_>,
    request: &mut RepairRequest<'_>,
) -> Result<()> {
    let image = Vdi::open(Reopened::of(storage), context)?;
    let (header, map) = (image.header(), &image.blocks().map);
    let used = map.iter().copied().filter(|&index| is_index(index));
    let is_valid = used.clone().all(|index| index < header.blocks);
    let wanted = used.max().map_or(0, |last| last.saturating_add(1));
    let may_change = match wanted > header.allocated {
        true => request.scope == RepairScope::All,
        false => to_u64(map.len()) == u64::from(header.blocks),
    };
    if !is_valid || !may_change || wanted == header.allocated {
        return Ok(());
    }
    let (offset, bytes) = (header.places.allocated, wanted.to_le_bytes().to_vec());
    let mut edits = Edits::new();
    edits.phase([Edit::Write { offset, bytes }]);
    edits.apply(&**storage).map_err(|e| Error::io("cannot modify the image", e))
}
