//! The parent of a differencing image.
//!
//! ```text
//!   child                              parent
//!     linkage              ──────────►   uuidCreate
//!     parent modification  ──────────►   uuidModify, which changes whenever the parent is written
//! ```
//!
//! No file name is recorded: VirtualBox knows its disks by their UUIDs. It keeps children in
//! `Snapshots/{UUID}.vdi` below the directory of the virtual machine.

use super::header::{HEADER, Header};
use crate::error::{Error, Result};
use crate::formats::uuid_search::{self, Identity, Wanted};
use crate::model::format::Format;
use crate::model::layer::{ParentLocator, ParentReference};
use crate::open::OpenContext;
use crate::storage::source::Source;
use std::sync::Arc;

/// Returns the content IDs by which children may refer to an image: the UUID with that of its last
/// modification, and without it, which version 0.2 does not record.
pub(super) fn content_ids(header: &Header) -> Vec<String> {
    let uuid = header.uuid.to_string();
    vec![format!("{uuid} modification {}", header.modification), uuid]
}

/// Splits the first of the [`content_ids`] of a parent into the two UUIDs.
pub(super) fn split_content_id(id: &str) -> (&str, Option<&str>) {
    match id.split_once(" modification ") {
        Some((uuid, modification)) => (uuid, Some(modification)),
        None => (id, None),
    }
}

/// Returns the content ID that the parent must have; `None` if the child records no UUID.
pub(super) fn wanted_content_id(header: &Header) -> Option<String> {
    let (uuid, modification) = (header.parent, header.parent_modification);
    match (uuid.is_nil(), modification.is_nil()) {
        (true, _) => None,
        (false, true) => Some(uuid.to_string()),
        (false, false) => Some(format!("{uuid} modification {modification}")),
    }
}

/// Locates the parent of the differencing image with this header, which is stored in `own`.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it records no UUID. If the parent is needed: as
/// [`uuid_search::find`].
pub(super) fn locate(
    header: &Header,
    own: &dyn Source,
    context: &OpenContext<'_>,
) -> Result<ParentReference> {
    let uuid = header.parent.to_string();
    let reference = |name: String, locator| ParentReference {
        name,
        locator,
        format: Some(Format::Vdi.name().to_owned()),
    };
    if !context.with_parent {
        return Ok(reference(format!("{{{uuid}}}"), ParentLocator::ByUuid));
    }
    if header.parent.is_nil() {
        let message = "a differencing image without the UUID of its parent";
        return Err(Error::corrupt(HEADER, message).at(header.places.parent()));
    }
    let modification = header.parent_modification;
    let modification = (!modification.is_nil()).then(|| modification.to_string());
    let wanted = Wanted {
        kind: "a differencing image",
        extension: "vdi",
        uuid: &uuid,
        modification: modification.as_deref(),
    };
    let locator = uuid_search::find(&wanted, own, context, &identify)?;
    let name = locator.path().map_or(uuid, |path| path.display().to_string());
    Ok(reference(name, locator))
}

/// Returns the UUIDs of an image; `None` if it is not a VDI.
fn identify(source: Arc<dyn Source>) -> Option<Identity> {
    let header = Header::read(&*source).ok()?;
    let modification = Some(header.modification).filter(|uuid| !uuid.is_nil());
    Some(Identity {
        uuid: Some(header.uuid.to_string()),
        modification: modification.map(|uuid| uuid.to_string()),
        verbatim: Vec::new(),
    })
}
