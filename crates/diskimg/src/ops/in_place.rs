//! What the operations have in common that modify an image in place.

use crate::error::{Error, Result};
use crate::model::image::Image;
use crate::model::mutable::MutableLayer;
use crate::open::{OpenOptions, local_path, lock_error};
use crate::storage::edit::{FileStorage, Storage};
use crate::storage::locking::Lock;
use crate::storage::output::verify_name;
use crate::storage::source::Source;
use std::path::Path;
use std::sync::Arc;

/// Opens the file at `path` for reading and writing, and calls `modify` with it and with its name
/// for error messages. Verifies afterwards that the path still refers to this file.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the file cannot be opened, the errors of `modify`, and
/// [`Output`](crate::ErrorKind::Output) if another file has the name now.
pub(super) fn modify_file<T>(
    path: &Path,
    modify: impl FnOnce(Arc<dyn Storage>, String) -> Result<T>,
) -> Result<T> {
    let open = || FileStorage::open(local_path(path)?).map_err(|e| Error::io("cannot open", e));
    let storage = Arc::new(open().map_err(|e| e.in_file(path))?);
    let result = modify(Arc::clone(&storage) as Arc<dyn Storage>, path.display().to_string())?;
    if let (Some((file, _)), Some(path), false) =
        (storage.as_file(), storage.path(), storage.is_replaced())
    {
        verify_name(file, path).map_err(|e| Error::output("cannot complete the image", e))?;
    }
    Ok(result)
}

/// Locks the files of a layer for reading.
///
/// # Errors
/// Returns [`Locked`](crate::ErrorKind::Locked) if another process writes one of them.
pub(super) fn lock_to_read(image: &Image, depth: usize) -> Result<()> {
    let Some(layer) = image.layers().nth(depth) else { return Ok(()) };
    layer.files().iter().try_for_each(|file| {
        file.lock(Lock::READ).map_err(|e| match file.path() {
            Some(path) => lock_error(e).in_file(path),
            None => image.in_layer(lock_error(e), depth),
        })
    })
}

/// Verifies that a layer whose format is not known for certain, because of `why`, has no further
/// files that would be written: it may be a raw disk into which a guest wrote a header that names
/// files of the host.
///
/// # Errors
/// Returns [`Refused`](crate::ErrorKind::Refused) if it has.
pub(super) fn refuse_further_files(image: &Image, depth: usize, why: &str) -> Result<()> {
    match image.layers().nth(depth) {
        Some(layer) if layer.files().len() > 1 => {
            let message = format!("it names further files, which would be written, and {why}");
            let hint = "a guest can write the header of any format into a raw disk";
            Err(Error::refused(message).hint(hint))
        }
        _ => Ok(()),
    }
}

/// Verifies that the file of an image is not compressed as a whole.
///
/// # Errors
/// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if it is.
pub(super) fn refuse_compressed(image: &Image) -> Result<()> {
    match image.compression_at(0) {
        Some(codec) => {
            let message = format!("compressed files ({codec}) are only read");
            Err(Error::unsupported(message).hint("decompress it, or convert it to a new image"))
        }
        None => Ok(()),
    }
}

/// An image that no other process uses, and whose file is open for writing.
#[derive(Debug)]
pub(super) struct LockedImage {
    /// The file, which stays locked as long as this exists.
    storage: Arc<dyn Storage>,
    /// The image and its backing chain, open for reading.
    pub(super) image: Image,
    /// How they were opened.
    pub(super) options: OpenOptions,
}

impl LockedImage {
    /// Locks the file and opens the image. Errors refer to it as `name`.
    ///
    /// The backing files are locked for reading, unless `options` ignore locks, and so are further
    /// files of the image, except where the format locks them itself when it is modified.
    ///
    /// # Errors
    /// Returns [`Locked`](crate::ErrorKind::Locked) if another process uses the image, and the
    /// errors of [`OpenOptions::open`].
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        options: &OpenOptions,
        name: &str,
    ) -> Result<Self> {
        Self::open_locking(storage, options, name, |image| {
            usize::from(image.format().driver().locks_further_files)
        })
    }

    /// As [`open`](Self::open), for an image into which guest bytes are written: every format locks
    /// the further files of the image itself for that.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn open_to_write(
        storage: Arc<dyn Storage>,
        options: &OpenOptions,
        name: &str,
    ) -> Result<Self> {
        Self::open_locking(storage, options, name, |_| 1)
    }

    /// Locks the files of the layers from the one that `first` returns.
    fn open_locking(
        storage: Arc<dyn Storage>,
        options: &OpenOptions,
        name: &str,
        first: impl FnOnce(&Image) -> usize,
    ) -> Result<Self> {
        storage.lock(Lock::WRITE).map_err(|e| Error::io("cannot lock it", e))?;
        let options = options.clone().snapshot(None).disk(None).metadata_only(false);
        let ignores_locks = options.ignores_locks();
        let options = options.force_share(true);
        let source: Arc<dyn Source> = storage.clone();
        // Before it would be decompressed.
        refuse_compressed(&options.clone().metadata_only(true).open_source(source, name)?)?;
        let source: Arc<dyn Source> = storage.clone();
        let image = options.open_source(source, name)?;
        if !ignores_locks {
            (first(&image)..image.layers().len())
                .try_for_each(|depth| lock_to_read(&image, depth))?;
        }
        Ok(Self { storage, image, options })
    }

    /// Returns what modifies the image. `done` completes the sentence "images of this format cannot
    /// be …".
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if images of this format cannot be
    /// modified in place, and the errors of opening the image.
    pub(super) fn mutable(&self, done: &str) -> Result<Box<dyn MutableLayer>> {
        let format = self.image.format();
        let open = format.driver().open_mutable.ok_or_else(|| {
            Error::unsupported(format!("images of format {} cannot be {done}", format.name()))
        })?;
        self.options.open_mutable(Arc::clone(&self.storage), open)
    }
}
