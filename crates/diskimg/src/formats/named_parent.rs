//! The parent of a differencing disk of Windows, which is found by the names that the child records.
//!
//! ```text
//!   .\base.vhd             relative to the child's directory
//!   C:\disks\base.vhd      in the child's directory, if it was moved
//! ```
//!
//! The parent is the first file with one of the names that has the identifier that the child
//! records.

use crate::error::{Error, ErrorKind, Result};
use crate::model::format::Format;
use crate::model::layer::{ParentLocator, ParentReference};
use crate::open::OpenContext;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::remedy::Remedy;
use crate::storage::source::Source;

/// How error messages call the parent.
pub(crate) const ROLE: &str = "parent";

/// Advice for a child whose parent cannot be opened.
const NEEDS_PARENT: &str = "a differencing disk holds only what differs from its parent: put the parent into the same \
     directory";

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

/// Locates the parent of a differencing disk in `format` that records `names`, of which there is at
/// least one: the first file for which `identify` returns `Ok`. It returns in words why a file is
/// not the parent; `wanted` says what the parent must have. If content IDs are ignored and no file is
/// the parent, it is the first file with one of the names.
///
/// # Errors
/// If the parent is needed: [`Io`](crate::ErrorKind::Io) or
/// [`Refused`](crate::ErrorKind::Refused) if it cannot be opened,
/// [`Invalid`](crate::ErrorKind::Invalid) if the files with its names are others, and the errors of
/// `identify`.
pub(crate) fn locate(
    names: &[String],
    format: Format,
    wanted: &str,
    context: &OpenContext<'_>,
    mut identify: impl FnMut(&dyn Source) -> Result<std::result::Result<(), String>>,
) -> Result<ParentReference> {
    let reference = |name: &str, locator| ParentReference {
        name: name.to_owned(),
        locator,
        format: Some(format.name().to_owned()),
    };
    let first = names.first().map_or("", |name| name);
    if !context.with_parent {
        return Ok(reference(first, ParentLocator::ByName));
    }
    let resolver = Resolver { lock: None, ..context.resolver };
    if resolver.policy == ExternalFiles::None {
        let message = format!("it names the {ROLE} '{first}'");
        return Err(Error::refused(message).with_remedy(Remedy::AllowFilesInSameDir));
    }
    let (mut first_error, mut other, mut first_file) = (None, None, None);
    for name in names {
        for candidate in candidates(name) {
            let source = match resolver.open_path(ROLE, &candidate) {
                Ok(source) => source,
                Err(error) if error.kind() == ErrorKind::Transient => return Err(error),
                Err(error) => {
                    first_error = first_error.or(Some(error));
                    continue;
                }
            };
            let identified = identify(&*source)?;
            let file = match source.path() {
                Some(path) => reference(name, ParentLocator::AtPath(path.into())),
                None => reference(&candidate, ParentLocator::ByName),
            };
            let Err(found) = identified else { return Ok(file) };
            first_file = first_file.or(Some(file));
            other = other.or_else(|| Some(format!("'{candidate}' is not it: {found}")));
        }
    }
    if let Some(file) = first_file.filter(|_| context.ignore_content_id) {
        return Ok(file);
    }
    let wanted = format!("a differencing disk, {wanted}");
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
