//! Repairing an image in place.
//!
//! ```text
//!   written                                            then
//!   an L1 entry that refers to a lost table            if it is the only invalid entry
//!   an L2 entry that refers to a lost cluster          if it is the only invalid entry
//!   entries that refer to nothing: 0
//!   the flag for a check                               if nothing but leaks is left
//! ```
//!
//! QED has no record of free clusters, so that leaks remain.

use super::edit::set_features;
use super::header::Features;
use super::layer::Qed;
use crate::error::{Error, Result};
use crate::formats::two_level::repair::Survey;
use crate::model::layer::Layer;
use crate::model::mutable::RepairRequest;
use crate::open::OpenContext;
use crate::report::check::RepairScope;
use crate::storage::edit::{Edit, Edits, Reopened, Storage};
use std::sync::Arc;

/// Repairs the tables, and clears the flag that the image needs a check if nothing but leaks is
/// left.
pub(super) fn repair(
    storage: &Arc<dyn Storage>,
    context: &OpenContext<'_>,
    request: &mut RepairRequest<'_>,
) -> Result<()> {
    let open = || Qed::open(Reopened::of(storage), context);
    if request.scope == RepairScope::All {
        apply(storage, Survey::of(&open()?.tables, context.limits)?.restored_tables()?)?;
        apply(storage, Survey::of(&open()?.tables, context.limits)?.restored_clusters()?)?;
        loop {
            let removed = Survey::of(&open()?.tables, context.limits)?.removed();
            if removed.is_empty() {
                break;
            }
            apply(storage, removed)?;
        }
    }
    let image = open()?;
    let Some(counts) = image.check(&mut |_| {})? else { return Ok(()) };
    let features = image.header.features;
    let is_consistent = counts.corruptions == 0 && counts.check_errors == 0;
    if !features.contains(Features::NEED_CHECK) || !is_consistent {
        return Ok(());
    }
    apply(storage, vec![set_features(&**storage, features - Features::NEED_CHECK)?])
}

fn apply(storage: &Arc<dyn Storage>, phase: Vec<Edit>) -> Result<()> {
    let mut edits = Edits::new();
    edits.phase(phase);
    edits.apply(&**storage).map_err(|e| Error::io("cannot modify the image", e))
}
