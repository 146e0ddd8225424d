//! Finding a parent by its UUID: VirtualBox's differencing images name no file.
//!
//! ```text
//!   vm/base.vmdk                 ddb.uuid.image="1…"
//!   vm/x.vmdk ──► x-flat.vmdk    what the guest writes: no candidate
//!   vm/Snapshots/{…}.vmdk        ddb.uuid.parent="1…"
//! ```
//!
//! Nobody vouches for a file that is found by what it says of itself. The first
//! bytes of `x-flat.vmdk` are the guest's, who may put a descriptor there. So
//! a file that any other descriptor in its directory names as verbatim bytes
//! is no candidate, and what is found names no files but those in its own
//! directory ([`ParentLocator::FoundByUuid`](crate::ParentLocator)).

use super::descriptor_source::Home;
use super::parent::{ROLE, base_name, uuid_of};
use crate::error::{Error, Result};
use crate::open::OpenContext;
use crate::open::external_files::{ExternalFiles, NONE_HINT, Resolver};
use crate::open::limits::Limits;
use crate::storage::source::{HostFileId, ReadMode, Source};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The longest descriptor read for a UUID. A disk's own may be longer, but
/// all that lies beside it shall not be read.
const MAX_DESCRIPTOR_BYTES: u64 = 64 << 10;

/// Looks in the disk's directory for an image with this UUID; if any file may
/// be named, in the directory above, too: VirtualBox keeps differencing images
/// in a folder of their own. Of several, those with the `modification` UUID are
/// meant. Where the disk's path is a symbolic link and nothing is found, it
/// looks around the file that it leads to.
///
/// # Errors
/// [`Refused`](crate::ErrorKind::Refused) if no file may be looked for,
/// [`Invalid`](crate::ErrorKind::Invalid) if none is found, or several.
pub(super) fn find(
    uuid: &str,
    modification: Option<&str>,
    own: &dyn Source,
    context: &OpenContext<'_>,
) -> Result<PathBuf> {
    let what = || format!("it is a VirtualBox differencing image; its parent has the UUID {uuid}");
    // Candidates are none of the chain's files yet: nobody vouched for them.
    let (policy, access) = (context.resolver.search, ReadMode::default());
    let resolver = Resolver { policy, access, ..context.resolver };
    if resolver.policy == ExternalFiles::None {
        return Err(Error::refused(what()).hint(NONE_HINT));
    }
    if resolver.image.is_none() {
        return Err(Error::invalid(what()).hint("open it by its path, with its parent beside it"));
    }
    let mut more = 0;
    for home in resolver.directories() {
        let siblings =
            Siblings::around(home, resolver.policy == ExternalFiles::Any, context.limits);
        more += siblings.more;
        let mut found = siblings.with_uuid(uuid, own, resolver, context.limits);
        let meant = |f: &Found| modification.is_some() && f.modification.as_deref() == modification;
        if found.iter().any(meant) {
            found.retain(meant);
        }
        match found.as_slice() {
            [] => {}
            [one] => return Ok(one.path.clone()),
            several => {
                let paths: Vec<_> = several.iter().map(|f| f.path.display().to_string()).collect();
                return Err(Error::invalid(format!("{}, as have {}", what(), paths.join(", ")))
                    .hint("leave only the right one there"));
            }
        }
    }
    if more > 0 {
        let found = format!("{}; {more} files beside it were not looked at", what());
        let most = context.limits.sibling_files;
        return Err(Error::over_limit("sibling_files", found, most));
    }
    let message = format!("{}, and no .vmdk file beside it has", what());
    Err(Error::invalid(message).hint(match resolver.policy {
        ExternalFiles::Any => "alone it holds only what changed: put the parent beside it",
        _ => {
            "alone it holds only what changed: put the parent beside it; ExternalFiles::Any, \
             --references=any look for it in the directory above, too"
        }
    }))
}

/// The VMDK files around a disk.
struct Siblings {
    /// Sorted, at most `Limits::sibling_files` of each directory.
    paths: Vec<PathBuf>,
    /// How many there are beyond those.
    more: usize,
}

/// An image with the UUID that is looked for.
struct Found {
    path: PathBuf,
    identity: Option<HostFileId>,
    /// `ddb.uuid.modification`.
    modification: Option<String>,
}

impl Siblings {
    /// Those in `home` and perhaps in the directory above. None of a directory
    /// that cannot be read.
    fn around(home: &Path, above: bool, limits: &Limits) -> Self {
        let most = usize::try_from(limits.sibling_files).unwrap_or(usize::MAX);
        let above = above.then(|| home.join(".."));
        let mut siblings = Self { paths: Vec::new(), more: 0 };
        for directory in [home].into_iter().chain(above.as_deref()) {
            let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            let entries = std::fs::read_dir(listed).into_iter().flatten().flatten();
            let paths = entries.map(|entry| directory.join(entry.file_name()));
            let vmdk = |p: &PathBuf| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("vmdk"));
            let mut paths: Vec<_> = paths.filter(vmdk).collect();
            paths.sort_unstable();
            siblings.more += paths.len().saturating_sub(most);
            paths.truncate(most);
            siblings.paths.append(&mut paths);
        }
        siblings
    }

    /// The images with this UUID, each file once; neither `own` nor files that
    /// a descriptor names as verbatim bytes.
    fn with_uuid(
        &self,
        uuid: &str,
        own: &dyn Source,
        resolver: Resolver<'_>,
        limits: &Limits,
    ) -> Vec<Found> {
        let most = limits.descriptor_bytes.min(MAX_DESCRIPTOR_BYTES);
        let limits = Limits { descriptor_bytes: most, ..limits.clone() };
        let names: HashSet<_> = self.paths.iter().filter_map(|path| path.file_name()).collect();
        let mut verbatim = HashSet::new();
        let mut identities = Vec::new();
        let mut found: Vec<Found> = Vec::new();
        for path in &self.paths {
            let Ok(source) = resolver.open_at(ROLE, &path.to_string_lossy(), path) else {
                continue;
            };
            let identity = source.identity();
            identities.push((path, identity));
            let Ok(home) = Home::read(source, &limits) else { continue };
            let extents = home.descriptor.extents.iter().filter(|line| line.kind.is_verbatim());
            let named = extents.filter_map(|line| line.name.as_deref().map(base_name));
            verbatim.extend(named.filter_map(|name| names.get(OsStr::new(name)).copied()));
            let image = uuid_of(&home.descriptor, "ddb.uuid.image");
            let known =
                |id| own.identity() == Some(id) || found.iter().any(|f| f.identity == Some(id));
            if image.is_some_and(|image| image.eq_ignore_ascii_case(uuid))
                && !identity.is_some_and(known)
            {
                let modification = uuid_of(&home.descriptor, "ddb.uuid.modification");
                found.push(Found { path: path.clone(), identity, modification });
            }
        }
        let is_verbatim = |path: &Path| path.file_name().is_some_and(|n| verbatim.contains(n));
        let bytes: Vec<_> = identities.iter().filter(|(path, _)| is_verbatim(path)).collect();
        found.retain(|f| {
            !bytes.iter().any(|(path, id)| **path == f.path || id.is_some() && *id == f.identity)
        });
        found
    }
}
