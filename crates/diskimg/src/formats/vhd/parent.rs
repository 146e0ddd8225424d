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
use crate::error::{Error, ErrorKind, Result};
use crate::model::format::Format;
use crate::model::layer::{ParentLocator, ParentReference};
use crate::open::OpenContext;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::remedy::Remedy;
use crate::storage::source::Source;

/// How error messages call the parent.
const ROLE: &str = "parent";

/// Advice for a child whose parent cannot be opened.
const NEEDS_PARENT: &str = "a differencing disk holds only what differs from its parent: put the parent into the same \
     directory";

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

/// Returns the paths that a name may denote on this host, in the order in which they are tried: the
/// path itself, in the notation of this host, and its last component in the child's directory.
fn candidates(name: &str) -> Vec<String> {
    let url = name.strip_prefix("file://localhost").or_else(|| name.strip_prefix("file://"));
    let path = url.unwrap_or(name).replace('\\', "/");
    let path = path.strip_prefix("./").unwrap_or(&path);
    let last = path.rsplit('/').next().unwrap_or(path);
    // A drive or a share of Windows is not a directory of this host.
    let is_of_windows = path.starts_with("//") || path.get(1..2) == Some(":");
    let mut found = Vec::new();
    if !is_of_windows || cfg!(windows) {
        found.push(path.to_owned());
    }
    if last != path && !last.is_empty() {
        found.push(last.to_owned());
    }
    found
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
    let reference = |name: &str, locator| ParentReference {
        name: name.to_owned(),
        locator,
        format: Some(Format::Vhd.name().to_owned()),
    };
    if !context.with_parent {
        return Ok(reference(&names[0], ParentLocator::ByName));
    }
    let resolver = Resolver { lock: None, ..context.resolver };
    if resolver.policy == ExternalFiles::None {
        let message = format!("it names the {ROLE} '{}'", names[0]);
        return Err(Error::refused(message).with_remedy(Remedy::AllowFilesInSameDir));
    }
    let (mut first_error, mut other) = (None, None);
    for name in &names {
        for candidate in candidates(name) {
            let source = match resolver.open_path(ROLE, &candidate) {
                Ok(source) => source,
                Err(error) if error.kind() == ErrorKind::Transient => return Err(error),
                Err(error) => {
                    first_error = first_error.or(Some(error));
                    continue;
                }
            };
            let uuid = Footers::read(&*source)?.choose(true, false).map(|footer| footer.uuid);
            let is_parent = context.ignore_content_id
                || uuid.as_ref().is_ok_and(|uuid| *uuid == header.parent_uuid);
            if is_parent {
                return Ok(match source.path() {
                    Some(path) => reference(name, ParentLocator::AtPath(path.into())),
                    None => reference(&candidate, ParentLocator::ByName),
                });
            }
            let found = uuid.map_or_else(|e| e.to_string(), |uuid| format!("its UUID is {uuid}"));
            other = other.or_else(|| Some(format!("'{candidate}' is not it: {found}")));
        }
    }
    let wanted = format!("a differencing disk, whose {ROLE} has the UUID {}", header.parent_uuid);
    Err(match (other, first_error) {
        (Some(other), _) => Error::invalid(format!("{wanted}; {other}"))
            .hint("the parent was replaced by another disk, or the child was moved without it")
            .with_remedy(Remedy::IgnoreContentId),
        (None, Some(error)) => error.hint(NEEDS_PARENT),
        (None, None) => Error::invalid(wanted).hint(NEEDS_PARENT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn paths_of_windows_are_searched_in_the_directory_of_the_child() {
        for (name, paths) in [
            (".\\base.vhd", &["base.vhd"][..]),
            ("..\\disks\\base.vhd", &["../disks/base.vhd", "base.vhd"]),
            ("C:\\disks\\base.vhd", &["base.vhd"]),
            ("\\\\server\\share\\base.vhd", &["base.vhd"]),
            ("\\disks\\base.vhd", &["/disks/base.vhd", "base.vhd"]),
            ("file:///disks/base.vhd", &["/disks/base.vhd", "base.vhd"]),
            ("base.vhd", &["base.vhd"]),
            ("dir\\", &["dir/"]),
        ] {
            assert_eq!(candidates(name), paths, "{name}");
        }
    }
}
