//! A qcow2 image that is modified in place.

mod bitmaps;

pub use bitmaps::BitmapChanges;

use super::edit;
use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::open::{OpenOptions, SnapshotSelector, local_path};
use crate::report::info;
use crate::storage::edit::{FileStorage, Reopened, Storage};
use crate::storage::locking::Lock;
use crate::storage::output::verify_name;
use crate::storage::source::Source;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// A qcow2 image that is modified in place. No other process can write to it, or read it with a
/// lock, until this is dropped.
///
/// Every modification is made as a whole or not at all: if it fails, or the process is killed, or
/// power is lost, the image is as it was before or as it is afterwards. Backing files are not
/// opened.
///
/// ```no_run
/// use diskimg::SnapshotSelector;
/// use diskimg::formats::qcow2::Qcow2Mut;
///
/// let mut image = Qcow2Mut::open("disk.qcow2")?;
/// let created = image.create_snapshot("before the update")?;
/// // Later, the update turns out to be wrong.
/// image.apply_snapshot(&SnapshotSelector::IdOrName(created.id))?;
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug)]
pub struct Qcow2Mut {
    storage: Arc<dyn Storage>,
    name: String,
    options: OpenOptions,
}

impl Qcow2Mut {
    /// Opens and locks the qcow2 image at `path`, a regular file or a block device.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, OpenOptions::new().format(Format::Qcow2))
    }

    /// Opens and locks an image with options, of which format, external files and limits apply.
    ///
    /// # Errors
    /// - [`Locked`](crate::ErrorKind::Locked) if another process uses the image;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if it is not a qcow2 image;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if it is damaged;
    /// - the errors of [`OpenOptions::open`].
    pub fn open_with(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self> {
        let name = path.as_ref();
        let open = || FileStorage::open(local_path(name)?).map_err(|e| Error::io("cannot open", e));
        let storage = open().map_err(|e| e.in_file(name))?;
        Self::open_on(Arc::new(storage), name.display().to_string(), options)
    }

    /// Opens and locks an image in any storage. Errors refer to it as `name`.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open_on(
        storage: Arc<dyn Storage>,
        name: impl Into<String>,
        options: OpenOptions,
    ) -> Result<Self> {
        let options = options.snapshot(None).disk(None).metadata_only(true).with_chain(false);
        let image = Self { storage, name: name.into(), options };
        image.lock().map_err(|e| e.in_file(&image.name))?;
        Ok(image)
    }

    fn lock(&self) -> Result<()> {
        self.storage.lock(Lock::WRITE).map_err(|e| Error::io("cannot lock it", e))?;
        let source: Arc<dyn Source> = self.storage.clone();
        let found = self.options.open_source(source, &*self.name)?.format();
        match found {
            Format::Qcow2 => Ok(()),
            other => Err(Error::unsupported(format!(
                "its format is {}, but only qcow2 images can be modified in this way",
                other.name()
            ))),
        }
    }

    /// Calls `change` with the image as it is now.
    fn with<T>(&self, change: impl FnOnce(&edit::Qcow2Mut) -> Result<T>) -> Result<T> {
        let outcome = self.open_image().and_then(|image| change(&image));
        outcome.map_err(|e| e.in_file(&self.name))
    }

    /// Opens the image as it is now.
    fn open_image(&self) -> Result<edit::Qcow2Mut> {
        self.options.open_mutable(Reopened::of(&self.storage), edit::open_image)
    }

    /// As [`with`](Self::with), and verifies that the image still has its name.
    fn modify<T>(&mut self, change: impl FnOnce(&edit::Qcow2Mut) -> Result<T>) -> Result<T> {
        let image = self.open_image().map_err(|e| e.in_file(&self.name))?;
        self.modify_opened(|| change(&image))
    }

    /// As [`modify`](Self::modify), for an image that is open.
    fn modify_opened<T>(&mut self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let outcome = change().map_err(|e| e.in_file(&self.name))?;
        if let (Some((file, _)), Some(path)) = (self.storage.as_file(), self.storage.path()) {
            verify_name(file, path).map_err(|e| Error::output("cannot complete the image", e))?;
        }
        Ok(outcome)
    }

    /// Returns the internal snapshots, in the order in which they are stored.
    ///
    /// # Errors
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if the image is damaged;
    /// - [`Io`](crate::ErrorKind::Io) if reading fails.
    pub fn snapshots(&self) -> Result<Vec<info::Snapshot>> {
        self.with(edit::Qcow2Mut::snapshot_list)
    }

    /// Creates an internal snapshot of the disk as it is now, and returns it. Its ID is the highest
    /// one of the image and 1. The name, of at most 255 bytes, may be empty, and need not be unique.
    ///
    /// Time and memory depend on the metadata of the image: no guest data is read.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the name cannot be stored;
    /// - [`Limit`](crate::ErrorKind::Limit) if the image has 65,536 snapshots, if the snapshot table
    ///   would exceed 64 MiB, or if a refcount would be larger than its bits allow;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the image has an external data file;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if it is damaged, or was not closed properly;
    /// - [`Io`](crate::ErrorKind::Io) if reading or writing fails.
    pub fn create_snapshot(&mut self, name: &str) -> Result<info::Snapshot> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let id = self.modify(|image| image.create_snapshot(name, now))?;
        let created = self.snapshots()?.into_iter().find(|snapshot| snapshot.id == id);
        created.ok_or_else(|| Error::corrupt("snapshot table", "the new snapshot is missing"))
    }

    /// Makes the disk equal to a snapshot, which remains. The disk gets the size that it had then;
    /// what was written since then is lost.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if there is no such snapshot;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the image has bitmaps or an external data
    ///   file, or if it has version 2 and the snapshot another size than the disk;
    /// - [`Limit`](crate::ErrorKind::Limit), [`Corrupt`](crate::ErrorKind::Corrupt) and
    ///   [`Io`](crate::ErrorKind::Io) as [`create_snapshot`](Self::create_snapshot).
    pub fn apply_snapshot(&mut self, which: &SnapshotSelector) -> Result<()> {
        self.modify(|image| image.apply_snapshot(which))
    }

    /// Deletes a snapshot, the first one that matches. Clusters that nothing else uses are
    /// deallocated.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if there is no such snapshot;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported), [`Corrupt`](crate::ErrorKind::Corrupt) and
    ///   [`Io`](crate::ErrorKind::Io) as [`create_snapshot`](Self::create_snapshot).
    pub fn delete_snapshot(&mut self, which: &SnapshotSelector) -> Result<()> {
        self.modify(|image| image.delete_snapshot(which))
    }
}
