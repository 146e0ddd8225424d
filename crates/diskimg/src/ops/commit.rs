//! `commit`: writes what an image stores into one of its backing files.

use crate::error::{Error, Result};
use crate::model::backing::Backing;
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::mutable::{MutableLayer, WriteRequest};
use crate::open::OpenOptions;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::ops::convert::{Reflink, Selection, Write};
use crate::ops::in_place::{lock_to_read, modify_file, refuse_further_files};
use crate::ops::progress::Callback;
use crate::ops::resize::{NewSize, Resize};
use crate::storage::caching::Caching;
use crate::storage::edit::Storage;
use crate::storage::locking::Lock;
use crate::storage::output::existing_identity;
use crate::storage::source::Source;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writes what an image stores into its backing file, in place: a builder that is configured and then
/// run.
///
/// The image is emptied afterwards. If the process is killed or power is lost, the disk has the same
/// content as before, seen through the image; running it again completes it. The backing file alone
/// may have a mixture of old and new sectors then.
///
/// ```no_run
/// use diskimg::Commit;
///
/// let done = Commit::new().run("overlay.qcow2")?;
/// println!("{} bytes written to {}", done.stored_bytes, done.base);
/// # Ok::<(), diskimg::Error>(())
/// ```
pub struct Commit<'a> {
    options: OpenOptions,
    base: Option<String>,
    keep: bool,
    threads: Option<usize>,
    rate_limit: Option<u64>,
    caching: Caching,
    progress: Option<Callback<'a>>,
}

/// The result of [`Commit::run`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// The file that was written.
    pub base: String,
    /// Bytes of guest data written to it.
    pub stored_bytes: u64,
    /// Whether the image was emptied.
    pub emptied: bool,
}

impl fmt::Debug for Commit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit")
            .field("base", &self.base)
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

impl Default for Commit<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// A backing file that is to be written.
struct Base {
    depth: usize,
    path: PathBuf,
    format: Format,
    /// Whether the image that refers to it does not record its format.
    is_probed: bool,
    size: u64,
}

impl<'a> Commit<'a> {
    /// Creates a builder that writes into the image's own backing file.
    pub fn new() -> Self {
        Self {
            options: OpenOptions::new(),
            base: None,
            keep: false,
            threads: None,
            rate_limit: None,
            caching: Caching::default(),
            progress: None,
        }
    }

    /// Sets how the image and its backing files are opened: format, external files and limits. The
    /// image itself and the file that is written are always locked.
    #[must_use]
    pub fn open_options(mut self, options: OpenOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets the backing file that is written: any of the chain, by the name that its overlay records
    /// or by its path. It also gets what the images between it and this one store. Those must not be
    /// used afterwards, and the image is not emptied.
    #[must_use]
    pub fn base(mut self, name: impl Into<String>) -> Self {
        self.base = Some(name.into());
        self
    }

    /// Sets whether the image is left as it is instead of being emptied.
    #[must_use]
    pub fn keep(mut self, yes: bool) -> Self {
        self.keep = yes;
        self
    }

    /// Sets the maximum number of threads; see [`Convert::threads`](crate::Convert::threads).
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Limits the average write rate to this many bytes per second. 0 means no limit.
    #[must_use]
    pub fn rate_limit(mut self, bytes_per_second: u64) -> Self {
        self.rate_limit = Some(bytes_per_second).filter(|&rate| rate > 0);
        self
    }

    /// Sets how the page cache is used for the file that is written.
    #[must_use]
    pub fn caching(mut self, caching: Caching) -> Self {
        self.caching = caching;
        self
    }

    /// Sets a callback that receives progress and can cancel the operation.
    #[must_use]
    pub fn progress(mut self, callback: Callback<'a>) -> Self {
        self.progress = Some(callback);
        self
    }

    /// Commits the image at `path`, a regular file or a block device.
    ///
    /// A backing file that is smaller than the image is made larger first.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the image has no backing file, or not this one;
    /// - [`Locked`](crate::ErrorKind::Locked) if another process uses the image or the file that is
    ///   written, or writes to another file of the chain;
    /// - [`Refused`](crate::ErrorKind::Refused) if the file that is written also is a part of
    ///   another image of the chain;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the backing file cannot be written or
    ///   made larger in place, or if the image could not be opened afterwards, because it records an
    ///   identifier of the contents of its backing file;
    /// - [`Cancelled`](crate::ErrorKind::Cancelled) if the progress callback stops it;
    /// - the errors of [`OpenOptions::open`] and of writing.
    pub fn run(&self, path: impl AsRef<Path>) -> Result<Committed> {
        modify_file(path.as_ref(), |top, name| {
            self.lock_and(&top, &name, |base| {
                modify_file(&base.path, |storage, base_name| {
                    self.commit(&top, &name, base, storage, base_name)
                })
            })
        })
    }

    /// Commits an image in any storage, which errors refer to as `name`. The storage `base` is used
    /// for the file of its path.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn run_on(
        &self,
        top: Arc<dyn Storage>,
        name: impl Into<String>,
        base: Arc<dyn Storage>,
    ) -> Result<Committed> {
        let name = name.into();
        self.lock_and(&top, &name, |found| {
            let base_name = found.path.display().to_string();
            self.commit(&top, &name, found, base, base_name)
        })
    }

    fn lock_and(
        &self,
        top: &Arc<dyn Storage>,
        name: &str,
        then: impl FnOnce(&Base) -> Result<Committed>,
    ) -> Result<Committed> {
        let outcome = top
            .lock(Lock::WRITE)
            .map_err(|e| Error::io("cannot lock it", e))
            .and_then(|()| self.prepare(top, name))
            .and_then(|base| then(&base));
        outcome.map_err(|e| e.in_file(name))
    }

    fn options(&self) -> OpenOptions {
        // Files are locked once it is known which of them is written.
        self.options.clone().snapshot(None).disk(None).force_share(true)
    }

    /// Finds the backing file, and makes it as large as the image.
    fn prepare(&self, top: &Arc<dyn Storage>, name: &str) -> Result<Base> {
        let source: Arc<dyn Source> = top.clone();
        let options = self.options().metadata_only(true).with_chain(true);
        let image = options.open_source(source, name)?;
        let base = self.find_base(&image)?;
        let size = image.size();
        if base.size < size {
            let format = (!base.is_probed).then_some(base.format);
            // The format was probed or named by an image, not by the caller.
            let options = self.options.clone().format(format);
            Resize::new(NewSize::Bytes(size)).open_options(options).run(&base.path)?;
        }
        Ok(base)
    }

    fn find_base(&self, image: &Image) -> Result<Base> {
        if image.layers().len() < 2 {
            return Err(Error::invalid("Image does not have a backing file"));
        }
        let depth = match &self.base {
            None => 1,
            Some(name) => depth_of(image, name).ok_or_else(|| {
                let top = image.name(0);
                let message = format!("Did not find '{name}' in the backing chain of '{top}'");
                Error::invalid(message)
            })?,
        };
        let layer = image.layer(depth);
        let child = image.layer(depth - 1);
        let path = layer.files().first().and_then(|file| file.path());
        let path = path.filter(|_| image.is_local_at(depth)).ok_or_else(|| {
            image.in_layer(Error::unsupported("it is not a file of this host"), depth)
        })?;
        // Writing gives the backing file a new identifier.
        let is_kept = depth == 1 && !self.keep && self.base.is_none();
        if is_kept && child.parent_content_id().is_some() && !survives_new_content(child.format()) {
            return Err(Error::unsupported(format!(
                "it records an identifier of the contents of its backing file, which changes when \
                 these are written: {} images could not be opened any more",
                child.format().name()
            ))
            .hint("commit it without keeping it"));
        }
        Ok(Base {
            depth,
            path: path.to_owned(),
            format: layer.format(),
            is_probed: child.parent().is_none_or(|parent| parent.format.is_none()),
            size: layer.disk_layout().size,
        })
    }

    fn commit(
        &self,
        top: &Arc<dyn Storage>,
        name: &str,
        base: &Base,
        storage: Arc<dyn Storage>,
        base_name: String,
    ) -> Result<Committed> {
        let in_base = |e: Error| e.in_file(&base.path);
        storage.lock(Lock::WRITE).map_err(|e| Error::io("cannot lock it", e)).map_err(in_base)?;
        let (source, file): (Arc<dyn Source>, Arc<dyn Source>) = (top.clone(), storage.clone());
        let options = self.options().metadata_only(false);
        let stand_ins = vec![(base.path.clone(), file)];
        let disk = options.clone().stand_ins(stand_ins).open_source(source, name)?;
        if base.is_probed {
            let error = "the image does not record the format of its backing file";
            refuse_further_files(&disk, base.depth, error).map_err(in_base)?;
        }
        self.require_separate(&disk, base)?;
        // Whether the image can be modified is known before anything is written.
        let own = open_mutable(&options, disk.format(), top, "emptied")?;
        let linked = linked_parent(&disk, base);
        if let Some(parent) = &linked {
            own.backing_edits(Some(parent))?;
        }
        let is_kept = self.keep || self.base.is_some();
        let base_options = options.format(base.format);
        let layer = open_mutable(&base_options, base.format, &storage, "written");
        let write = Write {
            selection: Selection::StoredIn(disk.top_layers(base.depth)),
            target: disk.layers_from(base.depth),
            layer: layer.map_err(in_base)?,
            storage: Arc::clone(&storage),
            name: base_name.clone(),
            request: WriteRequest { compress: false, hides_backing: false },
            threads: self.threads,
            rate_limit: self.rate_limit,
            caching: self.caching,
            // What is emptied afterwards is not stored twice.
            reflink: if is_kept { Reflink::Never } else { Reflink::Auto },
            progress: self.progress,
            disk: disk.clone(),
        };
        let stored_bytes = write.run()?;
        if let Some(parent) = linked {
            let source: Arc<dyn Source> = storage;
            let written = base_options.metadata_only(true).alone().open_source(source, "")?;
            let content_id = written.layer(0).content_ids().into_iter().next();
            let edits = own.backing_edits(Some(&Backing { content_id, ..parent }))?;
            edits.apply(&**top).map_err(|e| Error::io("cannot modify the image", e))?;
        }
        let emptied = if is_kept { false } else { own.make_empty()? };
        Ok(Committed { base: base_name, stored_bytes, emptied })
    }

    /// Locks the files of the chain that are only read, and verifies that none of them is written.
    fn require_separate(&self, disk: &Image, base: &Base) -> Result<()> {
        let written = disk.only(base.depth);
        for depth in 0..disk.layers().len() {
            if depth == base.depth {
                continue;
            }
            if written.shares_data_with(disk.only(depth).identities()) {
                let message =
                    "a file of the backing file is also one of another image of the chain";
                return Err(Error::refused(message));
            }
            if depth > 0 && !self.options.ignores_locks() {
                lock_to_read(disk, depth)?;
            }
        }
        Ok(())
    }
}

/// Returns true if images of this format can be opened after their backing file was written: its
/// identifier is changed in a VMDK, and a VHD keeps its own.
fn survives_new_content(format: Format) -> bool {
    matches!(format.name(), "vmdk" | "vpc")
}

/// Returns what a VMDK records of its parent, if that is written and gets another identifier of its
/// contents.
fn linked_parent(disk: &Image, base: &Base) -> Option<Backing> {
    let layer = disk.layer(0);
    let id = layer.parent_content_id().filter(|_| base.depth == 1)?;
    let parent = layer.parent().filter(|_| disk.format().name() == "vmdk")?;
    Some(Backing { content_id: Some(id), ..Backing::new(parent.name.clone()) })
}

fn open_mutable(
    options: &OpenOptions,
    format: Format,
    storage: &Arc<dyn Storage>,
    done: &str,
) -> Result<Box<dyn MutableLayer>> {
    let open = format.driver().open_mutable.ok_or_else(|| {
        Error::unsupported(format!("images of format {} cannot be {done}", format.name()))
    })?;
    options.clone().format(format).open_mutable(Arc::clone(storage), open)
}

/// Returns the depth of the backing file with this name: as its overlay records it, as a path from
/// the directory of its overlay, or as an absolute path.
fn depth_of(image: &Image, name: &str) -> Option<usize> {
    let is_named = |&depth: &usize| {
        let child = image.layer(depth - 1);
        if child.parent().is_some_and(|parent| parent.name == name) {
            return true;
        }
        let own = image.layer(depth).files().first().and_then(|file| file.identity());
        let path = child.files().first().and_then(|file| file.path());
        let resolver = Resolver::new(path, ExternalFiles::Any);
        let named = resolver.resolve("backing file", name).ok();
        own.is_some() && named.and_then(|path| existing_identity(&path)) == own
    };
    (1..image.layers().len()).find(is_named)
}
