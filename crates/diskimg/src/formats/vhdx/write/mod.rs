//! Creating a VHDX.

use crate::error::{Error, Result};
use crate::model::target::{CreateRequest, TargetSpec};

/// Specifies a new image.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported): VHDX is not written yet.
pub(super) fn create(_: CreateRequest<'_>) -> Result<Box<dyn TargetSpec>> {
    Err(Error::unsupported("VHDX images cannot be created"))
}
