//! Finding a parent by its UUID: VirtualBox's differencing images do not record a file name.
//!
//! ```text
//!   vm/base.vmdk                 ddb.uuid.image="1…"
//!   vm/x.vmdk ──► x-flat.vmdk    written by the guest: not a candidate
//!   vm/Snapshots/{…}.vmdk        ddb.uuid.parent="1…"
//! ```
//!
//! A file that is found by its UUID is not trusted, because the UUID is part of the file. For
//! example, the guest controls the first bytes of `x-flat.vmdk` and may write a descriptor there.
//! Therefore a file that another descriptor in its directory lists as a flat extent is not a
//! candidate, and a file found by UUID can refer only to files in its own directory
//! ([`ParentLocator::FoundByUuid`](crate::ParentLocator)).

use super::descriptor_source::DescriptorSource;
use super::parent::NEEDS_PARENT;
use super::parent::{ROLE, base_name, uuid_of};
use crate::error::{Error, Result};
use crate::open::OpenContext;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::open::limits::Limits;
use crate::remedy::Remedy;
use crate::storage::source::{HostFileId, ReadMode, Source};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Maximum length of a descriptor that is searched for a UUID. It is smaller than the limit for the
/// disk's own descriptor, because every candidate in the directory is read.
const MAX_DESCRIPTOR_BYTES: u64 = 64 << 10;

/// Searches the disk's directory for an image with this UUID. If the policy allows any file, also
/// searches the parent directory, because VirtualBox keeps differencing images in a subdirectory.
/// If several images have the UUID, those with the `modification` UUID are chosen. If the disk's
/// path is a symbolic link and nothing is found, also searches around the link's target.
///
/// # Errors
/// [`Refused`](crate::ErrorKind::Refused) if the policy forbids a search,
/// [`Invalid`](crate::ErrorKind::Invalid) if no image or several images match,
/// [`Limit`](crate::ErrorKind::Limit) if none matches and some files were not examined.
pub(super) fn find(
    uuid: &str,
    modification: Option<&str>,
    own: &dyn Source,
    context: &OpenContext<'_>,
) -> Result<PathBuf> {
    let what = || format!("a VirtualBox differencing image, whose parent has the UUID {uuid}");
    // Candidates are not yet known to belong to the chain, so the read mode chosen for its files
    // does not apply to them.
    let (policy, read_mode) = (context.resolver.search, ReadMode::default());
    let resolver = Resolver { policy, read_mode, lock: None, ..context.resolver };
    if resolver.policy == ExternalFiles::None {
        let remedy = Remedy::AllowFilesInSameDir;
        return Err(Error::refused(what()).with_remedy(remedy));
    }
    if resolver.image.is_none() {
        return Err(Error::invalid(what()).hint("open it by its path, with its parent beside it"));
    }
    let mut skipped = 0;
    for directory in resolver.directories() {
        let siblings =
            Siblings::around(directory, resolver.policy == ExternalFiles::Any, context.limits);
        skipped += siblings.skipped;
        let mut found = siblings.with_uuid(uuid, own, resolver, context.limits);
        let is_unmodified =
            |f: &Found| modification.is_some() && f.modification.as_deref() == modification;
        if found.iter().any(is_unmodified) {
            found.retain(is_unmodified);
        }
        match found.as_slice() {
            [] => {}
            [one] => return Ok(one.path.clone()),
            several => {
                let paths: Vec<_> = several.iter().map(|f| f.path.display().to_string()).collect();
                let message = format!("{}: several files have it: {}", what(), paths.join(", "));
                return Err(
                    Error::invalid(message).hint("remove all but the right one from the directory")
                );
            }
        }
    }
    if skipped > 0 {
        let found = format!("{}: {skipped} files beside it were not examined", what());
        let max = context.limits.sibling_files;
        return Err(Error::over_limit("sibling_files", found, max));
    }
    let message = format!("{}: no .vmdk file beside it has this UUID", what());
    let error = Error::invalid(message).hint(NEEDS_PARENT);
    Err(match resolver.policy {
        ExternalFiles::Any => error,
        _ => error.with_remedy(Remedy::SearchParentDirectory),
    })
}

/// The VMDK files around a disk.
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
    /// `ddb.uuid.modification`.
    modification: Option<String>,
}

impl Siblings {
    /// Lists the files in `own_dir` and, if `with_parent_dir`, those in its parent directory. A
    /// directory that cannot be read counts as empty.
    fn around(own_dir: &Path, with_parent_dir: bool, limits: &Limits) -> Self {
        let max = usize::try_from(limits.sibling_files).unwrap_or(usize::MAX);
        let parent_dir = with_parent_dir.then(|| own_dir.join(".."));
        let mut siblings = Self { paths: Vec::new(), skipped: 0 };
        for directory in [own_dir].into_iter().chain(parent_dir.as_deref()) {
            let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            let entries = std::fs::read_dir(listed).into_iter().flatten().flatten();
            let paths = entries.map(|entry| directory.join(entry.file_name()));
            let vmdk = |p: &PathBuf| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("vmdk"));
            let mut paths: Vec<_> = paths.filter(vmdk).collect();
            paths.sort_unstable();
            siblings.skipped += paths.len().saturating_sub(max);
            paths.truncate(max);
            siblings.paths.append(&mut paths);
        }
        siblings
    }

    /// Returns the images with this UUID, each file once, except `own` and files that a descriptor
    /// lists as flat extents.
    fn with_uuid(
        &self,
        uuid: &str,
        own: &dyn Source,
        resolver: Resolver<'_>,
        limits: &Limits,
    ) -> Vec<Found> {
        let descriptor_bytes = limits.descriptor_bytes.min(MAX_DESCRIPTOR_BYTES);
        let limits = Limits { descriptor_bytes, ..limits.clone() };
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
            let Ok(candidate) = DescriptorSource::read(source, &limits) else { continue };
            let descriptor = &candidate.descriptor;
            let extents = descriptor.extents.iter().filter(|line| line.kind.is_verbatim());
            let named = extents.filter_map(|line| line.name.as_deref().map(base_name));
            verbatim.extend(named.filter_map(|name| names.get(OsStr::new(name)).copied()));
            let image = uuid_of(descriptor, "ddb.uuid.image");
            if image.is_some_and(|image| image.eq_ignore_ascii_case(uuid))
                && identity.is_none_or(|id| known.insert(id))
            {
                let modification = uuid_of(descriptor, "ddb.uuid.modification");
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
