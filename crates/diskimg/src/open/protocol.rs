//! Protocols: how locations are opened.
//!
//! ```text
//!   name that the caller gives ─► Location ─► Protocols ─► Protocol::open ─► Source
//!   name inside an image ────────► ExternalFiles: a file of this host
//!                                └► Protocol::join, if the image itself was opened by a URL
//! ```

use crate::error::{Error, Result};
use crate::open::external_files::{ExternalFiles, plain_path};
use crate::open::location::{Location, Url, unknown_protocol};
use crate::open::node::NodeUrl;
use crate::open::secrets::Secrets;
use crate::remedy::Remedy;
use crate::storage::edit::{FileStorage, Storage};
use crate::storage::output::{Output, Publish};
use crate::storage::source::{FileSource, ReadMode, Source};
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

/// A way to open locations, such as a network protocol.
///
/// The library itself has only `file`. [`OpenOptions::protocol`](crate::OpenOptions::protocol) adds
/// others, for the names that the caller passes; a name inside an image never selects a protocol.
///
/// ```
/// use diskimg::open::{Location, OpenMode, Protocol};
/// use diskimg::storage::source::MemorySource;
/// use diskimg::{Error, Format, OpenOptions, Source};
/// use std::sync::Arc;
///
/// /// Disks of zeros: `zeros:SIZE`.
/// #[derive(Debug)]
/// struct Zeros;
///
/// impl Protocol for Zeros {
///     fn schemes(&self) -> &[&str] {
///         &["zeros"]
///     }
///
///     fn open(&self, at: &Location, _: &OpenMode) -> diskimg::Result<Arc<dyn Source>> {
///         let Location::Url(url) = at else { return Err(Error::invalid("not a URL")) };
///         let size = url.as_str().strip_prefix("zeros:").and_then(|size| size.parse().ok());
///         let size: usize = size.ok_or_else(|| Error::invalid("expected zeros:SIZE"))?;
///         Ok(Arc::new(MemorySource::new(vec![0; size])))
///     }
///
///     fn join(&self, _: &Location, _: &str) -> diskimg::Result<Location> {
///         Err(Error::unsupported("a disk of zeros is in no directory"))
///     }
/// }
///
/// let options = OpenOptions::new().format(Format::Raw).protocol(Arc::new(Zeros));
/// assert_eq!(options.open("zeros:4096")?.size(), 4096);
/// # Ok::<(), diskimg::Error>(())
/// ```
pub trait Protocol: Send + Sync + Debug {
    /// Returns the schemes of the URLs that it opens, without the colon.
    fn schemes(&self) -> &[&str];

    /// Opens a location with one of its schemes for reading.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the location is malformed, and
    /// [`Io`](crate::ErrorKind::Io) if it cannot be opened, or
    /// [`Transient`](crate::ErrorKind::Transient) if that may succeed later.
    fn open(&self, at: &Location, how: &OpenMode) -> Result<Arc<dyn Source>>;

    /// Returns the location of `name`, which an image at `base` references, relative to the
    /// directory of the image.
    ///
    /// `name` comes from the image, so it is not trusted. It is a relative path without a scheme,
    /// whose components are separated by slashes; they may be `..` only if the caller allows any
    /// file ([`ExternalFiles::Any`]). It is not percent-encoded: characters that have a meaning in
    /// the URL must be encoded. The result must have the scheme of `base`.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the protocol has no directories.
    fn join(&self, base: &Location, name: &str) -> Result<Location>;

    /// Creates a new image at a location with one of its schemes; see
    /// [`Output::to_place`](crate::Output::to_place). Nothing may be visible there until it is
    /// published.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the protocol cannot write, which
    /// is the default, and [`Io`](crate::ErrorKind::Io) if the location cannot be written.
    fn create(&self, at: &Location) -> Result<Box<dyn Publish>> {
        let _ = at;
        Err(Error::unsupported("images cannot be created by this protocol"))
    }

    /// Opens the existing image at a location with one of its schemes for reading and writing in
    /// place, as a device.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the protocol cannot write in place,
    /// which is the default, and [`Io`](crate::ErrorKind::Io) if the location cannot be written.
    fn modify(&self, at: &Location) -> Result<Arc<dyn Storage>> {
        let _ = at;
        Err(Error::unsupported("images cannot be written in place by this protocol"))
    }

    /// Returns the URL that a [node](crate::open::Node) describes whose driver is one of its
    /// schemes, and removes the options that it uses. The default is the value of `url`.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if an option is missing or wrong.
    fn node_url(&self, node: &mut NodeUrl<'_>) -> Result<Url> {
        node.take_url()
    }
}

/// How a location is opened.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct OpenMode {
    /// Only metadata of the image will be read: a small part of it.
    pub metadata_only: bool,
    /// Maximum number of bytes that are copied to a temporary file, if the location can only be read
    /// as a whole. No limit without it.
    pub max_copied: Option<u64>,
    /// Passwords and keys.
    pub secrets: Arc<Secrets>,
    /// How files are read.
    pub(crate) read_mode: ReadMode,
}

/// The protocols by which locations are opened: `file` and those that the caller adds.
#[derive(Debug, Clone)]
pub struct Protocols(Vec<Arc<dyn Protocol>>);

impl Default for Protocols {
    fn default() -> Self {
        Self(vec![Arc::new(FileProtocol)])
    }
}

impl Protocols {
    /// Creates a registry that contains `file`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a protocol. If several have the same scheme, the first one is used; `file` cannot be
    /// replaced.
    pub fn insert(&mut self, protocol: Arc<dyn Protocol>) -> &mut Self {
        self.0.push(protocol);
        self
    }

    /// Returns the protocol with this scheme.
    pub fn get(&self, scheme: &str) -> Option<&Arc<dyn Protocol>> {
        self.0.iter().find(|protocol| protocol.schemes().contains(&scheme))
    }

    /// Creates a new image at a location, to which [`Convert::run_to`](crate::Convert::run_to) can
    /// write.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if no protocol has the location's
    /// scheme, and the errors of [`Protocol::create`].
    pub fn create(&self, at: &Location) -> Result<Output> {
        let place = self.of(at).and_then(|protocol| protocol.create(at));
        Ok(Output::to_place(place.map_err(|e| e.in_file(at.to_string()))?).named(at.to_string()))
    }

    /// Opens the existing image at a location for reading and writing in place;
    /// [`Convert::run_existing_on`](crate::Convert::run_existing_on) can write to it.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if no protocol has the location's
    /// scheme, and the errors of [`Protocol::modify`].
    pub fn modify(&self, at: &Location) -> Result<Arc<dyn Storage>> {
        let storage = self.of(at).and_then(|protocol| protocol.modify(at));
        storage.map_err(|e| e.in_file(at.to_string()))
    }

    /// Returns the protocol that opens a location.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if no protocol has its scheme.
    pub(crate) fn of(&self, at: &Location) -> Result<&Arc<dyn Protocol>> {
        let scheme = match at {
            Location::Path(_) => FileProtocol::SCHEME,
            Location::Url(url) => url.scheme(),
        };
        self.get(scheme).ok_or_else(|| unknown_protocol(scheme))
    }
}

/// Files and devices of this host.
#[derive(Debug)]
struct FileProtocol;

impl FileProtocol {
    const SCHEME: &str = "file";

    fn path(at: &Location) -> Result<&Path> {
        match at {
            Location::Path(path) => Ok(path),
            Location::Url(url) => Err(unknown_protocol(url.scheme())),
        }
    }
}

impl Protocol for FileProtocol {
    fn schemes(&self) -> &[&str] {
        &[Self::SCHEME]
    }

    fn open(&self, at: &Location, how: &OpenMode) -> Result<Arc<dyn Source>> {
        FileSource::open(Self::path(at)?)
            .and_then(|file| how.read_mode.source(file))
            .map_err(|e| Error::io("cannot open it", e))
    }

    fn join(&self, base: &Location, name: &str) -> Result<Location> {
        let directory = Self::path(base)?.parent().unwrap_or(Path::new(""));
        Ok(Location::Path(directory.join(name)))
    }

    fn create(&self, at: &Location) -> Result<Box<dyn Publish>> {
        let output = Output::create(Self::path(at)?);
        Ok(output.map_err(|e| Error::io("cannot create the output", e))?.into_place())
    }

    fn modify(&self, at: &Location) -> Result<Arc<dyn Storage>> {
        let storage = FileStorage::open(Self::path(at)?);
        Ok(Arc::new(storage.map_err(|e| Error::io("cannot open it", e))?))
    }
}

/// Where an image that was opened by a URL is, to which the names inside it are relative.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) url: Url,
    pub(crate) protocol: Arc<dyn Protocol>,
    pub(crate) mode: OpenMode,
}

impl Origin {
    /// Returns the origin of `name`, which the image references as its `role`.
    ///
    /// # Errors
    /// Returns [`Refused`](crate::ErrorKind::Refused) if the policy does not allow it, or if it is
    /// not a relative path: an image of another host names no files of this one.
    pub(crate) fn join(&self, policy: ExternalFiles, role: &str, name: &str) -> Result<Self> {
        if policy == ExternalFiles::None {
            return Err(Error::refused(format!("it names the {role} '{name}'"))
                .with_remedy(Remedy::AllowFilesInSameDir));
        }
        let is_relative = |path: &Path| !path.has_root() && !name.starts_with('\\');
        // Not `file:PATH`, which is a path of this host.
        if !plain_path(name).is_some_and(|path| path == Path::new(name) && is_relative(path)) {
            return Err(Error::refused(format!("its {role} '{name}' is not a relative path"))
                .hint("an image that is opened by a URL may reference only files relative to it"));
        }
        let outside = || {
            Error::refused(format!("its {role} '{name}' is not in the image's directory"))
                .with_remedy(Remedy::AllowExternalFiles)
        };
        let same_dir = policy == ExternalFiles::SameDir;
        if same_dir && has_parent_component(name) {
            return Err(outside());
        }
        let url = match self.protocol.join(&Location::Url(self.url.clone()), name)? {
            Location::Url(url) if url.scheme() == self.url.scheme() => url,
            _ => return Err(outside()),
        };
        let below = url.as_str().strip_prefix(&*self.url.directory());
        if same_dir && below.is_none_or(has_parent_component) {
            return Err(outside());
        }
        Ok(Self { url, ..self.clone() })
    }

    /// Opens the location, which the image references as its `role`.
    ///
    /// # Errors
    /// As [`Protocol::open`].
    pub(crate) fn open(&self, role: &str) -> Result<Arc<dyn Source>> {
        let opened = self.protocol.open(&Location::Url(self.url.clone()), &self.mode);
        opened.map_err(|e| match e.structure() {
            None => e.in_structure(format!("{role} '{}'", self.url)),
            Some(_) => e,
        })
    }
}

/// Returns true if a component of a path is `..`, for any server: some accept backslashes, and some
/// decode `%2e`, `%2f` and `%5c` before they split the path.
fn has_parent_component(path: &str) -> bool {
    let path = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/");
    path.replace("%5c", "/").split(['/', '\\']).any(|component| component == "..")
}
