//! The parent of a differencing disk.
//!
//! ```text
//!   relative_path         .\base.vhdx                     relative to the child's directory
//!   volume_path           \\?\Volume{…}\disks\base.vhdx   in the child's directory, if it is there
//!   absolute_win32_path   C:\disks\base.vhdx              the same
//! ```
//!
//! The paths are tried in this order (MS-VHDX 2.6.2.6.3). The parent's header has the
//! `DataWriteGuid` that the child records as `parent_linkage` or, while the parent is merged with
//! its own, `parent_linkage2`.

use super::guid::Guid;
use super::header::Headers;
use super::locator::{self, Locator};
use crate::error::{Error, Result};
use crate::formats::named_parent::{self, ROLE};
use crate::model::format::Format;
use crate::model::layer::ParentReference;
use crate::open::OpenContext;

/// Returns the paths that the locator has, in the order in which they are tried.
pub(super) fn names(locator: &Locator) -> Vec<String> {
    let keys = [locator::RELATIVE, locator::VOLUME, locator::ABSOLUTE];
    let mut names: Vec<String> = Vec::new();
    for name in keys.into_iter().filter_map(|key| locator.get(key)) {
        if !name.is_empty() && names.iter().all(|other| other != name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// Locates the parent that `locator` names. Returns the `DataWriteGuid` that it has to have as well.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the locator has no name or no identifier. If the parent
/// is needed: [`Io`](crate::ErrorKind::Io) or [`Refused`](crate::ErrorKind::Refused) if it cannot be
/// opened, [`Invalid`](crate::ErrorKind::Invalid) if the files with its names have other
/// identifiers.
pub(super) fn locate(
    locator: &Locator,
    context: &OpenContext<'_>,
) -> Result<(ParentReference, Option<Guid>)> {
    let (names, linkages) = (names(locator), locator.linkages());
    if names.is_empty() {
        return Err(Error::corrupt(locator::STRUCTURE, "it has no path of the parent"));
    }
    if linkages.is_empty() && !context.ignore_content_id {
        let message = "it has no parent_linkage, the identifier of the parent";
        return Err(Error::corrupt(locator::STRUCTURE, message));
    }
    let mut linkage = linkages.first().copied();
    let texts: Vec<_> = linkages.iter().map(ToString::to_string).collect();
    let wanted = format!("whose {ROLE} has the data write GUID {}", texts.join(" or "));
    let parent = named_parent::locate(&names, Format::Vhdx, &wanted, context, |source| {
        let guid = match Headers::read(source).and_then(Headers::choose) {
            Ok((_, header)) => header.data_write,
            Err(error) if error.is_storage_failure() => return Err(error),
            Err(error) => return Ok(Err(error.to_string())),
        };
        let found = linkages.iter().copied().find(|&linkage| linkage == guid);
        linkage = found.or(linkage);
        Ok(found.map(|_| ()).ok_or_else(|| format!("its data write GUID is {guid}")))
    })?;
    Ok((parent, linkage))
}
