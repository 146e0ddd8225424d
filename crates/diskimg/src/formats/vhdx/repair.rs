//! Repairing an image in place.

use super::edit;
use super::header::Headers;
use super::layer::Vhdx;
use crate::error::Result;
use crate::model::mutable::RepairRequest;
use crate::open::OpenContext;
use crate::report::check::RepairScope;
use crate::storage::edit::{Reopened, Storage};
use std::sync::Arc;

/// Makes the changes in the log in their places, and restores a damaged header or region table from
/// the other copy. Guest data does not change, so that children of the disk remain valid. A log that
/// is damaged is left: what it says is not known.
pub(super) fn repair(
    storage: &Arc<dyn Storage>,
    context: &OpenContext<'_>,
    request: &mut RepairRequest<'_>,
) -> Result<()> {
    if request.scope != RepairScope::All {
        return Ok(());
    }
    let reopened = Reopened::of(storage);
    let (index, header) = Headers::read(&*reopened)?.choose()?;
    let image = Vhdx::open(reopened, context)?;
    let is_whole = image.damage().is_empty() && image.log_entries() == 0;
    if is_whole || image.log_damage().is_some() {
        return Ok(());
    }
    let storage: Arc<dyn Storage> = Reopened::of(storage);
    edit::restore(&storage, &header, index, image.damage())
}
