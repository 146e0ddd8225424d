//! Finding a parent by its UUID: VirtualBox's differencing images do not record a file name.
//!
//! ```text
//!   vm/base.vmdk                 ddb.uuid.image="1…"
//!   vm/x.vmdk ──► x-flat.vmdk    written by the guest: not a candidate
//!   vm/Snapshots/{…}.vmdk        ddb.uuid.parent="1…"
//! ```
//!
//! The files that the caller names are searched first, then those with the format's extension in the
//! directory of the image.
//!
//! A file that is found by its UUID in a directory is not trusted, because the UUID is part of the
//! file. For example, the guest controls the first bytes of `x-flat.vmdk` and may write a descriptor
//! there. Therefore a file that another image in its directory lists as a flat extent is not a
//! candidate, and a file found by UUID can refer only to files in its own directory
//! ([`ParentLocator::FoundByUuid`]).

use crate::error::{Error, Result};
use crate::model::layer::ParentLocator;
use crate::open::OpenContext;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::open::limits::Limits;
use crate::remedy::Remedy;
use crate::storage::source::{FileSource, HostFileId, ReadMode, Source};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How error messages call the parent.
const ROLE: &str = "parent";

/// Advice for a child whose parent cannot be opened.
pub(crate) const NEEDS_PARENT: &str =
    "a child holds only what differs from its parent: put the parent into the same directory";

/// The parent that is searched.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// What the child is: "a differencing image".
    pub(crate) kind: &'static str,
    /// Extension of the files in a directory that are candidates, without a dot.
    pub(crate) extension: &'static str,
    /// The UUID, in lower case.
    pub(crate) uuid: &'a str,
    /// The UUID of its last modification, in lower case: decides if several files have `uuid`.
    pub(crate) modification: Option<&'a str>,
}

impl Wanted<'_> {
    fn describe(&self) -> String {
        format!("{}, whose parent has the UUID {}", self.kind, self.uuid)
    }
}

/// What a file says about itself. UUIDs are in lower case.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    pub(crate) uuid: Option<String>,
    /// The UUID of its last modification.
    pub(crate) modification: Option<String>,
    /// Names of files that store guest bytes as they are, without their directories.
    pub(crate) verbatim: Vec<String>,
}

/// Reads what a file says about itself; `None` if it is not in the format.
pub(crate) type Identify<'a> = &'a dyn Fn(Arc<dyn Source>) -> Option<Identity>;

/// Searches the files that the caller names and the directory of `own` for an image with the UUID.
/// If the policy allows any file, also searches the parent directory, because VirtualBox keeps
/// differencing images in a subdirectory. If several images have the UUID, those with the
/// modification UUID are chosen. If the path of `own` is a symbolic link and nothing is found, also
/// searches around the link's target.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) if a file that the caller names cannot be opened,
/// [`Refused`](crate::ErrorKind::Refused) if the policy forbids a search,
/// [`Invalid`](crate::ErrorKind::Invalid) if no image or several images match,
/// [`Limit`](crate::ErrorKind::Limit) if none matches and some files were not examined.
pub(crate) fn find(
    wanted: &Wanted<'_>,
    own: &dyn Source,
    context: &OpenContext<'_>,
    identify: Identify<'_>,
) -> Result<ParentLocator> {
    if let Some(path) = choose(wanted, among_given(wanted, own, context, identify)?)? {
        return Ok(ParentLocator::Given(path));
    }
    // Candidates are not yet known to belong to the chain, so the read mode chosen for its files
    // does not apply to them.
    let (policy, read_mode) = (context.resolver.search, ReadMode::default());
    let resolver = Resolver { policy, read_mode, lock: None, ..context.resolver };
    if resolver.policy == ExternalFiles::None {
        let remedy = Remedy::AllowFilesInSameDir;
        return Err(Error::refused(wanted.describe()).with_remedy(remedy));
    }
    if resolver.image.is_none() {
        let hint = "open it by its path, with its parent beside it";
        return Err(Error::invalid(wanted.describe()).hint(hint));
    }
    let mut skipped = 0;
    for directory in resolver.directories() {
        let with_parent_dir = resolver.policy == ExternalFiles::Any;
        let siblings = Siblings::around(directory, with_parent_dir, wanted, context.limits);
        skipped += siblings.skipped;
        let found = siblings.with_uuid(wanted, own, resolver, identify);
        if let Some(path) = choose(wanted, found)? {
            return Ok(ParentLocator::FoundByUuid(path));
        }
    }
    if skipped > 0 {
        let found = format!("{}: {skipped} files beside it were not examined", wanted.describe());
        let max = context.limits.sibling_files;
        return Err(Error::over_limit("sibling_files", found, max));
    }
    let message =
        format!("{}: no .{} file beside it has this UUID", wanted.describe(), wanted.extension);
    let error = Error::invalid(message).hint(NEEDS_PARENT);
    Err(match resolver.policy {
        ExternalFiles::Any => error.with_remedy(Remedy::NameParents),
        _ => error.with_remedy(Remedy::SearchParentDirectory),
    })
}

/// Returns the one image that is found.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if there are several.
fn choose(wanted: &Wanted<'_>, mut found: Vec<Found>) -> Result<Option<PathBuf>> {
    let is_unmodified = |f: &Found| {
        wanted.modification.is_some() && f.modification.as_deref() == wanted.modification
    };
    if found.iter().any(is_unmodified) {
        found.retain(is_unmodified);
    }
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.path.clone())),
        several => {
            let paths: Vec<_> = several.iter().map(|f| f.path.display().to_string()).collect();
            let message =
                format!("{}: several files have it: {}", wanted.describe(), paths.join(", "));
            Err(Error::invalid(message).hint("remove all but the right one from the directory"))
        }
    }
}

/// Returns the images with the UUID among the files that the caller names, each file once, except
/// `own`.
fn among_given(
    wanted: &Wanted<'_>,
    own: &dyn Source,
    context: &OpenContext<'_>,
    identify: Identify<'_>,
) -> Result<Vec<Found>> {
    let mut known: HashSet<_> = own.identity().into_iter().collect();
    let mut found = Vec::new();
    for path in context.parents {
        let opened = FileSource::open(path).and_then(|file| ReadMode::default().source(file));
        let source = opened.map_err(|e| {
            Error::io(format!("cannot open the possible {ROLE} '{}'", path.display()), e)
        })?;
        let identity = source.identity();
        let Some(candidate) = identify(source) else { continue };
        if candidate.uuid.as_deref() == Some(wanted.uuid)
            && identity.is_none_or(|id| known.insert(id))
        {
            let modification = candidate.modification;
            found.push(Found { path: path.clone(), identity, modification });
        }
    }
    Ok(found)
}

/// The files around a disk with the format's extension.
struct Siblings {
    /// Sorted; at most [`Limits::sibling_files`] of each directory.
    paths: Vec<PathBuf>,
    /// Number of files beyond the limit.
    skipped: usize,
}

/// An image with the wanted UUID.
struct Found {
    path: PathBuf,
    identity: Option<HostFileId>,
    /// The UUID of its last modification.
    modification: Option<String>,
}

impl Siblings {
    /// Lists the files in `own_dir` and, if `with_parent_dir`, those in its parent directory. A
    /// directory that cannot be read counts as empty.
    fn around(own_dir: &Path, with_parent_dir: bool, wanted: &Wanted<'_>, limits: &Limits) -> Self {
        let max = usize::try_from(limits.sibling_files).unwrap_or(usize::MAX);
        let parent_dir = with_parent_dir.then(|| own_dir.join(".."));
        let mut siblings = Self { paths: Vec::new(), skipped: 0 };
        for directory in [own_dir].into_iter().chain(parent_dir.as_deref()) {
            let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            let entries = std::fs::read_dir(listed).into_iter().flatten().flatten();
            let paths = entries.map(|entry| directory.join(entry.file_name()));
            let has_extension = |p: &PathBuf| {
                p.extension().is_some_and(|e| e.eq_ignore_ascii_case(wanted.extension))
            };
            let mut paths: Vec<_> = paths.filter(has_extension).collect();
            paths.sort_unstable();
            siblings.skipped += paths.len().saturating_sub(max);
            paths.truncate(max);
            siblings.paths.append(&mut paths);
        }
        siblings
    }

    /// Returns the images with the UUID, each file once, except `own` and files that another image
    /// lists as flat extents.
    fn with_uuid(
        &self,
        wanted: &Wanted<'_>,
        own: &dyn Source,
        resolver: Resolver<'_>,
        identify: Identify<'_>,
    ) -> Vec<Found> {
        let names: HashSet<_> = self.paths.iter().filter_map(|path| path.file_name()).collect();
        let mut verbatim = HashSet::new();
        let mut identities = Vec::new();
        let mut known: HashSet<_> = own.identity().into_iter().collect();
        let mut found: Vec<Found> = Vec::new();
        for path in &self.paths {
            let Ok(source) = resolver.open_at(ROLE, &path.to_string_lossy(), path) else {
                continue;
            };
            let identity = source.identity();
            identities.push((path, identity));
            let Some(candidate) = identify(source) else { continue };
            let named = candidate.verbatim.iter();
            verbatim.extend(named.filter_map(|name| names.get(OsStr::new(name)).copied()));
            if candidate.uuid.as_deref() == Some(wanted.uuid)
                && identity.is_none_or(|id| known.insert(id))
            {
                let modification = candidate.modification;
                found.push(Found { path: path.clone(), identity, modification });
            }
        }
        let is_verbatim = |path: &Path| path.file_name().is_some_and(|n| verbatim.contains(n));
        let flat = || identities.iter().filter(|(path, _)| is_verbatim(path));
        let flat_paths: HashSet<&PathBuf> = flat().map(|(path, _)| *path).collect();
        let flat_files: HashSet<HostFileId> = flat().filter_map(|(_, id)| *id).collect();
        found.retain(|f| {
            let is_flat_file = f.identity.is_some_and(|id| flat_files.contains(&id));
            !flat_paths.contains(&f.path) && !is_flat_file
        });
        found
    }
}
