//! Opening an image: its format, its backing chain, and the files that it references.

pub(crate) mod driver;
pub mod external_files;
pub(crate) mod limits;
mod node;
pub(crate) mod probe;

pub use node::Node;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::format::Format;
use crate::model::image::{Image, Link};
use crate::model::layer::{Layer, ParentLocator};
use crate::model::mutable::MutableLayer;
use crate::open::driver::OpenMutable;
use crate::open::external_files::{ExternalFiles, Resolver, StandIn, plain_path, real_path};
use crate::open::limits::Limits;
use crate::open::probe::Probing;
use crate::remedy::Remedy;
use crate::storage::caching::Caching;
use crate::storage::edit::Storage;
use crate::storage::locking::Lock;
use crate::storage::source::{FileSource, ReadMode, Source, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Options for opening an image.
///
/// ```no_run
/// use diskimg::{Format, OpenOptions, ExternalFiles};
///
/// let image = OpenOptions::new()
///     .format(Format::Qcow2)
///     .external_files(ExternalFiles::None)
///     .open("upload.img")?;
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    format: Option<Format>,
    probing: Probing,
    external_files: ExternalFiles,
    limits: Arc<Limits>,
    snapshot: Option<SnapshotSelector>,
    disk: Option<String>,
    metadata_only: bool,
    with_chain: bool,
    with_extents: bool,
    ignore_content_id: bool,
    force_share: bool,
    read_mode: ReadMode,
    alone: bool,
    stand_ins: Vec<StandIn>,
}

/// Which internal snapshot to read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotSelector {
    /// The snapshot with this ID or, if there is none, with this name.
    IdOrName(String),
    /// The snapshot that matches all given values.
    Exactly {
        /// ID.
        id: Option<String>,
        /// Name.
        name: Option<String>,
    },
}

/// Parameters of a format's `open`.
#[derive(Debug)]
pub(crate) struct OpenContext<'a> {
    /// Opens the files that the image references.
    pub(crate) resolver: Resolver<'a>,
    /// Limits.
    pub(crate) limits: &'a Limits,
    /// Snapshot to read instead of the active disk.
    pub(crate) snapshot: Option<&'a SnapshotSelector>,
    /// Disk of an appliance to read.
    pub(crate) disk: Option<&'a str>,
    /// Guest bytes will not be read, so other files need not be opened.
    pub(crate) metadata_only: bool,
    /// With `metadata_only`: open other files that contain the image's tables nevertheless.
    pub(crate) with_extents: bool,
    /// The backing file will be opened.
    pub(crate) with_parent: bool,
    /// The format was probed, not specified by the caller.
    pub(crate) probed: bool,
}

impl OpenOptions {
    /// Creates the default options: the format is probed, referenced files must be in the image's
    /// directory, and limits have their default values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Selects the formats that probing recognizes.
    #[must_use]
    pub fn probing(mut self, probing: Probing) -> Self {
        self.probing = probing;
        self
    }

    /// Sets the format. `None` (the default) probes it.
    #[must_use]
    pub fn format(mut self, format: impl Into<Option<Format>>) -> Self {
        self.format = format.into();
        self
    }

    /// Sets which other files the image may reference.
    #[must_use]
    pub fn external_files(mut self, policy: ExternalFiles) -> Self {
        self.external_files = policy;
        self
    }

    /// Sets the limits on the resources that the image may use.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Arc::new(limits);
        self
    }

    /// Selects an internal snapshot to read instead of the active disk.
    #[must_use]
    pub fn snapshot(mut self, snapshot: impl Into<Option<SnapshotSelector>>) -> Self {
        self.snapshot = snapshot.into();
        self
    }

    /// Selects the disk of an appliance (OVA or OVF) to read, by its number, counted from 1, its
    /// file name, or its `diskId`. Not needed if the appliance has one disk.
    #[must_use]
    pub fn disk(mut self, disk: impl Into<Option<String>>) -> Self {
        self.disk = disk.into();
        self
    }

    /// Opens the image only for [`info`](Image::info) and [`check`](Image::check). Backing files
    /// and data files are not opened, so guest bytes must not be read: those of a backing file
    /// would read as zeros.
    #[must_use]
    pub fn metadata_only(mut self, yes: bool) -> Self {
        self.metadata_only = yes;
        self
    }

    /// With [`metadata_only`](Self::metadata_only), opens the backing files as well, for their
    /// [`info`](Image::info).
    #[must_use]
    pub fn with_chain(mut self, yes: bool) -> Self {
        self.with_chain = yes;
        self
    }

    /// With [`metadata_only`](Self::metadata_only), opens files that contain the image's tables
    /// (the extents of a split VMDK) as well, if they are in its directory. The notes of
    /// [`info`](Image::info) mention files that cannot be opened.
    #[must_use]
    pub fn with_extents(mut self, yes: bool) -> Self {
        self.with_extents = yes;
        self
    }

    /// Accepts a backing file whose content ID (VMDK's CID) does not match, because it was modified
    /// after the overlay was created or is a different image. The guest's bytes may then be
    /// inconsistent.
    #[must_use]
    pub fn ignore_content_id(mut self, yes: bool) -> Self {
        self.ignore_content_id = yes;
        self
    }

    /// Opens files without locking them, even if another process is writing to them. What is read
    /// may then be inconsistent.
    ///
    /// By default, files are locked until the image is dropped, so that no other process that
    /// respects QEMU's locks writes to them ([`locking`](crate::storage::locking)). A raw image
    /// that is opened for its metadata only is not locked.
    #[must_use]
    pub fn force_share(mut self, yes: bool) -> Self {
        self.force_share = yes;
        self
    }

    /// Sets how reading uses the page cache. Applies to all files that are opened by path: the
    /// image, its backing files, data files and extents. Overrides an earlier
    /// [`memory_map`](Self::memory_map), and vice versa.
    #[must_use]
    pub fn caching(mut self, caching: Caching) -> Self {
        self.read_mode = match caching {
            Caching::Buffered => ReadMode::default(),
            Caching::Direct => ReadMode::direct(),
        };
        self
    }

    /// Maps files into memory instead of reading them. Applies to all files that are opened by
    /// path: the image, its backing files, data files and extents. [`Image::slices`] and
    /// [`Image::slice_at`] then borrow stored bytes without copying them. Standard input and files
    /// that must be unpacked first are not mapped.
    ///
    /// # Safety
    /// While these options or a copy of them open an image, and while such an image exists, no code
    /// in this or any other process may
    ///
    /// - truncate one of its files: access beyond the new end raises SIGBUS, which kills the
    ///   process;
    /// - modify their bytes: they are borrowed as `&[u8]`, and modifying borrowed bytes is
    ///   undefined behavior.
    ///
    /// Use it only for images that no other process can write, and not for the images of a running
    /// virtual machine. Replacing an image by renaming another file to its path, as a conversion
    /// does, is safe.
    ///
    /// The requirements extend to all files that the image references and the policy allows: for an
    /// untrusted image with [`ExternalFiles::Any`], to any file of the host. The contents of an
    /// image cannot violate memory safety: all offsets are checked against the mapped length.
    ///
    /// A disk that cannot read its sectors raises SIGBUS as well. Without a mapping, it causes an
    /// [`Error`].
    #[cfg(feature = "mmap")]
    #[must_use]
    #[allow(unsafe_code)]
    pub unsafe fn memory_map(mut self) -> Self {
        // SAFETY: the caller guarantees it for all files that are opened with these options.
        self.read_mode = unsafe { ReadMode::mapped() };
        self
    }

    /// Opens only the layer itself, with all its files. The caller adds the backing chain.
    pub(crate) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Sets sources to use instead of files with the given paths, for an image whose files are not
    /// renamed to their final paths yet.
    pub(crate) fn stand_ins(mut self, files: Vec<StandIn>) -> Self {
        self.stand_ins = files;
        self
    }

    /// Returns the lock for the files that are opened.
    fn lock(&self) -> Option<Lock> {
        let lock = if self.metadata_only { Lock::READ_METADATA } else { Lock::READ };
        Some(lock).filter(|_| !self.force_share)
    }

    fn context<'a>(&'a self, resolver: Resolver<'a>) -> OpenContext<'a> {
        OpenContext {
            resolver,
            limits: &self.limits,
            snapshot: None,
            disk: None,
            metadata_only: self.metadata_only,
            with_extents: self.with_extents,
            with_parent: self.with_parent(),
            probed: self.format.is_none(),
        }
    }

    /// Opens an image for modification with its format's `open`.
    ///
    /// # Errors
    /// As [`open_source`](Self::open_source).
    pub(crate) fn open_mutable(
        &self,
        storage: Arc<dyn Storage>,
        open: OpenMutable,
    ) -> Result<Box<dyn MutableLayer>> {
        let source = Arc::clone(&storage);
        let real = real_path(&*source);
        let resolver = self.resolver(source.path(), real.as_deref(), self.external_files);
        open(storage, &self.context(resolver))
    }

    /// Returns what opens the files that an image references, by `policy`. `image` is the path of
    /// the image, and `real` its path without symbolic links.
    fn resolver<'a>(
        &'a self,
        image: Option<&'a Path>,
        real: Option<&'a Path>,
        policy: ExternalFiles,
    ) -> Resolver<'a> {
        Resolver {
            image,
            real,
            policy,
            search: self.external_files,
            lock: self.lock(),
            read_mode: self.read_mode,
            stand_ins: &self.stand_ins,
        }
    }

    /// Returns true if the format of the image is not named.
    pub(crate) fn is_probed(&self) -> bool {
        self.format.is_none()
    }

    fn with_parent(&self) -> bool {
        !self.alone && (self.with_chain || !self.metadata_only)
    }

    /// Opens the image at `path` (a regular file or block device) and its backing chain. `-` is
    /// standard input, `appliance.ova:2` the second disk of an appliance (see
    /// [`disk`](Self::disk)).
    ///
    /// # Errors
    /// - [`Io`](crate::ErrorKind::Io) if a file cannot be opened or read;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if the image is damaged or not in the given format;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if it uses features that are not supported;
    /// - [`Refused`](crate::ErrorKind::Refused) if the policy forbids a file that it references;
    /// - [`Limit`](crate::ErrorKind::Limit) if it exceeds one of the limits;
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the image has no such snapshot or disk.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Image> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let open = |path| open_named(path, self.read_mode).map_err(|e| e.in_file(&name));
        match appliance_and_disk(path) {
            Some((path, disk)) if self.disk.is_none() => {
                self.clone().disk(disk.to_owned()).open_source(open(path)?, &name)
            }
            _ => self.open_source(open(path)?, &name),
        }
    }

    /// Opens an image from a source, and its backing chain. Errors and `info` refer to the image as
    /// `name`. Files that it references are relative to the directory of [`Source::path`].
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn open_source(&self, source: Arc<dyn Source>, name: impl Into<String>) -> Result<Image> {
        let mut chain = Chain {
            options: self,
            links: Vec::new(),
            seen: Vec::new(),
            policy: self.external_files,
        };
        let mut next = Some((source, name.into(), self.format));
        while let Some((source, name, format)) = next {
            next = chain.add(source, name, format)?;
        }
        Ok(Image::from_links(chain.links))
    }
}

impl Image {
    /// Opens an image and its backing chain with the default [`OpenOptions`].
    ///
    /// # Errors
    /// See [`OpenOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::new().open(path)
    }
}

/// A backing chain that is being opened, starting with the top image.
struct Chain<'a> {
    options: &'a OpenOptions,
    links: Vec<Link>,
    seen: Vec<crate::storage::source::HostFileId>,
    /// Which files the next image may reference.
    policy: ExternalFiles,
}

type Next = (Arc<dyn Source>, String, Option<Format>);

impl Chain<'_> {
    fn probe(&self, source: &dyn Source) -> Result<Format> {
        Format::probe_named(source, source.path(), self.options.probing)
    }

    /// Opens one layer and returns its backing file.
    fn add(
        &mut self,
        source: Arc<dyn Source>,
        name: String,
        format: Option<Format>,
    ) -> Result<Option<Next>> {
        let limits = &self.options.limits;
        let depth = self.links.len() as u64 + 1;
        if depth > limits.chain_depth {
            let found = format!("the backing chain has at least {depth} images");
            let error = Error::over_limit("chain_depth", found, limits.chain_depth);
            return Err(match self.links.first() {
                Some(top) => error.in_file(&top.name),
                None => error.in_file(name),
            });
        }
        if let Some(id) = source.identity() {
            if self.seen.contains(&id) {
                let names: Vec<_> = self.links.iter().map(|l| l.name.as_str()).collect();
                return Err(Error::corrupt(
                    "backing chain",
                    format!("it loops: {} -> {name}", names.join(" -> ")),
                )
                .in_file(&self.links[0].name));
            }
            self.seen.push(id);
        }
        let path = source.path().map(Path::to_owned);
        let real = real_path(&*source);
        let resolver = self.options.resolver(path.as_deref(), real.as_deref(), self.policy);
        let context = OpenContext {
            snapshot: self.options.snapshot.as_ref().filter(|_| self.links.is_empty()),
            disk: self.options.disk.as_deref().filter(|_| self.links.is_empty()),
            probed: format.is_none(),
            ..self.options.context(resolver)
        };
        let format = match format {
            Some(format) => format,
            None if self.links.is_empty() => {
                self.probe(&*source).in_file(Some(Path::new(&name)))?
            }
            // The remedy would apply to the image itself, not to its backing file.
            None => self.probe(&*source).map_err(|error| {
                error
                    .clear_remedy()
                    .in_file(&name)
                    .hint("the image does not record the format of its backing file")
            })?,
        };
        // A raw image has no metadata, so nothing is read of it.
        if let Some(lock) = resolver.lock
            && !(self.options.metadata_only && format == Format::Raw)
        {
            source.lock(lock).map_err(|e| lock_error(e).in_file(&name))?;
        }
        let layer = open_layer(source, format, &context).in_file(Some(Path::new(&name)))?;
        if let Some(child) = self.links.last().filter(|_| !self.options.ignore_content_id) {
            require_content((&*child.layer, &child.name), (&*layer, &name))?;
        }
        let parent = layer.parent().cloned();
        let link_name = name.clone();
        self.links.push(Link { layer, name });
        match parent {
            Some(parent) if self.options.with_parent() => {
                let role = "backing file";
                let searched = matches!(parent.locator, ParentLocator::FoundByUuid(_));
                let policy = if searched { resolver.search } else { resolver.policy };
                // The backing file is locked once its format is known.
                let resolver = Resolver { policy, lock: None, ..resolver };
                let open = || -> Result<_> {
                    let path = match parent.locator.path() {
                        Some(path) => path.to_owned(),
                        None => resolver.resolve(role, &parent.name)?,
                    };
                    let source = resolver.open_at(role, &parent.name, &path)?;
                    let format = parent.format.as_deref().map(str::parse).transpose()?;
                    Ok((source, path.display().to_string(), format))
                };
                if searched {
                    self.policy = self.policy.min(ExternalFiles::SameDir);
                }
                open().map(Some).map_err(|e| e.in_file(link_name))
            }
            _ => Ok(None),
        }
    }
}

/// A layer and the name of its file.
type Named<'a> = (&'a dyn Layer, &'a str);

/// Checks that a backing file has the content ID that its overlay recorded, if it recorded one.
fn require_content((child, child_name): Named<'_>, (parent, name): Named<'_>) -> Result<()> {
    let Some(wanted) = child.parent_content_id() else { return Ok(()) };
    let found = parent.content_ids();
    if found.contains(&wanted) {
        return Ok(());
    }
    let found = if found.is_empty() { "(none)".to_owned() } else { found.join(", ") };
    Err(Error::corrupt(
        "backing chain",
        format!("the parent '{name}' has the content ID {found}, the image expects {wanted}"),
    )
    .in_file(child_name)
    .hint("the parent was modified after the image was created, or it is a different image")
    .with_remedy(Remedy::IgnoreContentId))
}

/// Converts an error of locking a file that is only read.
pub(crate) fn lock_error(error: std::io::Error) -> Error {
    let error = Error::io("cannot lock it", error);
    match error.kind() {
        ErrorKind::Locked => error.with_remedy(Remedy::ForceShare),
        _ => error,
    }
}

fn open_layer(
    source: Arc<dyn Source>,
    format: Format,
    context: &OpenContext<'_>,
) -> Result<Arc<dyn Layer>> {
    if context.disk.is_some() && format.driver().appliance.is_none() {
        return Err(Error::invalid(format!(
            "{format} images hold one disk, so a disk cannot be selected"
        )));
    }
    (format.driver().open)(source, context)
}

impl OpenContext<'_> {
    /// Returns an error if a snapshot is selected, for formats without internal snapshots.
    pub(crate) fn refuse_snapshot(&self, format: Format) -> Result<()> {
        match self.snapshot {
            Some(_) => Err(Error::invalid(format!("{format} images have no internal snapshots"))),
            None => Ok(()),
        }
    }
}

/// Opens a path, `file:PATH` or `-` (standard input).
fn open_named(path: &Path, read_mode: ReadMode) -> Result<Arc<dyn Source>> {
    let cannot_open = |e| Error::io("cannot open it", e);
    if path == Path::new("-") {
        return Ok(Arc::new(stdin().map_err(|e| Error::io("cannot read standard input", e))?));
    }
    let path = local_path(path)?;
    FileSource::open(path).and_then(|file| read_mode.source(file)).map_err(cannot_open)
}

/// Splits `appliance.ova:2` into the path of an existing file and a disk in it. Returns `None` for
/// any other name, including the path of an existing file.
pub fn appliance_and_disk(name: &Path) -> Option<(&Path, &str)> {
    let (path, disk) = name.to_str()?.rsplit_once(':')?;
    let path = plain_path(path)?;
    (!disk.is_empty() && !name.exists() && path.is_file()).then_some((path, disk))
}

/// Returns the path in a name given by the user.
///
/// # Errors
/// Returns [`Unsupported`](crate::ErrorKind::Unsupported) for other protocols (`nbd:`, `json:`), and
/// [`Invalid`](crate::ErrorKind::Invalid) for an empty name.
pub fn local_path(name: &Path) -> Result<PathBuf> {
    if name.as_os_str().is_empty() {
        return Err(Error::invalid("the file name is empty"));
    }
    // The path of an existing file is used even if it looks like a protocol.
    match name.to_str() {
        Some(text) if !name.exists() => plain_path(text).map(Path::to_owned).ok_or_else(|| {
            Error::unsupported("only local files and devices can be opened")
                .hint("for a file whose name has a colon, write ./NAME")
        }),
        _ => Ok(name.to_owned()),
    }
}
