//! Whose child a disk is.
//!
//! ```text
//!   VMware, QEMU   parentCID=4ea3470f   parentFileNameHint="base.vmdk"
//!   VirtualBox     parentCID=ffffffff   ddb.uuid.parent="…" (the parent's ddb.uuid.image),
//!                                       ddb.uuid.parentmodification="…" (its ddb.uuid.modification)
//! ```
//!
//! A child holds what changed. Alone it is a disk with holes, which every tool
//! that does not know VirtualBox's UUIDs makes of it: here, a child without
//! its parent is an error.

use super::descriptor::{Descriptor, NO_PARENT};
use super::home::Home;
use crate::host::source::Source;
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::format::Format;
use crate::vocabulary::layer::ParentReference;
use crate::vocabulary::open::OpenContext;
use crate::vocabulary::reference::References;
use std::path::{Path, PathBuf};

/// What a parent is called in errors.
const ROLE: &str = "parent";

/// Files looked at for a UUID, in each directory.
const MAX_SIBLINGS: usize = 4096;

/// What marks a VirtualBox content ID (a modification UUID) as one.
const MODIFICATION: &str = "modification ";

/// A disk's parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parent {
    /// The disk stands alone.
    None,
    /// It is here, and must have this content ID.
    Known { reference: ParentReference, content_id: Option<String> },
    /// Known by this UUID only, and not looked for: nobody asked.
    Uuid(String),
}

/// The parent of the disk that `descriptor` describes, whose file is `own`.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the descriptor contradicts itself;
/// where the parent is needed, [`Invalid`](crate::ErrorKind::Invalid) if no
/// file has its UUID, or several have.
pub(super) fn parent_of(
    descriptor: &Descriptor,
    own: &dyn Source,
    context: &OpenContext<'_>,
) -> Result<Parent> {
    let corrupt = |message| Err(Error::corrupt("VMDK descriptor", message));
    let reference = |name: String, stand_in| ParentReference {
        name,
        stand_in,
        format: Some(Format::Vmdk.name().to_owned()),
    };
    match (descriptor.parent_cid, descriptor.parent_hint.as_deref()) {
        (NO_PARENT, None) => match descriptor.virtualbox_parent() {
            None => Ok(Parent::None),
            Some(uuid) if !context.with_parent => Ok(Parent::Uuid(uuid.to_owned())),
            Some(uuid) => {
                let name = find_by_uuid(uuid, own, context)?;
                let content_id = uuid_of(descriptor, "ddb.uuid.parentmodification");
                let content_id = content_id.map(|id| format!("{MODIFICATION}{id}"));
                Ok(Parent::Known { reference: reference(name, None), content_id })
            }
        },
        (NO_PARENT, Some(hint)) => {
            corrupt(format!("parentCID says there is no parent, parentFileNameHint says '{hint}'"))
        }
        (cid, None) => corrupt(format!(
            "parentCID is {}, but parentFileNameHint is missing",
            content_id_text(cid)
        )),
        (cid, Some(hint)) => Ok(Parent::Known {
            reference: reference(hint.to_owned(), stand_in(hint, context)),
            content_id: Some(content_id_text(cid)),
        }),
    }
}

/// What a disk may be known by to its children, the CID first.
pub(super) fn content_ids(descriptor: &Descriptor) -> Vec<String> {
    let modification = uuid_of(descriptor, "ddb.uuid.modification");
    let modification = modification.map(|id| format!("{MODIFICATION}{id}"));
    descriptor.cid.map(content_id_text).into_iter().chain(modification).collect()
}

/// The name to open where nothing is at the hint: a disk that was moved has
/// its parent beside it. (Content IDs tell whether it is the parent.)
fn stand_in(hint: &str, context: &OpenContext<'_>) -> Option<String> {
    let there = |name: &str| context.resolver.resolve(ROLE, name).is_ok_and(|path| path.is_file());
    let base = hint.rsplit(['/', '\\']).next().filter(|&base| base != hint && !base.is_empty())?;
    (!there(hint) && there(base)).then(|| base.to_owned())
}

/// Looks in the disk's directory for an image with this UUID; if any file may
/// be named, in the directory above, too: VirtualBox keeps differencing images
/// in a folder of their own.
fn find_by_uuid(uuid: &str, own: &dyn Source, context: &OpenContext<'_>) -> Result<String> {
    let what = || format!("it is a VirtualBox differencing image; its parent has the UUID {uuid}");
    if context.resolver.policy == References::None {
        return Err(Error::refused(what()).hint(
            "references to other files are switched off: References::None, --references=none",
        ));
    }
    let Some(home) = own.path().and_then(Path::parent) else {
        return Err(Error::invalid(what()).hint("open it by its path, with its parent beside it"));
    };
    let mut found = Vec::new();
    let above = (context.resolver.policy == References::Any).then_some("..");
    for directory in ["."].into_iter().chain(above) {
        for name in siblings(&home.join(directory)) {
            let name = Path::new(directory).join(name).to_string_lossy().into_owned();
            if has_uuid(&name, uuid, own, context) {
                found.push(name);
            }
        }
        if !found.is_empty() {
            break;
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::invalid(format!("{}, and no .vmdk file beside it has", what()))
            .hint("put the parent into the same directory")),
        several => Err(Error::invalid(format!("{}, as have {}", what(), several.join(", ")))
            .hint("leave only the right one there")),
    }
}

/// Names of VMDK files in a directory, sorted; none if it cannot be read.
fn siblings(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| PathBuf::from(entry.file_name()));
    let vmdk = |name: &PathBuf| name.extension().is_some_and(|e| e.eq_ignore_ascii_case("vmdk"));
    let mut names: Vec<_> = names.filter(vmdk).take(MAX_SIBLINGS).collect();
    names.sort();
    names
}

/// Whether the file is another image, with this UUID. One that is no image has none.
fn has_uuid(name: &str, uuid: &str, own: &dyn Source, context: &OpenContext<'_>) -> bool {
    let Ok(source) = context.resolver.open(ROLE, name) else { return false };
    if source.identity().is_some() && source.identity() == own.identity() {
        return false;
    }
    let Ok(home) = Home::read(source, context.limits) else { return false };
    let image = uuid_of(&home.descriptor, "ddb.uuid.image");
    image.is_some_and(|image| image.eq_ignore_ascii_case(uuid))
}

/// A UUID of the disk database; `None` if it is missing or zero.
fn uuid_of(descriptor: &Descriptor, key: &str) -> Option<String> {
    let uuid = descriptor.ddb(key)?;
    let any = uuid.bytes().any(|b| b.is_ascii_hexdigit() && b != b'0');
    any.then(|| uuid.to_ascii_lowercase())
}

/// A content ID as parents and children compare it.
fn content_id_text(cid: u32) -> String {
    format!("{cid:08x}")
}
