//! Repairing an image in place.
//!
//! A repair has steps, each of which is complete before the next one begins, and after each of which
//! the image is checked again. No step changes what the guest or a snapshot reads;
//! snapshots beyond QEMU's limits, which neither program reads, are removed.
//!
//! ```text
//!   entries     L1 and L2 entries are corrected where that does not change what they mean
//!   snapshots   entries of the snapshot table that lack extra data get it, in a new table, which
//!               does not have what exceeds QEMU's limits
//!   bitmaps     damaged bitmaps are marked as outdated
//!   refcounts   refcounts and copied flags are set in place, or
//!               new refcount blocks and a new table are written to free clusters, and the header's
//!               first sector switches to them
//!   flags       the dirty and corrupt bits are cleared if nothing is left
//! ```
//!
//! Modifications in place are parts of sectors, each of which makes the image better on its own. What
//! cannot be repaired without a choice between guest data is left: entries that point beyond the end
//! of the file or between clusters, for example, and metadata that overlaps something else. No
//! cluster becomes free then, because the lost references may have been to it.

mod changes;
mod copied;
mod entries;
mod rebuild;
mod refcounts;
mod snapshots;
mod tables;

use super::check::{self, Examined};
use super::edit::change_header;
use super::header::{Autoclear, Incompatible, RawHeader};
use super::layer::Qcow2;
use crate::error::{Error, Result};
use crate::model::mutable::RepairRequest;
use crate::open::OpenContext;
use crate::report::check::{Code, Finding, RepairScope};
use crate::storage::edit::{Edits, Reopened, Storage};
use std::sync::Arc;

/// Repairs an image.
///
/// # Errors
/// Returns the errors of opening and checking the image, and [`Io`](crate::ErrorKind::Io) if writing
/// fails.
pub(super) fn repair(
    storage: &Arc<dyn Storage>,
    context: &OpenContext<'_>,
    request: &mut RepairRequest<'_>,
) -> Result<()> {
    let all = request.scope == RepairScope::All;
    let scope = request.scope;
    let examine = || Step::examine(storage, context, scope);
    let mut step = examine()?;
    if step.image.snapshots.is_err() && step.image.header.snapshot_count == 0 {
        // QEMU does not open an image in which an empty table is not aligned.
        step.change_header(|header| header.snapshots_offset = 0.into())?;
        step = examine()?;
    }
    if !step.image.header.autoclear.difference(Autoclear::all()).is_empty() {
        // What unknown bits say may be wrong after a repair. Changing the header clears them.
        step.change_header(|_| {})?;
        step = examine()?;
    }
    if all {
        if step.found.damage.entries {
            entries::correct(&step)?;
            step = examine()?;
        }
        if snapshots::shorten(&step)? {
            step = examine()?;
        }
        if step.found.damage.snapshots && snapshots::add_extra_data(&step)? {
            step = examine()?;
        }
        if step.found.damage.bitmaps {
            step.change_header(|header| {
                let flags = header.autoclear_features.get() & !Autoclear::BITMAPS.bits();
                header.autoclear_features = flags.into();
            })?;
            step = examine()?;
        }
    }
    let is_free_of_overlaps = refcounts::repair(&mut step, request)?;
    let flags = Incompatible::DIRTY | Incompatible::CORRUPT;
    if step.image.header.incompatible.intersects(flags) && is_free_of_overlaps {
        let step = examine()?;
        let counts = &step.found.counts;
        if counts.corruptions == 0 && counts.check_errors == 0 {
            step.change_header(|header| {
                let left = header.incompatible_features.get() & !flags.bits();
                header.incompatible_features = left.into();
            })?;
        }
    }
    Ok(())
}

impl RepairRequest<'_> {
    /// Reports damage that is left, and that a check does not find.
    fn left(&mut self, message: String) {
        (self.report)(Finding::of_check(Code::Corruption, message));
    }

    /// Reports what is being repaired.
    fn repaired(&mut self, code: Code, message: String) {
        (self.repaired)(Finding::of_check(code, message));
    }
}

/// An image as it is before a step of the repair.
struct Step {
    storage: Arc<dyn Storage>,
    image: Qcow2,
    /// The result of the check.
    found: Examined,
    scope: RepairScope,
}

impl Step {
    /// Opens and checks the image.
    fn examine(
        storage: &Arc<dyn Storage>,
        context: &OpenContext<'_>,
        scope: RepairScope,
    ) -> Result<Self> {
        let image = Qcow2::open(Reopened::of(storage), context)?;
        let found = check::examine(&image, &mut |_| {})?;
        Ok(Self { storage: Arc::clone(storage), image, found, scope })
    }

    /// Writes the header's first sector after `change` has changed it.
    fn change_header(&self, change: impl FnOnce(&mut RawHeader)) -> Result<()> {
        let mut edits = Edits::new();
        edits.phase([change_header(&*self.storage, change)?]);
        edits.apply(&*self.storage).map_err(modifying)
    }

    /// Makes what was written durable before what is written later.
    fn barrier(&self) -> Result<()> {
        self.storage.barrier().map_err(modifying)
    }

    /// Returns the host offset of the end of the last cluster of the file.
    fn end(&self) -> u64 {
        self.image.header.padded(self.storage.current_len())
    }
}

fn modifying(error: std::io::Error) -> Error {
    Error::io("cannot modify the image", error)
}
