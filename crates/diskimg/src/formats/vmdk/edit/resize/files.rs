//! Which files are changed and removed when the size of a disk changes.
//!
//! A descriptor may come from strangers, and name any file. So a file is changed or removed only if
//! it is in the directory of the descriptor and has nothing but the extent:
//!
//! ```text
//!   grows      a sparse extent; a flat one whose file ends with it, or has zeros behind it
//!   is cut     a sparse extent; a flat one whose file ends with it
//!   removed    a whole sparse or flat extent that is named as one of this disk
//! ```

use crate::error::{Error, Result};
use crate::formats::vmdk::edit::{VmdkMut, open_to_write};
use crate::formats::vmdk::extent::{Layout, VmdkExtent};
use crate::formats::vmdk::write::is_split_extent;
use crate::model::layer::Layer;
use crate::open::lock_error;
use crate::storage::edit::Storage;
use crate::storage::locking::Lock;
use crate::storage::number::to_usize;
use crate::storage::output::Destination;
use crate::storage::source::{HostFileId, segments};
use crate::storage::zeros::{ZEROS, is_zero};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a file is neither changed nor removed, and what to do.
const CONVERT: &str = "convert the disk to a new one, and resize that";

/// The files that are changed or removed, open for writing and locked, by their index in the image.
#[derive(Debug)]
pub(super) struct LockedFiles(BTreeMap<usize, Arc<dyn Storage>>);

impl LockedFiles {
    /// Returns the storage of a file.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if it was not locked.
    pub(super) fn get(&self, file: usize) -> Result<Arc<dyn Storage>> {
        let found = self.0.get(&file).map(Arc::clone);
        found.ok_or_else(|| Error::invalid("a file of the disk is not open for writing"))
    }
}

/// Returns true if an extent changes that will have `new` sectors.
pub(super) fn changes(extent: &VmdkExtent, new: u64) -> bool {
    match &extent.layout {
        Layout::Sparse(sparse) => new > extent.line.sectors || new < sparse.header().capacity,
        Layout::Flat { .. } => new != extent.line.sectors,
        _ => new > extent.line.sectors,
    }
}

impl VmdkMut {
    /// Opens and locks the files of extents that change if `kept` of them are kept, the last of
    /// which with `last` sectors. Other files of the disk are locked so that they are not written.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if a file is not in the directory of the descriptor,
    /// [`Locked`](crate::ErrorKind::Locked) if another process uses it,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be opened.
    pub(super) fn lock_files(&self, kept: usize, last: u64) -> Result<LockedFiles> {
        let (kept, unused) = self.image.extents().split_at(kept);
        let is_kept = |extent: &&VmdkExtent| !kept.iter().any(|other| other.file == extent.file);
        let unused = unused.iter().filter(is_kept);
        let changed = kept.last().filter(|extent| changes(extent, last)).into_iter().chain(unused);
        let mut files = BTreeMap::new();
        for extent in changed.filter(|extent| extent.file != 0) {
            if files.contains_key(&extent.file) {
                continue;
            }
            self.require_beside(extent)?;
            files.insert(extent.file, open_to_write(&*self.image.files()[extent.file])?);
        }
        for (number, file) in self.image.files().iter().enumerate().skip(1) {
            if !files.contains_key(&number) {
                let path = file.path().unwrap_or(Path::new(""));
                file.lock(Lock::READ).map_err(|e| lock_error(e).in_file(path))?;
            }
        }
        Ok(LockedFiles(files))
    }

    /// Requires that the file of an extent is in the directory of the descriptor, under the name in
    /// its line.
    fn require_beside(&self, extent: &VmdkExtent) -> Result<()> {
        let name = extent.line.name.as_deref().unwrap_or_default();
        let is_name = Path::new(name).file_name().is_some_and(|last| last == name);
        let given = self.storage.path();
        let real = given.and_then(|path| Destination::of(path).ok()).map(|found| found.path);
        let directory = |path: &Path| {
            let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
            directory.unwrap_or(Path::new(".")).canonicalize().ok()
        };
        let file = self.image.files()[extent.file].path();
        let found = file.and_then(|path| path.canonicalize().ok()).and_then(|p| directory(&p));
        let is_beside = found.is_some()
            && [given, real.as_deref()].into_iter().flatten().any(|path| directory(path) == found);
        if is_name && is_beside {
            return Ok(());
        }
        let message =
            format!("the extent '{name}' is not a file in the directory of the descriptor");
        Err(Error::refused(format!("{message}, and only such files are changed")).hint(CONVERT))
    }

    /// Returns the files that are removed if the first `first` extents are kept.
    ///
    /// # Errors
    /// Returns [`Refused`](crate::ErrorKind::Refused) if a file would not be used any more that may
    /// be something else than an extent of this disk.
    pub(super) fn unused_files(
        &self,
        first: usize,
        locked: &LockedFiles,
    ) -> Result<Vec<(PathBuf, Arc<dyn Storage>)>> {
        let unused = &self.image.extents()[first..];
        let mut files = Vec::new();
        for extent in unused.iter().filter(|extent| extent.file != 0) {
            // Those of extents that are kept are not among these.
            let Some(storage) = locked.0.get(&extent.file) else { continue };
            let shares = self.image.extents().iter().filter(|e| e.file == extent.file).count();
            let path = self.image.files()[extent.file].path().unwrap_or(Path::new(""));
            if shares > 1 || !self.is_whole_extent(extent, path, &**storage) {
                let message = "the disk would not use it any more, but it may be something else \
                               than an extent of this disk, so that it is not removed";
                return Err(Error::refused(message).hint(CONVERT).in_file(path));
            }
            files.push((path.to_owned(), Arc::clone(storage)));
        }
        Ok(files)
    }

    /// Returns true if a file has the name of an extent of this disk, and is the whole extent.
    fn is_whole_extent(&self, extent: &VmdkExtent, path: &Path, storage: &dyn Storage) -> bool {
        let name = extent.line.name.as_deref().unwrap_or_default();
        let given = self.storage.path().unwrap_or(Path::new(""));
        let real = Destination::of(given).map(|found| found.path);
        let is_named =
            is_split_extent(given, name) || real.is_ok_and(|real| is_split_extent(&real, name));
        let is_file = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
        let is_whole = match &extent.layout {
            Layout::Flat { offset: 0 } => storage.current_len() == extent.line.bytes(),
            Layout::Sparse(sparse) => {
                let (header, sectors) = (sparse.header(), extent.line.sectors);
                [sectors, sectors.next_multiple_of(header.grain_sectors)].contains(&header.capacity)
            }
            _ => false,
        };
        is_named && is_file && is_whole
    }
}

/// Requires that a file has nothing behind the flat extent in it that would be changed if that ends
/// at `end` instead of `old_end`. `is_shared` says that it has another extent.
///
/// # Errors
/// [`Refused`](crate::ErrorKind::Refused) if it has,
/// [`Unsupported`](crate::ErrorKind::Unsupported) if it has other extents or is a device,
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it is too short,
/// [`Io`](crate::ErrorKind::Io) if it cannot be read.
pub(super) fn require_whole(
    storage: &dyn Storage,
    is_shared: bool,
    old_end: u64,
    end: u64,
) -> Result<()> {
    if is_shared || storage.has_fixed_len() {
        let message = "the last extent is a part of a file or a device, so that its size cannot \
                       change";
        return Err(Error::unsupported(message).hint(super::OTHER_LAYOUT));
    }
    let len = storage.current_len();
    if len < old_end {
        let message = format!("the file has {len} bytes; expected {old_end}");
        return Err(Error::corrupt("extent file", message).hint("the file is probably truncated"));
    }
    let is_free = len == old_end || end > old_end && is_zeroed(storage, old_end..len)?;
    if is_free {
        return Ok(());
    }
    let message = format!(
        "the extent ends at byte {old_end} of a file of {len} bytes, and what is behind it may not \
         belong to the disk"
    );
    Err(Error::refused(message)
        .hint(format!("if nothing else uses it, cut the file to {old_end} bytes and try again")))
}

/// Returns true if a range reads as zeros.
fn is_zeroed(storage: &dyn Storage, range: Range<u64>) -> Result<bool> {
    let mut buf = vec![0; ZEROS.len()];
    for (part, _) in segments(storage, range).filter(|(_, hole)| !hole) {
        for at in part.clone().step_by(ZEROS.len()) {
            let len = to_usize(part.end - at).min(ZEROS.len());
            let bytes = &mut buf[..len];
            storage
                .read_exact_at(bytes, at)
                .map_err(|e| Error::io("cannot read", e).in_structure("extent file"))?;
            if !is_zero(bytes) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Removes files that still have their names.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if one cannot be removed.
pub(super) fn remove(files: Vec<(PathBuf, Arc<dyn Storage>)>) -> Result<()> {
    for (path, file) in files {
        if HostFileId::at(&path) == file.identity() {
            std::fs::remove_file(&path).map_err(|e| {
                Error::io(
                    "the disk was resized, but an extent's file that it does not use any \
                           more cannot be removed",
                    e,
                )
                .in_file(&path)
            })?;
        }
    }
    Ok(())
}
