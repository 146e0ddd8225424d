//! The parent of a differencing disk.
//!
//! ```text
//!   locator W2ru   .\base.vhd             relative to the child's directory
//!   locator W2ku   C:\disks\base.vhd      in the child's directory, if it was moved
//!   locator MacX   file:///disks/base.vhd
//!   header         base.vhd               the name to display, which may be a path
//! ```
//!
//! The names are tried in this order; the parent is the file whose footer has the UUID that the
//! child records. (The header also has the time when the parent was last modified. Windows compares
//! it with the parent file's; copying changes that, so it is not compared here.)

use super::footer::Footers;
use super::header::{Header, Locator};
use crate::error::{Error, Result};
use crate::formats::named_parent::{self, ROLE};
use crate::model::format::Format;
use crate::model::layer::ParentReference;
use crate::open::OpenContext;
use crate::storage::source::Source;

/// Returns the names of the parent, in the order in which they are tried, without duplicates.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if there is none, [`Io`](crate::ErrorKind::Io) if a
/// locator cannot be read.
fn names(header: &Header, own: &dyn Source) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let mut damaged = None;
    for code in [Locator::RELATIVE, Locator::ABSOLUTE, Locator::MAC] {
        for locator in header.locators.iter().filter(|locator| locator.code == code) {
            match locator.name(own) {
                Ok(name) => names.extend(name),
                Err(error) if error.is_storage_failure() => return Err(error),
                Err(error) => damaged = damaged.or(Some(error)),
            }
        }
    }
    names.push(header.parent_name.clone());
    names.retain(|name| !name.is_empty());
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    if names.is_empty() {
        let none = || {
            Error::corrupt("VHD dynamic header", "a differencing disk without a name of its parent")
        };
        return Err(damaged.unwrap_or_else(none));
    }
    Ok(names)
}

/// Locates the parent of the differencing disk with this header, which is stored in `own`.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it has no name. If the parent is needed:
/// [`Io`](crate::ErrorKind::Io) or [`Refused`](crate::ErrorKind::Refused) if it cannot be opened,
/// [`Invalid`](crate::ErrorKind::Invalid) if the files with its names have other UUIDs.
pub(super) fn locate(
    header: &Header,
    own: &dyn Source,
    context: &OpenContext<'_>,
) -> Result<ParentReference> {
    let names = names(header, own)?;
    let wanted = format!("whose {ROLE} has the UUID {}", header.parent_uuid);
    named_parent::locate(&names, Format::Vhd, &wanted, context, |source| {
        let uuid = Footers::read(source)?.choose(true, false).map(|footer| footer.uuid);
        Ok(match uuid {
            Ok(uuid) if uuid == header.parent_uuid => Ok(()),
            Ok(uuid) => Err(format!("its UUID is {uuid}")),
            Err(error) => Err(error.to_string()),
        })
    })
}
