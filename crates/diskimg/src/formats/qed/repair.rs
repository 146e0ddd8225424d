//! Repairing an image in place.

use super::edit::set_features;
use super::header::Features;
use super::layer::Qed;
use crate::error::{Error, Result};
use crate::model::layer::Layer;
use crate::model::mutable::RepairRequest;
use crate::open::OpenContext;
use crate::storage::edit::{Edits, Reopened, Storage};
use std::sync::Arc;

/// Clears the flag that the image needs a check, if the check finds nothing but leaks. QED has no
/// record of free clusters, so that leaks remain.
pub(super) fn repair(
    storage: &Arc<dyn Storage>,
    context: &OpenContext<'_>,
    _: &mut RepairRequest<'_>,
) -> Result<()> {
    let image = Qed::open(Reopened::of(storage), context)?;
    let features = image.header.features;
    let Some(counts) = image.check(&mut |_| {})? else { return Ok(()) };
    let is_consistent = counts.corruptions == 0 && counts.check_errors == 0;
    if !features.contains(Features::NEED_CHECK) || !is_consistent {
        return Ok(());
    }
    let mut edits = Edits::new();
    edits.phase([set_features(&**storage, features - Features::NEED_CHECK)?]);
    edits.apply(&**storage).map_err(|e| Error::io("cannot modify the image", e))
}
