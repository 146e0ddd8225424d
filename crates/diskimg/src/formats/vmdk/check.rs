use super::sparse::SparseExtent;
use crate::vocabulary::check::{CheckReport, Finding};
use crate::vocabulary::error::Result;
pub(super) fn check(
    _: &SparseExtent,
    _: &mut dyn FnMut(Finding),
    _: &mut CheckReport,
) -> Result<()> {
    Ok(())
}
