//! The interface for reading a format.

use crate::error::{Error, Result};
use crate::model::bitmap::DirtyBitmap;
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::options::Options;
use crate::model::sealed::Sealed;
use crate::report::check::{CheckReport, Finding, RecordedDigest};
use crate::report::info::{self, Details};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{HostFileId, Source};
use std::fmt::Debug;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Virtual size and cluster size of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskLayout {
    /// Virtual disk size in bytes. Any number for raw, a multiple of 512 for other formats.
    pub size: u64,
    /// Allocation unit in bytes (cluster, grain, block); a power of two. 1 for raw, which has no
    /// allocation unit.
    pub cluster_size: u64,
}

/// An image's reference to its backing file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParentReference {
    /// Name of the backing file as recorded in the image, not resolved.
    pub name: String,
    /// How the file is located.
    pub locator: ParentLocator,
    /// Name of the backing file's format as recorded in the image; `None` if it must be probed.
    pub format: Option<String>,
}

/// How a backing file is located.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParentLocator {
    /// By resolving its name.
    ByName,
    /// By searching its UUID, which was not done: the image was opened without its backing file. The
    /// recorded name is the UUID.
    ByUuid,
    /// At this path, which the format derived from the recorded name.
    AtPath(PathBuf),
    /// At this path, where it was found by its UUID instead of a recorded name. The files that it
    /// references in turn are restricted to its own directory, whatever the policy for external
    /// files allows.
    FoundByUuid(PathBuf),
    /// At this path, which the caller gave
    /// ([`OpenOptions::possible_parents`](crate::OpenOptions::possible_parents)).
    Given(PathBuf),
}

impl ParentLocator {
    /// Returns the path, if the format determined it.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::ByName | Self::ByUuid => None,
            Self::AtPath(path) | Self::FoundByUuid(path) | Self::Given(path) => Some(path),
        }
    }
}

/// One layer of a backing chain. Maps guest bytes to host offsets; does not read guest data.
///
/// Only this library can implement the trait.
pub trait Layer: Sealed + Send + Sync + Debug {
    /// Returns the layer's format.
    fn format(&self) -> Format;

    /// Returns the virtual disk size and the cluster size.
    fn disk_layout(&self) -> DiskLayout;

    /// Returns the layer's host files, which [`HostOffset`](crate::extent::HostOffset)s index. The
    /// image file itself is the first.
    fn files(&self) -> &[Arc<dyn Source>];

    /// Returns the identities of all host files that are read, which no output may replace: those of
    /// [`files`](Self::files), and others that describe the layer.
    fn identities(&self) -> Vec<HostFileId> {
        self.files().iter().flat_map(|file| file.identities()).collect()
    }

    /// Returns the directories whose files are all parts of the image: no output may be created in
    /// them.
    fn directories(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Appends the extents that cover `range` exactly, in ascending order, not empty, and merged
    /// where one continues the other. `range` must be within the layer's size.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the image's tables are inconsistent,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the bytes cannot be read (encryption), and
    /// [`Io`](crate::ErrorKind::Io) or [`Transient`](crate::ErrorKind::Transient) if reading the
    /// tables fails.
    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()>;

    /// Returns the end of the unallocated run at `range.start`, if that is known without I/O, and
    /// `range.start` otherwise. A hint that lets callers skip sparse regions.
    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        range.start
    }

    /// Asks the files' caches ([`Source::prefetch`]) to load the tables that
    /// [`map`](Self::map) reads for `range`.
    fn prefetch_tables(&self, range: Range<u64>) {
        let _ = range;
    }

    /// Returns true if allocated extents may be holes of their host file because the image was
    /// preallocated.
    fn is_preallocated(&self) -> bool {
        false
    }

    /// Returns the reference to the backing file, which provides the unallocated ranges.
    fn parent(&self) -> Option<&ParentReference> {
        None
    }

    /// Returns the content IDs of this image, in formats that have them. An overlay records one of
    /// its backing file's; a new overlay records the first.
    fn content_ids(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the content ID that the backing file must have. If its ID differs, the backing file
    /// was modified after this image was created, and the chain is invalid.
    fn parent_content_id(&self) -> Option<String> {
        None
    }

    /// Returns the identifier of the disk that a guest sees, in formats that have one. A new overlay
    /// gets the same, so that the guest finds the disk that it knows.
    fn disk_id(&self) -> Option<String> {
        None
    }

    /// Returns the sizes of a logical and a physical sector of the disk in bytes, in formats that
    /// record them. A new overlay gets the same: partition tables count in logical sectors.
    fn sector_sizes(&self) -> Option<[u64; 2]> {
        None
    }

    /// Returns the format-specific part of `info`.
    fn details(&self) -> Details;

    /// Returns warnings about damage that reading tolerates but that the user should know about.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the dirty bitmaps in the order in which they are stored, or `None` if images of this
    /// format and version have none.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the list of bitmaps is damaged.
    fn dirty_bitmaps(&self) -> Result<Option<Vec<info::Bitmap>>> {
        Ok(None)
    }

    /// Opens the dirty bitmap at `index` of [`dirty_bitmaps`](Self::dirty_bitmaps) for reading.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if it is inconsistent,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is damaged,
    /// [`Limit`](crate::ErrorKind::Limit) if its table exceeds a limit, and
    /// [`Io`](crate::ErrorKind::Io) if reading fails.
    fn dirty_bitmap(&self, index: usize) -> Result<DirtyBitmap> {
        let _ = index;
        Err(Error::unsupported("images of this format have no dirty bitmaps"))
    }

    /// Returns the create options of an empty image like this one. Overwriting an existing image
    /// (`convert -n`) uses them.
    fn create_options(&self) -> Options {
        Options::default()
    }

    /// Checks the consistency of the image's metadata. Passes each finding to `report` immediately
    /// and returns the counts, or `None` if the format has no consistency check.
    ///
    /// # Errors
    /// Returns an error if the check could not be completed.
    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        let _ = report;
        Ok(None)
    }

    /// Returns the digests that the image records of its contents, which
    /// [`Check`](crate::Check) verifies, or `None` if the format has no such digests. Digests of the
    /// same bytes follow one another, so that these are read once.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    fn recorded_digests(&self) -> Result<Option<Vec<RecordedDigest>>> {
        Ok(None)
    }

    /// Verifies the image's files against the digests and lengths of its manifest, in formats that
    /// have one. Calls `tick` periodically; an error that it returns ends the verification.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt), naming the file, if a file does not match,
    /// [`Io`](crate::ErrorKind::Io) if reading fails, and the errors of `tick`.
    fn verify_manifest(&self, tick: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let _ = tick;
        Ok(())
    }
}

/// Implements [`Layer::next_allocated_hint`] for a table whose entries each map `cover` bytes:
/// returns the end of the run of empty entries at `range.start`.
pub(crate) fn next_allocated_in_table<T>(
    table: &[T],
    cover: u64,
    range: Range<u64>,
    is_empty: impl Fn(&T) -> bool,
) -> u64 {
    let first = range.start / cover;
    let entries = entries_for(table, cover, range.clone()).iter();
    let empty = to_u64(entries.take_while(|&entry| is_empty(entry)).count());
    (first + empty).saturating_mul(cover).clamp(range.start, range.end)
}

/// Returns the entries of a table that map `range`, if each entry maps `cover` bytes.
pub(crate) fn entries_for<T>(table: &[T], cover: u64, range: Range<u64>) -> &[T] {
    let (first, last) = (range.start / cover, (range.end.max(1) - 1) / cover);
    let end = to_usize(last.saturating_add(1)).min(table.len());
    &table[to_usize(first).min(end)..end]
}
