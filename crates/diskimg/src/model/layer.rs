//! The reading side of a format.

use crate::error::Result;
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::options::Options;
use crate::report::check::{CheckReport, Finding};
use crate::report::info::Details;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::fmt::Debug;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The measures of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLayout {
    /// Guest bytes. A raw file may have any number; other formats a multiple
    /// of 512.
    pub size: u64,
    /// Bytes that the format allocates at a time (cluster, grain, block); a power of two. 1 for
    /// raw, which allocates nothing.
    pub cluster_size: u64,
}

/// What an image says about the file it builds on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentReference {
    /// The name as the image holds it, not yet resolved.
    pub name: String,
    /// Where that is.
    pub locator: ParentLocator,
    /// The format that the image claims for it, as a format name; `None`: to be probed.
    pub format: Option<String>,
}

/// Where the file that an image builds on is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParentLocator {
    /// Where its name leads.
    ByName,
    /// Here, as the format reads names.
    AtPath(PathBuf),
    /// Here: no name led to it but what it says of itself. Its own names lead
    /// no further than its directory, whatever else is allowed.
    FoundByUuid(PathBuf),
}

impl ParentLocator {
    /// The path, if the format has it.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::ByName => None,
            Self::AtPath(path) | Self::FoundByUuid(path) => Some(path),
        }
    }
}

/// One layer of one image: says where guest bytes are, moves none of them.
pub trait Layer: Send + Sync + Debug {
    /// The format.
    fn format(&self) -> Format;

    /// Size and unit.
    fn disk_layout(&self) -> DiskLayout;

    /// The files that [`HostOffset`](crate::extent::HostOffset)s speak of; the image file itself first.
    fn files(&self) -> &[Arc<dyn Source>];

    /// Appends extents that cover `range` exactly, in order, none empty,
    /// adjacent ones merged (see [`extent::push`](crate::extent::push)).
    /// `range` lies within the layer's size.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the image's tables contradict
    /// themselves, [`Unsupported`](crate::ErrorKind::Unsupported) if the bytes
    /// cannot be had (encryption), [`Io`](crate::ErrorKind::Io).
    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()>;

    /// How far into `range`, from its start, [`map`](Self::map) is known to have one word for
    /// all, that nothing is there: found out at a glance. A hint, by which who walks a disk takes
    /// larger steps; `range.start` if nothing is known.
    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        range.start
    }

    /// True if stored extents may lie in holes of their file, by plan: the
    /// image was preallocated and not filled yet.
    fn is_preallocated(&self) -> bool {
        false
    }

    /// The image that answers where this one is silent.
    fn parent(&self) -> Option<&ParentReference> {
        None
    }

    /// What tells this image's content from another's, in formats that keep
    /// such things: a child names one of its parent's. The first is what a new
    /// child records.
    fn content_ids(&self) -> Vec<String> {
        Vec::new()
    }

    /// The content ID that the parent must have. If it has another, it was
    /// changed since this image was made, and the two make no sense together.
    fn parent_content_id(&self) -> Option<String> {
        None
    }

    /// What `info` shows beyond name and size.
    fn details(&self) -> Details;

    /// What was found damaged and is made up for: an error was avoided, but the
    /// user should know.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// The create options that would make an empty image of this one's kind:
    /// what rewriting it (`convert -n`) keeps.
    fn create_options(&self) -> Options {
        Options::default()
    }

    /// Verifies the image's own consistency. Each finding goes to `report` as
    /// it is made; the counts are the result, `None` for a format that has
    /// nothing to check.
    ///
    /// # Errors
    /// Whatever kept the check from being done.
    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        let _ = report;
        Ok(None)
    }

    /// Verifies that what is about to be read is what its maker wrote, by the
    /// digests and lengths that came with it. `tick` is called now and then; its
    /// error ends the work. A format without such things has nothing to say.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) naming the file that is not what it
    /// should be, [`Io`](crate::ErrorKind::Io), and what `tick` said.
    fn verify_manifest(&self, tick: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let _ = tick;
        Ok(())
    }
}

/// [`Layer::next_allocated_hint`] by a table whose entries stand for `cover` bytes each: as far as they
/// are empty.
pub(crate) fn next_allocated_in_table<T>(
    table: &[T],
    cover: u64,
    range: Range<u64>,
    is_empty: impl Fn(&T) -> bool,
) -> u64 {
    let (first, last) = (range.start / cover, (range.end.max(1) - 1) / cover);
    let entries = table.iter().skip(to_usize(first)).take(to_usize(last - first + 1));
    let empty = to_u64(entries.take_while(|&entry| is_empty(entry)).count());
    (first + empty).saturating_mul(cover).clamp(range.start, range.end)
}
