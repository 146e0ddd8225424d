//! Opening an image: its format, its backing chain, and the files that it references.

mod chain;
#[cfg(feature = "compressed")]
pub(crate) mod compressed;
pub(crate) mod driver;
pub mod external_files;
pub(crate) mod limits;
mod location;
mod node;
mod part;
pub(crate) mod probe;
mod protocol;
pub(crate) mod secrets;
#[cfg(any(feature = "compressed", feature = "ova"))]
pub(crate) mod unpack;

pub(crate) use chain::lock_error;
pub use driver::directory_read_later;
pub use location::{Location, Url, appliance_and_disk, local_path};
pub use node::{Node, NodeUrl, SingleFile, SingleUrl};
pub use protocol::{OpenMode, Protocol, Protocols};

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::mutable::{AmendRequest, Amended, RepairRequest};
use crate::open::chain::{Opening, Place};
use crate::open::driver::{Amend, Repair};
use crate::open::external_files::{ExternalFiles, Resolver, StandIn, real_path};
use crate::open::limits::Limits;
use crate::open::node::NodeSettings;
use crate::open::probe::Probing;
use crate::open::protocol::Origin;
use crate::open::secrets::{NO_SECRETS, Secrets};
use crate::storage::caching::Caching;
use crate::storage::edit::Storage;
use crate::storage::locking::Lock;
use crate::storage::source::{ReadMode, Source, stdin};
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
    external_files: Option<ExternalFiles>,
    limits: Arc<Limits>,
    secrets: Arc<Secrets>,
    protocols: Arc<Protocols>,
    snapshot: Option<SnapshotSelector>,
    disk: Option<String>,
    metadata_only: bool,
    repairing: bool,
    with_chain: bool,
    with_extents: bool,
    ignore_content_id: bool,
    strict: bool,
    salvage: bool,
    force_share: bool,
    read_mode: ReadMode,
    alone: bool,
    stand_ins: Vec<StandIn>,
    parents: Arc<[PathBuf]>,
    node: Option<Arc<NodeSettings>>,
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
    /// Passwords and keys.
    pub(crate) secrets: &'a Secrets,
    /// What the caller's description of the image says about it.
    pub(crate) node: Option<&'a NodeSettings>,
    /// Snapshot to read instead of the active disk.
    pub(crate) snapshot: Option<&'a SnapshotSelector>,
    /// Disk of an appliance to read.
    pub(crate) disk: Option<&'a str>,
    /// Files among which a parent is searched by its UUID.
    pub(crate) parents: &'a [PathBuf],
    /// Accept contradictions about the parent's content ID.
    pub(crate) ignore_content_id: bool,
    /// Contradictions that are warnings otherwise are errors.
    pub(crate) strict: bool,
    /// Find as much of a damaged image's data as possible.
    pub(crate) salvage: bool,
    /// Guest bytes will not be read, so other files need not be opened.
    pub(crate) metadata_only: bool,
    /// The image is opened to be repaired, also where it exceeds a limit of the format.
    pub(crate) repairing: bool,
    /// With `metadata_only`: open other files that contain the image's tables nevertheless.
    pub(crate) with_extents: bool,
    /// The backing file will be opened.
    pub(crate) with_parent: bool,
    /// The format was probed, not specified by the caller.
    pub(crate) probed: bool,
    /// Where QEMU interprets an image in another way than its specification, follow QEMU.
    pub(crate) like_qemu: bool,
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

    /// Sets which other files the image may reference. The default is [`ExternalFiles::SameDir`],
    /// or [`ExternalFiles::None`] for an image that is opened by a URL.
    #[must_use]
    pub fn external_files(mut self, policy: ExternalFiles) -> Self {
        self.external_files = Some(policy);
        self
    }

    /// Sets the limits on the resources that the image may use.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Arc::new(limits);
        self
    }

    /// Sets the secrets that descriptions of images refer to, such as the passwords of encrypted
    /// images.
    #[must_use]
    pub fn secrets(mut self, secrets: Secrets) -> Self {
        self.secrets = Arc::new(secrets);
        self
    }

    /// Adds a protocol by which [`open`](Self::open) opens URLs.
    #[must_use]
    pub fn protocol(mut self, protocol: Arc<dyn Protocol>) -> Self {
        Arc::make_mut(&mut self.protocols).insert(protocol);
        self
    }

    /// Sets the protocols by which [`open`](Self::open) opens URLs. The default is `file` alone.
    #[must_use]
    pub fn protocols(mut self, protocols: Protocols) -> Self {
        self.protocols = Arc::new(protocols);
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
    /// would read as zeros. The tables that locate guest bytes may be missing, as in the first 64
    /// KiB of an image.
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
    /// inconsistent. Also accepts an image that records the content ID of a backing file but no
    /// name, as an image without a backing file, and one that records a name but no content ID.
    #[must_use]
    pub fn ignore_content_id(mut self, yes: bool) -> Self {
        self.ignore_content_id = yes;
        self
    }

    /// Sets files among which the parent of a VirtualBox differencing image (VDI, VMDK), and the
    /// parents of that, are searched. Such an image records a UUID, but no file name. The policy for
    /// [external files](Self::external_files) does not apply to these files. If none of them is the
    /// parent, the directory of the image is searched.
    #[must_use]
    pub fn possible_parents(mut self, paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        self.parents = paths.into_iter().map(Into::into).collect();
        self
    }

    /// Treats contradictions in an appliance that do not affect the data of its disks as errors,
    /// when the appliance is verified ([`Convert::verify_manifest`](crate::Convert::verify_manifest)):
    /// a manifest without the descriptor, and a wrong file size in the descriptor. By default, they
    /// are [warnings](Image::warnings).
    ///
    /// With [`metadata_only`](Self::metadata_only), treats missing tables as an error. By default,
    /// the notes of [`info`](Image::info) mention them.
    #[must_use]
    pub fn strict(mut self, yes: bool) -> Self {
        self.strict = yes;
        self
    }

    /// Opens a damaged or truncated image whose tables are missing, and searches its file for the
    /// data that is left: the grains of a streamOptimized VMDK, also in an appliance. Reading the
    /// ranges whose data may be missing fails; [`Convert::salvage`](crate::Convert::salvage)
    /// replaces them with zeros. An appliance is not verified against its manifest then.
    #[must_use]
    pub fn salvage(mut self, yes: bool) -> Self {
        self.salvage = yes;
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

    /// Sets what the description of the node says about the image itself.
    fn node(mut self, settings: NodeSettings) -> Self {
        self.node = Some(Arc::new(settings));
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

    /// Returns true if files are not locked.
    pub(crate) fn ignores_locks(&self) -> bool {
        self.force_share
    }

    /// Returns the lock for the files that are opened.
    fn lock(&self) -> Option<Lock> {
        let lock = if self.metadata_only { Lock::READ_METADATA } else { Lock::READ };
        Some(lock).filter(|_| !self.force_share)
    }

    fn context<'a>(&'a self, resolver: Resolver<'a>) -> OpenContext<'a> {
        OpenContext {
            resolver,
            secrets: &self.secrets,
            parents: &self.parents,
            ignore_content_id: self.ignore_content_id,
            strict: self.strict,
            salvage: self.salvage,
            metadata_only: self.metadata_only,
            repairing: self.repairing,
            with_extents: self.with_extents,
            with_parent: self.with_parent(),
            probed: self.format.is_none(),
            like_qemu: self.probing == Probing::LikeQemu,
            ..OpenContext::isolated(&self.limits)
        }
    }

    /// Returns the policy for the files that an image references.
    fn policy(&self, opened_by_url: bool) -> ExternalFiles {
        let default = if opened_by_url { ExternalFiles::None } else { ExternalFiles::default() };
        self.external_files.unwrap_or(default)
    }

    /// Opens an image for modification with its format's `open`.
    ///
    /// # Errors
    /// As [`open_source`](Self::open_source).
    pub(crate) fn open_mutable<T>(
        &self,
        storage: Arc<dyn Storage>,
        open: impl FnOnce(Arc<dyn Storage>, &OpenContext<'_>) -> Result<T>,
    ) -> Result<T> {
        let source = Arc::clone(&storage);
        let real = real_path(&*source);
        let resolver = self.resolver(source.path(), real.as_deref(), self.policy(false));
        open(storage, &self.context(resolver))
    }

    /// Repairs an image with its format's `repair`.
    ///
    /// # Errors
    /// The errors of `repair`.
    pub(crate) fn repair(
        &self,
        storage: &Arc<dyn Storage>,
        repair: Repair,
        request: &mut RepairRequest<'_>,
    ) -> Result<()> {
        let real = real_path(&**storage);
        let resolver = self.resolver(storage.path(), real.as_deref(), self.policy(false));
        repair(storage, &self.context(resolver), request)
    }

    /// Sets whether the image is opened to be repaired, which a limit of the format does not prevent.
    pub(crate) fn repairing(mut self, yes: bool) -> Self {
        self.repairing = yes;
        self
    }

    /// Changes the options of an image with its format's `amend`.
    ///
    /// # Errors
    /// The errors of `amend`.
    pub(crate) fn amend(
        &self,
        storage: &Arc<dyn Storage>,
        amend: Amend,
        request: &mut AmendRequest<'_>,
    ) -> Result<Amended> {
        let real = real_path(&**storage);
        let resolver = self.resolver(storage.path(), real.as_deref(), self.policy(false));
        amend(storage, &self.context(resolver), request)
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
            search: self.policy(false),
            lock: self.lock(),
            read_mode: self.read_mode,
            stand_ins: &self.stand_ins,
            origin: None,
        }
    }

    /// Returns true if the format of the image is not named.
    pub(crate) fn is_probed(&self) -> bool {
        self.format.is_none()
    }

    fn with_parent(&self) -> bool {
        !self.alone && (self.with_chain || !self.metadata_only)
    }

    /// Opens the image at `path` (a regular file, a block device, or the directory of a Parallels
    /// bundle or of a sparse bundle) and its backing chain. `-` is standard input,
    /// `appliance.ova:2` the second disk of an appliance (see [`disk`](Self::disk)), and a name
    /// with the scheme of a [`protocol`](Self::protocol) a URL.
    ///
    /// # Errors
    /// - [`Io`](crate::ErrorKind::Io) if a file cannot be opened or read, and
    ///   [`Transient`](crate::ErrorKind::Transient) if that may succeed later;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if the image is damaged or not in the given format;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if it uses features that are not supported,
    ///   or `path` a protocol that is not known;
    /// - [`Refused`](crate::ErrorKind::Refused) if the policy forbids a file that it references;
    /// - [`Limit`](crate::ErrorKind::Limit) if it exceeds one of the limits;
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the image has no such snapshot or disk.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Image> {
        let path = path.as_ref();
        if let Some(url) = path.to_str().and_then(|text| self.known_url(text)) {
            return self.open_location(&Location::Url(url));
        }
        let name = path.display().to_string();
        if path == Path::new("-") {
            let source =
                stdin().map_err(|e| Error::io("cannot read standard input", e).in_file(&name))?;
            return self.open_source(source, name);
        }
        let (path, options) = match appliance_and_disk(path) {
            Some((path, disk)) if self.disk.is_none() => (path, self.clone().disk(disk.to_owned())),
            _ => (path, self.clone()),
        };
        let path = local_path(path).map_err(|e| e.in_file(&name))?;
        let (at, format) = bundle_or(Location::Path(path), options.format);
        let (source, _) = self.source(&at).map_err(|e| e.in_file(&name))?;
        options.format(format).open_source(source, name)
    }

    /// Opens the image at a location, and its backing chain. Unlike [`open`](Self::open), a path
    /// always is the name of a file.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn open_location(&self, at: &Location) -> Result<Image> {
        let name = at.to_string();
        let (at, format) = bundle_or(at.clone(), self.format);
        let (source, origin) = self.source(&at).map_err(|e| e.in_file(&name))?;
        let place = origin.map_or(Place::Local, Place::Url);
        chain::open(self, Opening { source, name, format, place })
    }

    /// Opens an image from a source, and its backing chain. Errors and `info` refer to the image as
    /// `name`. Files that it references are relative to the directory of [`Source::path`].
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn open_source(&self, source: Arc<dyn Source>, name: impl Into<String>) -> Result<Image> {
        let (name, format) = (name.into(), self.format);
        chain::open(self, Opening { source, name, format, place: Place::Local })
    }

    /// Returns `name` as a URL if its scheme is that of a protocol other than `file`. A file of
    /// this name is not used then: the caller who adds a protocol expects its names to be URLs.
    fn known_url(&self, name: &str) -> Option<Url> {
        match name.parse() {
            Ok(Location::Url(url)) => {
                Some(url).filter(|url| self.protocols.get(url.scheme()).is_some())
            }
            _ => None,
        }
    }

    /// Opens the bytes at a location. Returns the origin for the files that an image there
    /// references, if it is a URL.
    fn source(&self, at: &Location) -> Result<(Arc<dyn Source>, Option<Origin>)> {
        let protocol = self.protocols.of(at)?;
        let mut mode = OpenMode {
            metadata_only: self.metadata_only,
            secrets: Arc::clone(&self.secrets),
            read_mode: ReadMode::default(),
            ..OpenMode::default()
        };
        match at {
            Location::Path(_) => {
                mode.read_mode = self.read_mode;
                Ok((protocol.open(at, &mode)?, None))
            }
            // Protocols of the caller do not get the permission to map files into memory.
            Location::Url(url) => {
                let source = protocol.open(at, &mode)?;
                let (url, protocol) = (url.clone(), Arc::clone(protocol));
                Ok((source, Some(Origin { url, protocol, mode })))
            }
        }
    }
}

/// Returns the file by which a bundle at `at` is opened, and the bundle's format; otherwise, what was
/// given.
fn bundle_or(at: Location, format: Option<Format>) -> (Location, Option<Format>) {
    let bundle = match &at {
        Location::Path(path) => driver::file_of_bundle(path, format),
        Location::Url(_) => None,
    };
    match bundle {
        Some((file, format)) => (Location::Path(file), Some(format)),
        None => (at, format),
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

impl<'a> OpenContext<'a> {
    /// Returns the context for opening an image without any other file.
    pub(crate) fn isolated(limits: &'a Limits) -> Self {
        Self {
            resolver: Resolver::new(None, ExternalFiles::None),
            limits,
            secrets: &NO_SECRETS,
            node: None,
            snapshot: None,
            disk: None,
            parents: &[],
            ignore_content_id: false,
            strict: false,
            salvage: false,
            metadata_only: false,
            repairing: false,
            with_extents: false,
            with_parent: false,
            probed: false,
            like_qemu: false,
        }
    }

    /// Returns true if the tables of a damaged image may be missing, because only its metadata is
    /// reported.
    pub(crate) fn tolerates_damage(&self) -> bool {
        self.metadata_only && !self.strict
    }

    /// Returns an error if a snapshot is selected, for formats without internal snapshots.
    pub(crate) fn refuse_snapshot(&self, format: Format) -> Result<()> {
        match self.snapshot {
            Some(_) => Err(Error::invalid(format!("{format} images have no internal snapshots"))),
            None => Ok(()),
        }
    }
}
