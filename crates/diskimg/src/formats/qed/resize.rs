//! Making a disk larger.
//!
//! ```text
//!   written                                          then
//!   zeros behind the old end of the disk, in its     the old disk has neither
//!     last cluster and in the tables
//!   the header's first sector                        the disk has its new size
//! ```

use super::header::{FEATURES_AT, HEADER, SIZE_AT, max_size};
use super::layer::Qed;
use crate::error::{Error, Result};
use crate::formats::two_level::edit::require_consistent;
use crate::model::extent::Kind;
use crate::model::flat::Preallocation;
use crate::model::image::Image;
use crate::model::layer::Layer;
use crate::model::mutable::ResizeRequest;
use crate::open::limits::Limits;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::to_usize;

/// Size of a sector in bytes.
const SECTOR: u64 = 512;

/// Changes the size of the disk.
///
/// # Errors
/// As [`MutableLayer::resize`](crate::model::mutable::MutableLayer::resize).
pub(super) fn resize(
    image: &Qed,
    storage: &dyn Storage,
    request: &ResizeRequest<'_>,
    limits: &Limits,
) -> Result<()> {
    let old = image.header.location.size;
    require_possible(image, request)?;
    require_consistent(&image.tables, limits)?;
    let mut hidden = image.tables.behind_end();
    let cluster_size = image.header.location.layout.cluster_size();
    let within = old % cluster_size;
    if within > 0 {
        let mut extents = Vec::new();
        image.map(old - within..old, &mut extents)?;
        if let Some(Kind::Data(host)) = extents.first().map(|extent| &extent.kind) {
            hidden.push((host.offset + within, cluster_size - within));
        }
    }
    let mut edits = Edits::new();
    edits
        .phase(hidden.into_iter().map(|(offset, len)| Edit::Zero { offset, len }))
        .phase([switch(storage, request.size)?]);
    edits.apply(storage).map_err(|e| Error::io("cannot modify the image", e))
}

fn require_possible(image: &Qed, request: &ResizeRequest<'_>) -> Result<()> {
    let location = &image.header.location;
    if request.preallocation != Preallocation::Off {
        let message = "images of format qed cannot be resized with preallocation";
        return Err(Error::unsupported(message));
    }
    if !request.size.is_multiple_of(SECTOR) {
        return Err(Error::invalid("The new size must be a multiple of 512"));
    }
    if request.size < location.size {
        return Err(Error::unsupported("images of format qed cannot be shrunk"));
    }
    let max = max_size(location.layout);
    if request.size > max {
        let message = format!("with its tables, the disk can have at most {max} bytes");
        return Err(Error::limit(message).hint("convert it to a new image"));
    }
    if request.size > location.size && request.backing.map_or(0, Image::size) > location.size {
        return Err(Error::unsupported(
            "the disk is shorter than its backing file, of which more would become visible",
        ));
    }
    Ok(())
}

/// Returns the modification that sets the size. Unknown autoclear features are cleared; there are no
/// known ones.
fn switch(storage: &dyn Storage, size: u64) -> Result<Edit> {
    let mut bytes = vec![0; to_usize(SIZE_AT + 8 - FEATURES_AT)];
    let read = storage.read_exact_at(&mut bytes, FEATURES_AT);
    read.map_err(|e| Error::io("cannot read it", e).in_structure(HEADER))?;
    bytes[16..24].fill(0);
    let at = to_usize(SIZE_AT - FEATURES_AT);
    bytes[at..].copy_from_slice(&size.to_le_bytes());
    Ok(Edit::Write { offset: FEATURES_AT, bytes })
}
