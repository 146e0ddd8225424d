//! Opening an image: its format, its layers, the files they name.

pub(crate) mod driver;
pub mod external_files;
pub(crate) mod limits;
pub(crate) mod probe;

use crate::error::{Context, Error, Result};
use crate::model::format::Format;
use crate::model::image::{Image, Link};
use crate::model::layer::{Layer, ParentLocator};
use crate::open::external_files::{ExternalFiles, Resolver, StandIn, plain_path, real_path};
use crate::open::limits::Limits;
use crate::storage::caching::Caching;
use crate::storage::source::{FileSource, ReadMode, Source, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open an image.
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
    not_probed: Vec<Format>,
    external_files: ExternalFiles,
    limits: Arc<Limits>,
    snapshot: Option<SnapshotSelector>,
    disk: Option<String>,
    metadata_only: bool,
    with_chain: bool,
    with_extents: bool,
    ignore_content_id: bool,
    access: ReadMode,
    alone: bool,
    stand_ins: Vec<StandIn>,
}

/// Which internal snapshot to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotSelector {
    /// The one whose id is this or, failing that, whose name is.
    IdOrName(String),
    /// The one that has all that is given.
    Exactly {
        /// Its id.
        id: Option<String>,
        /// Its name.
        name: Option<String>,
    },
}

/// What a format's `open` is given besides the bytes.
#[derive(Debug)]
pub(crate) struct OpenContext<'a> {
    /// Opens what the image names.
    pub(crate) resolver: Resolver<'a>,
    /// Bounds.
    pub(crate) limits: &'a Limits,
    /// Show this snapshot instead of the active disk.
    pub(crate) snapshot: Option<&'a SnapshotSelector>,
    /// Read this disk of an appliance.
    pub(crate) disk: Option<&'a str>,
    /// Only facts are wanted, no guest bytes: open no other file …
    pub(crate) metadata_only: bool,
    /// … but those that the image's own tables are in.
    pub(crate) with_extents: bool,
    /// The parent will be opened.
    pub(crate) with_parent: bool,
    /// Nobody named the format: the bytes did, or the file's name.
    pub(crate) probed: bool,
}

impl OpenOptions {
    /// Probed format, references within the image's directory, default limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Probing does not answer this format: what looks like it is taken for the next best, or for
    /// raw. QEMU knows no ISO images, for one: to it they are raw.
    #[must_use]
    pub fn never_probed_as(mut self, format: Format) -> Self {
        self.not_probed.push(format);
        self
    }

    /// The image is of this format, whatever its bytes look like.
    #[must_use]
    pub fn format(mut self, format: impl Into<Option<Format>>) -> Self {
        self.format = format.into();
        self
    }

    /// Which other files the image may name.
    #[must_use]
    pub fn external_files(mut self, policy: ExternalFiles) -> Self {
        self.external_files = policy;
        self
    }

    /// Bounds on what the image may demand.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Arc::new(limits);
        self
    }

    /// Read an internal snapshot instead of the active disk.
    #[must_use]
    pub fn snapshot(mut self, snapshot: impl Into<Option<SnapshotSelector>>) -> Self {
        self.snapshot = snapshot.into();
        self
    }

    /// Read this disk of an appliance (an OVA or OVF): its number, counted from
    /// 1, the name of its file, or its `diskId`. The only disk of an appliance
    /// needs no choosing.
    #[must_use]
    pub fn disk(mut self, disk: impl Into<Option<String>>) -> Self {
        self.disk = disk.into();
        self
    }

    /// Open the image for [`info`](Image::info) and [`check`](Image::check)
    /// alone: no backing file and no data file is opened, and guest bytes
    /// cannot be read.
    #[must_use]
    pub fn metadata_only(mut self, yes: bool) -> Self {
        self.metadata_only = yes;
        self
    }

    /// With [`metadata_only`](Self::metadata_only): open the backing files all
    /// the same, each for its own facts.
    #[must_use]
    pub fn with_chain(mut self, yes: bool) -> Self {
        self.with_chain = yes;
        self
    }

    /// With [`metadata_only`](Self::metadata_only): open the files that hold the
    /// image's own tables all the same (a split VMDK's extents), as far as they
    /// are in its directory. One that cannot be opened is noted.
    #[must_use]
    pub fn with_extents(mut self, yes: bool) -> Self {
        self.with_extents = yes;
        self
    }

    /// Take a parent that was changed since its child was made, or may be
    /// another image, as it is (VMDK's CIDs). What is read then may be a
    /// mixture of two disks.
    #[must_use]
    pub fn ignore_content_id(mut self, yes: bool) -> Self {
        self.ignore_content_id = yes;
        self
    }

    /// What becomes of the page cache while the image's files are read: the
    /// image itself and what it consists of and builds on, as far as they are
    /// opened by a path. The last word of this and
    /// [`memory_map`](Self::memory_map) counts.
    #[must_use]
    pub fn caching(mut self, caching: Caching) -> Self {
        self.access = match caching {
            Caching::Buffered => ReadMode::default(),
            Caching::Direct => ReadMode::direct(),
        };
        self
    }

    /// Map the image's files into memory instead of reading them: the image
    /// itself and what it consists of and builds on (backing files, data files,
    /// extents), as far as they are opened by a path. Then
    /// [`Image::slices`] and [`Image::slice_at`] lend stored bytes without
    /// copying them. What has to be unpacked first, and standard input, stay as
    /// they are.
    ///
    /// # Safety
    /// As long as an image lives that these options (or a copy of them) opened,
    /// and while it is opened, nobody, in this process or another, may
    ///
    /// - truncate one of its files: reading what is gone raises SIGBUS, which
    ///   ends the process;
    /// - change their bytes: they are lent as `&[u8]`, and a change of what is
    ///   borrowed is undefined behaviour.
    ///
    /// So: images that nobody else can write; no running machine's. Replacing one
    /// by a rename, as a conversion to a path does, is harmless.
    ///
    /// The promise covers the files that the image *names*, as far as the policy
    /// lets them be opened: for an image of a stranger with [`ExternalFiles::Any`],
    /// any file of this host. What an image claims about its own bytes is no
    /// danger: it is checked against the length that was mapped.
    ///
    /// A disk that cannot read its own sectors raises SIGBUS as well, where
    /// without a map there would be an [`Error`].
    #[must_use]
    #[allow(unsafe_code)]
    pub unsafe fn memory_map(mut self) -> Self {
        // SAFETY: the caller answers for all files that are opened so.
        self.access = unsafe { ReadMode::mapped() };
        self
    }

    /// Only the layer itself, with all its files: what it builds on is the caller's to add.
    pub(crate) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Where an image names one of these files it is the source beside it that is meant: an
    /// image whose files have not got their names yet.
    pub(crate) fn stand_ins(mut self, files: Vec<StandIn>) -> Self {
        self.stand_ins = files;
        self
    }

    fn with_parent(&self) -> bool {
        !self.alone && (self.with_chain || !self.metadata_only)
    }

    /// Opens the image at `path` (a regular file or block device) and
    /// everything it builds on. `-` is standard input, `appliance.ova:2` the
    /// second disk of an appliance (see [`disk`](Self::disk)).
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if a file cannot be opened,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if it is not an image of
    /// the format or not one we read, [`Refused`](crate::ErrorKind::Refused) if
    /// it names files that the policy forbids,
    /// [`Limit`](crate::ErrorKind::Limit).
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Image> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let open = |path| open_named(path, self.access).map_err(|e| e.in_file(&name));
        match appliance_and_disk(path) {
            Some((path, disk)) if self.disk.is_none() => {
                self.clone().disk(disk.to_owned()).open_source(open(path)?, &name)
            }
            _ => self.open_source(open(path)?, &name),
        }
    }

    /// Opens an image whose bytes are at hand. `name` is what errors and
    /// `info` call it; other files it names are looked for beside
    /// [`Source::path`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
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

/// A chain being opened, top first.
struct Chain<'a> {
    options: &'a OpenOptions,
    links: Vec<Link>,
    seen: Vec<crate::storage::source::HostFileId>,
    /// Which files the next image may name.
    policy: ExternalFiles,
}

type Next = (Arc<dyn Source>, String, Option<Format>);

impl Chain<'_> {
    fn probe(&self, source: &dyn Source) -> Result<Format> {
        let excluded = &self.options.not_probed;
        let formats: Vec<_> =
            Format::ALL.iter().copied().filter(|format| !excluded.contains(format)).collect();
        Format::probe_as(source, source.path(), &formats)
    }

    /// Opens one layer; gives what it builds on.
    fn add(
        &mut self,
        source: Arc<dyn Source>,
        name: String,
        format: Option<Format>,
    ) -> Result<Option<Next>> {
        let limits = &self.options.limits;
        let depth = self.links.len() as u64 + 1;
        if depth > limits.chain_depth {
            let found = format!("its backing chain has {depth} images or more");
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
        let resolver = Resolver {
            image: path.as_deref(),
            real: real.as_deref(),
            policy: self.policy,
            search: self.options.external_files,
            access: self.options.access,
            stand_ins: &self.options.stand_ins,
        };
        let context = OpenContext {
            resolver,
            limits,
            snapshot: self.options.snapshot.as_ref().filter(|_| self.links.is_empty()),
            disk: self.options.disk.as_deref().filter(|_| self.links.is_empty()),
            metadata_only: self.options.metadata_only,
            with_extents: self.options.with_extents,
            with_parent: self.options.with_parent(),
            probed: format.is_none(),
        };
        let format = match format {
            Some(format) => format,
            None => self.probe(&*source).in_file(Some(Path::new(&name)))?,
        };
        let layer = open_layer(source, format, &context).in_file(Some(Path::new(&name)))?;
        if let Some(child) = self.links.last().filter(|_| !self.options.ignore_content_id) {
            require_content(child, &*layer, &name)?;
        }
        let parent = layer.parent().cloned();
        let link_name = name.clone();
        self.links.push(Link { layer, name });
        match parent {
            Some(parent) if self.options.with_parent() => {
                let role = "backing file";
                let searched = matches!(parent.locator, ParentLocator::FoundByUuid(_));
                let policy = if searched { resolver.search } else { resolver.policy };
                let resolver = Resolver { policy, ..resolver };
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

/// A child that says what content its parent must have is taken at its word.
fn require_content(child: &Link, parent: &dyn Layer, name: &str) -> Result<()> {
    let Some(wanted) = child.layer.parent_content_id() else { return Ok(()) };
    let found = parent.content_ids();
    if found.contains(&wanted) {
        return Ok(());
    }
    let found = if found.is_empty() { "(none)".to_owned() } else { found.join(", ") };
    Err(Error::corrupt(
        "backing chain",
        format!("the parent '{name}' has the content ID {found}, this image was made for {wanted}"),
    )
    .in_file(&child.name)
    .hint(
        "the parent was changed since, or it is another image; to read it all the same: \
         ignore_content_id, --ignore-cid",
    ))
}

fn open_layer(
    source: Arc<dyn Source>,
    format: Format,
    context: &OpenContext<'_>,
) -> Result<Arc<dyn Layer>> {
    if context.disk.is_some() && format.driver().appliance.is_none() {
        return Err(Error::invalid(format!(
            "{format} images hold one disk, there is none to choose"
        )));
    }
    (format.driver().open)(source, context)
}

impl OpenContext<'_> {
    /// For formats without internal snapshots.
    pub(crate) fn refuse_snapshot(&self, format: Format) -> Result<()> {
        match self.snapshot {
            Some(_) => Err(Error::invalid(format!("{format} images hold no internal snapshots"))),
            None => Ok(()),
        }
    }
}

/// Opens a name from the command line or from a program: a path, `file:PATH`, `-`.
fn open_named(path: &Path, access: ReadMode) -> Result<Arc<dyn Source>> {
    let cannot = |e| Error::io("cannot open it", e);
    if path == Path::new("-") {
        return Ok(Arc::new(stdin().map_err(|e| Error::io("cannot read standard input", e))?));
    }
    let path = local_path(path)?;
    FileSource::open(path).and_then(|file| access.to(file)).map_err(cannot)
}

/// Splits `appliance.ova:2`: the name of a file that is there, and a disk in
/// it. `None` for any other name, first of all for one that is itself there.
pub fn appliance_and_disk(name: &Path) -> Option<(&Path, &str)> {
    let (path, disk) = name.to_str()?.rsplit_once(':')?;
    let path = plain_path(path)?;
    (!disk.is_empty() && !name.exists() && path.is_file()).then_some((path, disk))
}

/// The path behind a name that a person typed, for reading or writing.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) for `nbd:`, `json:` and the like.
pub fn local_path(name: &Path) -> Result<PathBuf> {
    // A name that is there is meant, even if it looks like a protocol.
    match name.to_str() {
        Some(text) if !name.exists() => plain_path(text).map(Path::to_owned).ok_or_else(|| {
            Error::unsupported("only local files and devices can be opened")
                .hint("for a file whose name has a colon, write ./NAME")
        }),
        _ => Ok(name.to_owned()),
    }
}
