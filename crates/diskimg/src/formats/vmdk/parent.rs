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
use super::parent_search;
use crate::error::{Error, ErrorKind, Result};
use crate::model::format::Format;
use crate::model::layer::{ParentLocator, ParentReference};
use crate::open::OpenContext;
use crate::open::external_files::ExternalFiles;
use crate::storage::source::Source;

/// What a parent is called in errors.
pub(super) const ROLE: &str = "parent";

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
/// where the parent is needed, [`Io`](crate::ErrorKind::Io) or
/// [`Refused`](crate::ErrorKind::Refused) if it cannot be opened,
/// [`Invalid`](crate::ErrorKind::Invalid) if no file has its UUID, or several have.
pub(super) fn parent_of(
    descriptor: &Descriptor,
    own: &dyn Source,
    context: &OpenContext<'_>,
) -> Result<Parent> {
    let corrupt = |message| Err(Error::corrupt("VMDK descriptor", message));
    let reference = |name: String, locator| ParentReference {
        name,
        locator,
        format: Some(Format::Vmdk.name().to_owned()),
    };
    match (descriptor.parent_cid, descriptor.parent_hint.as_deref()) {
        (NO_PARENT, None) => match descriptor.virtualbox_parent() {
            None => Ok(Parent::None),
            Some(uuid) if !context.with_parent => Ok(Parent::Uuid(uuid.to_owned())),
            Some(uuid) => {
                let modification = uuid_of(descriptor, "ddb.uuid.parentmodification");
                let path = parent_search::find(uuid, modification.as_deref(), own, context)?;
                let name = path.display().to_string();
                let content_id = modification.map(|id| format!("{MODIFICATION}{id}"));
                Ok(Parent::Known {
                    reference: reference(name, ParentLocator::FoundByUuid(path)),
                    content_id,
                })
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
            reference: reference(hint.to_owned(), locator(hint, context)?),
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

/// Where the parent is: where the hint says or, for a disk that was moved,
/// beside it. (Content IDs tell whether it is the parent.) No file is looked
/// at but to be opened.
///
/// # Errors
/// As [`Resolver::open_path`](crate::open::external_files::Resolver::open_path).
fn locator(hint: &str, context: &OpenContext<'_>) -> Result<ParentLocator> {
    let resolver = &context.resolver;
    if !context.with_parent || resolver.policy == ExternalFiles::None {
        return Ok(ParentLocator::ByName);
    }
    // QEMU writes `file:` where it was given so.
    let plain = hint.strip_prefix("file:").unwrap_or(hint);
    let open = |name| resolver.open_path(ROLE, name);
    let opened =
        open(hint).or_else(|e| open(plain).or_else(|_| open(base_name(hint))).map_err(|_| e));
    match opened {
        Ok(source) => {
            Ok(source.path().map_or(ParentLocator::ByName, |p| ParentLocator::AtPath(p.into())))
        }
        Err(e) if e.kind() == ErrorKind::Refused => Err(e.hint(
            "alone it holds only what changed: put the parent beside it, or allow any file with \
             ExternalFiles::Any, --references=any",
        )),
        Err(e) => Err(e.hint(
            "alone it holds only what changed: put the parent beside it, or correct \
             parentFileNameHint",
        )),
    }
}

/// The last part of a path as any system writes it.
pub(super) fn base_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// A UUID of the disk database; `None` if it is missing or zero.
pub(super) fn uuid_of(descriptor: &Descriptor, key: &str) -> Option<String> {
    let uuid = descriptor.ddb(key)?;
    let any = uuid.bytes().any(|b| b.is_ascii_hexdigit() && b != b'0');
    any.then(|| uuid.to_ascii_lowercase())
}

/// A content ID as parents and children compare it.
fn content_id_text(cid: u32) -> String {
    format!("{cid:08x}")
}
