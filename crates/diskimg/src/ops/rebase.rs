//! `rebase`: changes the backing file of an image in place.

use crate::error::{Error, Result};
use crate::model::backing::Backing;
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::mutable::{MutableLayer, WriteRequest};
use crate::open::OpenOptions;
use crate::ops::convert::{Reflink, Selection, Write};
use crate::ops::in_place::{lock_to_read, modify_file, refuse_further_files};
use crate::ops::new_image::open_backing;
use crate::ops::progress::Callback;
use crate::remedy::Remedy;
use crate::storage::caching::Caching;
use crate::storage::edit::Storage;
use crate::storage::locking::Lock;
use crate::storage::source::Source;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Changes the backing file of an image in place: a builder that is configured and then run.
///
/// The disk keeps its content: what the old and the new backing file show differently is written
/// into the image first. If the process is killed or power is lost, the image has its old or its new
/// backing file and the same content as before. Clusters may be allocated without being used then.
/// Running it again completes it.
///
/// ```no_run
/// use diskimg::{Backing, Rebase};
///
/// let base = Backing::new("base.qcow2").with_format("qcow2");
/// Rebase::new(base).run("overlay.qcow2")?;
/// // Without a backing file, the image contains the whole disk.
/// Rebase::new(None).run("overlay.qcow2")?;
/// # Ok::<(), diskimg::Error>(())
/// ```
pub struct Rebase<'a> {
    backing: Option<Backing>,
    header_only: bool,
    options: OpenOptions,
    backing_options: OpenOptions,
    compress: bool,
    threads: Option<usize>,
    caching: Caching,
    progress: Option<Callback<'a>>,
}

/// The result of [`Rebase::run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebased {
    /// Bytes of guest data written to the image.
    pub stored_bytes: u64,
}

impl fmt::Debug for Rebase<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rebase")
            .field("backing", &self.backing)
            .field("header_only", &self.header_only)
            .finish_non_exhaustive()
    }
}

impl<'a> Rebase<'a> {
    /// Creates a builder for this backing file, with a format, or for none, which an empty name
    /// stands for, too. A relative name is resolved from the directory of the image.
    pub fn new(backing: impl Into<Option<Backing>>) -> Self {
        Self {
            backing: backing.into().filter(|backing| !backing.name.is_empty()),
            header_only: false,
            options: OpenOptions::new(),
            backing_options: OpenOptions::new(),
            compress: false,
            threads: None,
            caching: Caching::default(),
            progress: None,
        }
    }

    /// Sets whether only the reference to the backing file is changed, which changes the content of
    /// the disk unless both backing files have the same. Neither of them is opened.
    #[must_use]
    pub fn header_only(mut self, yes: bool) -> Self {
        self.header_only = yes;
        self
    }

    /// Sets how the image and its old backing files are opened: format, external files and limits.
    /// The image itself is always locked.
    #[must_use]
    pub fn open_options(mut self, options: OpenOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets how the new backing file is opened. Its format is that of the [`Backing`].
    #[must_use]
    pub fn backing_options(mut self, options: OpenOptions) -> Self {
        self.backing_options = options;
        self
    }

    /// Sets whether the clusters that are written are compressed.
    #[must_use]
    pub fn compress(mut self, yes: bool) -> Self {
        self.compress = yes;
        self
    }

    /// Sets the maximum number of threads; see [`Convert::threads`](crate::Convert::threads).
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets how the page cache is used for the image.
    #[must_use]
    pub fn caching(mut self, caching: Caching) -> Self {
        self.caching = caching;
        self
    }

    /// Sets a callback that receives progress and can cancel the operation. The image keeps its old
    /// backing file then.
    #[must_use]
    pub fn progress(mut self, callback: Callback<'a>) -> Self {
        self.progress = Some(callback);
        self
    }

    /// Changes the backing file of the image at `path`, a regular file or a block device.
    ///
    /// # Errors
    /// - [`Locked`](crate::ErrorKind::Locked) if another process uses the image or writes to a
    ///   backing file;
    /// - [`Refused`](crate::ErrorKind::Refused) if the image would be its own backing file;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the backing file of images of this
    ///   format, or with one of this image's features, cannot be changed in place;
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the format of the backing file is not given, or
    ///   clusters of this image cannot be compressed;
    /// - [`Limit`](crate::ErrorKind::Limit) if the header has no room for the name;
    /// - [`Cancelled`](crate::ErrorKind::Cancelled) if the progress callback stops it;
    /// - the errors of [`OpenOptions::open`] and of writing.
    pub fn run(&self, path: impl AsRef<Path>) -> Result<Rebased> {
        modify_file(path.as_ref(), |storage, name| self.run_on(storage, name))
    }

    /// Changes the backing file of an image in any storage. Errors refer to the image as `name`.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn run_on(&self, storage: Arc<dyn Storage>, name: impl Into<String>) -> Result<Rebased> {
        let name = name.into();
        let outcome = storage
            .lock(Lock::WRITE)
            .map_err(|e| Error::io("cannot lock it", e))
            .and_then(|()| self.rebase(&storage, &name));
        outcome.map_err(|e| e.in_file(name))
    }

    fn rebase(&self, storage: &Arc<dyn Storage>, name: &str) -> Result<Rebased> {
        let mut backing = self.backing.clone();
        match backing.as_ref().map(|backing| backing.format.as_deref()) {
            Some(None) => {
                let error = Error::invalid("backing format must be specified");
                return Err(self.cannot_change(error).with_remedy(Remedy::NameBackingFormat));
            }
            Some(Some(format)) => {
                Format::of_backing(format)?;
            }
            None => {}
        }
        let options = self.options.clone().snapshot(None).disk(None);
        let header = Opened::open(&options.metadata_only(true).alone(), storage, name)?;
        let stored_bytes = match self.header_only {
            true => 0,
            false => self.write(storage, name, &mut backing)?,
        };
        self.edit(&*header.layer, backing.as_ref(), |edits| {
            edits.apply(&**storage).map_err(|e| Error::io("cannot modify the image", e))
        })?;
        Ok(Rebased { stored_bytes })
    }

    /// Writes what the backing files show differently. Returns the number of bytes of guest data.
    fn write(
        &self,
        storage: &Arc<dyn Storage>,
        name: &str,
        backing: &mut Option<Backing>,
    ) -> Result<u64> {
        // The image is locked; what it names is locked below, or when it is opened to write.
        let options = self.options.clone().snapshot(None).disk(None).metadata_only(false);
        let Opened { image, layer } = Opened::open(&options.force_share(true), storage, name)?;
        if self.options.is_probed() {
            refuse_further_files(&image, 0, "its format is not named")
                .map_err(|e| e.with_remedy(Remedy::NameFormat))?;
        }
        let new = match backing {
            Some(backing) => {
                let options = self.backing_options.clone().force_share(true);
                let new = open_backing(backing, storage.path(), &options)?;
                if image.only(0).shares_data_with(new.identities()) {
                    return Err(Error::refused("the image cannot be its own backing file"));
                }
                Some(new)
            }
            None => None,
        };
        // Whether the name fits is known before anything is written.
        self.edit(&*layer, backing.as_ref(), |_| Ok(()))?;
        if image.backing().is_some_and(|old| image.only(0).shares_data_with(old.identities())) {
            let message = "one of its files is also a file of its own backing file";
            return Err(Error::refused(message));
        }
        if !self.options.ignores_locks() {
            (1..image.layers().len()).try_for_each(|depth| lock_to_read(&image, depth))?;
        }
        if let Some(new) = new.as_ref().filter(|_| !self.backing_options.ignores_locks()) {
            (0..new.layers().len()).try_for_each(|depth| lock_to_read(new, depth))?;
        }
        let view = match &new {
            Some(new) => image.only(0).over(new),
            None => image.only(0),
        };
        let write = Write {
            target: image.clone(),
            disk: image,
            selection: Selection::Differing(view),
            layer,
            storage: Arc::clone(storage),
            name: name.to_owned(),
            request: WriteRequest { compress: self.compress, hides_backing: new.is_some() },
            threads: self.threads,
            rate_limit: None,
            caching: self.caching,
            reflink: Reflink::Never,
            progress: self.progress,
        };
        write.run()
    }

    /// Calls `then` with the modifications that change the reference to the backing file.
    fn edit(
        &self,
        layer: &dyn MutableLayer,
        backing: Option<&Backing>,
        then: impl FnOnce(crate::storage::edit::Edits) -> Result<()>,
    ) -> Result<()> {
        layer.backing_edits(backing).and_then(then).map_err(|e| self.cannot_change(e))
    }

    fn cannot_change(&self, error: Error) -> Error {
        let name = self.backing.as_ref().map_or("", |backing| &backing.name);
        error.prefixed(&format!("Could not change the backing file to '{name}'"))
    }
}

/// An image that is open for reading and for modification.
struct Opened {
    image: Image,
    layer: Box<dyn MutableLayer>,
}

impl Opened {
    fn open(options: &OpenOptions, storage: &Arc<dyn Storage>, name: &str) -> Result<Self> {
        let source: Arc<dyn Source> = storage.clone();
        let image = options.open_source(source, name)?;
        let format = image.format();
        let open = format.driver().open_mutable.ok_or_else(|| {
            Error::unsupported(format!("images of format {} cannot be rebased", format.name()))
        })?;
        let layer = options.clone().format(format).open_mutable(Arc::clone(storage), open)?;
        Ok(Self { image, layer })
    }
}
