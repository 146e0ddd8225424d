//! The parent of a disk.
//!
//! ```text
//!   VMware, QEMU   parentCID=4ea3470f   parentFileNameHint="base.vmdk"
//!   VirtualBox     parentCID=ffffffff   ddb.uuid.parent="…" (the parent's ddb.uuid.image),
//!                                       ddb.uuid.parentmodification="…" (its ddb.uuid.modification)
//! ```
//!
//! A child contains only the changes relative to its parent. Tools that do not know VirtualBox's
//! UUIDs read such an image without its parent, as a disk with holes; here this is an error.

use super::descriptor::{Descriptor, NO_PARENT};
use super::descriptor_source::DescriptorSource;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::uuid_search::{self, Identity, NEEDS_PARENT, Wanted};
use crate::model::format::Format;
use crate::model::layer::{ParentLocator, ParentReference};
use crate::open::OpenContext;
use crate::open::external_files::ExternalFiles;
use crate::open::limits::Limits;
use crate::remedy::Remedy;
use crate::storage::source::Source;
use std::sync::Arc;

/// Maximum length of a descriptor that is searched for a UUID. It is smaller than the limit for the
/// disk's own descriptor, because every candidate in the directory is read.
const MAX_DESCRIPTOR_BYTES: u64 = 64 << 10;

/// How error messages call the parent.
const ROLE: &str = "parent";

/// Prefix of content IDs that are VirtualBox modification UUIDs.
const MODIFICATION: &str = "modification ";

/// A disk's parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parent {
    /// The disk has no parent.
    None,
    /// The parent's location, and the content ID that it must have.
    Known { reference: ParentReference, content_id: Option<String> },
    /// The UUID of a parent that was not searched for, because it is not needed.
    Uuid(String),
}

/// Locates the parent of the disk that `descriptor` describes and that is stored in `own`. The name
/// counts if the descriptor contradicts itself and that is accepted: for the image's metadata, or
/// because the caller ignores content IDs.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the descriptor contradicts itself. If the parent is
/// needed: [`Io`](crate::ErrorKind::Io) or [`Refused`](crate::ErrorKind::Refused) if it cannot be
/// opened, [`Invalid`](crate::ErrorKind::Invalid) if no file or several files have its UUID.
pub(super) fn parent_of(
    descriptor: &Descriptor,
    own: &dyn Source,
    context: &OpenContext<'_>,
) -> Result<Parent> {
    if let Some(message) = contradiction(descriptor)
        && !context.ignore_content_id
        && !context.tolerates_damage()
    {
        return Err(Error::corrupt("VMDK descriptor", message)
            .hint("without its parent, a child is not a complete disk")
            .with_remedy(Remedy::IgnoreContentId));
    }
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
                let uuid = uuid.to_ascii_lowercase();
                let wanted = Wanted {
                    kind: "a VirtualBox differencing image",
                    extension: "vmdk",
                    uuid: &uuid,
                    modification: modification.as_deref(),
                };
                let identify = |source| identify(source, context.limits);
                let locator = uuid_search::find(&wanted, own, context, &identify)?;
                let name = locator.path().map_or(uuid, |path| path.display().to_string());
                let content_id = modification.map(|id| format!("{MODIFICATION}{id}"));
                Ok(Parent::Known { reference: reference(name, locator), content_id })
            }
        },
        (_, None) => Ok(Parent::None),
        (cid, Some(hint)) => Ok(Parent::Known {
            reference: reference(hint.to_owned(), locator(hint, context)?),
            content_id: (cid != NO_PARENT).then(|| content_id_text(cid)),
        }),
    }
}

/// Describes the contradiction if the descriptor has only one of the parent's content ID and name.
pub(super) fn contradiction(descriptor: &Descriptor) -> Option<String> {
    match (descriptor.parent_cid, descriptor.parent_hint.as_deref()) {
        (NO_PARENT, Some(hint)) => {
            Some(format!("parentCID is ffffffff (no parent), but parentFileNameHint is '{hint}'"))
        }
        (NO_PARENT, None) | (_, Some(_)) => None,
        (cid, None) => Some(format!(
            "parentCID is {}, but parentFileNameHint is missing",
            content_id_text(cid)
        )),
    }
}

/// Returns the content IDs by which children may refer to a disk, the CID first.
pub(super) fn content_ids(descriptor: &Descriptor) -> Vec<String> {
    let modification = uuid_of(descriptor, "ddb.uuid.modification");
    let modification = modification.map(|id| format!("{MODIFICATION}{id}"));
    descriptor.cid.map(content_id_text).into_iter().chain(modification).collect()
}

/// Locates the parent by the hint or, if the disk was moved, by the hint's file name in the disk's
/// directory. The caller verifies by the content ID that the file is the parent. Candidates are
/// tried by opening them, never by a mere existence test.
///
/// # Errors
/// As [`Resolver::open_path`](crate::open::external_files::Resolver::open_path).
fn locator(hint: &str, context: &OpenContext<'_>) -> Result<ParentLocator> {
    let resolver = &context.resolver;
    if !context.with_parent || resolver.policy == ExternalFiles::None {
        return Ok(ParentLocator::ByName);
    }
    // QEMU records the prefix `file:` if the user gave it.
    let plain = hint.strip_prefix("file:").unwrap_or(hint);
    let open = |name| resolver.open_path(ROLE, name);
    let opened =
        open(hint).or_else(|e| open(plain).or_else(|_| open(base_name(hint))).map_err(|_| e));
    match opened {
        Ok(source) => {
            Ok(source.path().map_or(ParentLocator::ByName, |p| ParentLocator::AtPath(p.into())))
        }
        Err(e) if e.kind() == ErrorKind::Refused => Err(e.hint(NEEDS_PARENT)),
        Err(e) => Err(e.hint(format!("{NEEDS_PARENT}, or correct parentFileNameHint"))),
    }
}

/// Returns the UUIDs of a disk and the files that its descriptor lists as flat extents.
fn identify(source: Arc<dyn Source>, limits: &Limits) -> Option<Identity> {
    let descriptor_bytes = limits.descriptor_bytes.min(MAX_DESCRIPTOR_BYTES);
    let limits = Limits { descriptor_bytes, ..limits.clone() };
    let descriptor = DescriptorSource::read(source, &limits).ok()?.descriptor;
    let extents = descriptor.extents.iter().filter(|line| line.kind.is_verbatim());
    let names = extents.filter_map(|line| line.name.as_deref().map(base_name));
    Some(Identity {
        uuid: uuid_of(&descriptor, "ddb.uuid.image"),
        modification: uuid_of(&descriptor, "ddb.uuid.modification"),
        verbatim: names.map(str::to_owned).collect(),
    })
}

/// Returns the last component of a path in Unix or Windows syntax.
pub(super) fn base_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Returns a UUID of the disk database in lower case; `None` if it is missing or zero.
pub(super) fn uuid_of(descriptor: &Descriptor, key: &str) -> Option<String> {
    let uuid = descriptor.ddb(key)?;
    let any = uuid.bytes().any(|b| b.is_ascii_hexdigit() && b != b'0');
    any.then(|| uuid.to_ascii_lowercase())
}

/// Formats a CID as a content ID.
fn content_id_text(cid: u32) -> String {
    format!("{cid:08x}")
}
