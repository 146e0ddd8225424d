//! Repairing an image in place.

use super::edit::require_writable;
use super::header::{CLOSED, Header};
use super::layer::Parallels;
use crate::error::{Error, Result};
use crate::model::layer::Layer;
use crate::model::mutable::RepairRequest;
use crate::open::OpenContext;
use crate::storage::edit::{Edit, Edits, Reopened, Storage};
use std::sync::Arc;

/// Marks the image as closed if the check finds nothing else but leaks. Its format extension, which
/// may describe old data, is dropped. Bundles are not repaired.
pub(super) fn repair(
    storage: &Arc<dyn Storage>,
    context: &OpenContext<'_>,
    _: &mut RepairRequest<'_>,
) -> Result<()> {
    let image = Parallels::open(Reopened::of(storage), context)?;
    let Some(counts) = image.check(&mut |_| {})? else { return Ok(()) };
    let Some(single) = image.single() else { return Ok(()) };
    let header = &single.clusters.header;
    // That it was not closed counts as a corruption.
    let is_consistent = counts.corruptions == 1 && counts.check_errors == 0;
    if !header.is_dirty() || !is_consistent || require_writable(single).is_err() {
        return Ok(());
    }
    let closed = Header { in_use: CLOSED, extension_at: None, flags: 0, ..header.clone() };
    let mut edits = Edits::new();
    edits.phase([Edit::Write { offset: 0, bytes: closed.encode().to_vec() }]);
    edits.apply(&**storage).map_err(|e| Error::io("cannot modify the image", e))
}
