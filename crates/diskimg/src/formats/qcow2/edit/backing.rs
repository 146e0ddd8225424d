//! Changing the name of the backing file, which is in the header's cluster ([`header_area`]).

use super::header_area;
use crate::error::{Error, Result};
use crate::formats::qcow2::extensions::BACKING_FORMAT;
use crate::formats::qcow2::header::MAX_BACKING_NAME;
use crate::model::backing::Backing;
use crate::storage::edit::{Edits, Storage};
use crate::storage::number::to_index;

/// Returns the modifications that make the header of an image with clusters of `cluster_size` bytes
/// refer to another backing file, or to none.
///
/// # Errors
/// As [`backing_edits`](crate::model::mutable::MutableLayer::backing_edits).
pub(super) fn edits(
    storage: &dyn Storage,
    cluster_size: u64,
    backing: Option<&Backing>,
) -> Result<Edits> {
    let name = backing.map_or(&[][..], |backing| backing.name.as_bytes());
    if name.len() > to_index(MAX_BACKING_NAME) {
        let message = format!("its name has more than {MAX_BACKING_NAME} bytes");
        return Err(Error::limit(message));
    }
    header_area::edits(storage, cluster_size, |new| {
        new.name = name.to_vec();
        match backing.and_then(|backing| backing.format.as_deref()) {
            Some(format) => new.set(BACKING_FORMAT, format.as_bytes(), true),
            None => new.remove(BACKING_FORMAT),
        }
        Ok(())
    })
}
