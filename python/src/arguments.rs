//! Conversion of arguments from Python to the library's types.
//!
//! The Python code has checked the types and filled in defaults; this module checks the values.

use crate::errors::{Raise, bad_value};
use crate::file::{self, InputFile, Raised};
use crate::url::RemoteImage;
use diskimg::open::{Node, local_path};
use diskimg::storage::source::{FileSource, MemorySource, Source};
use diskimg::{
    Backing, Caching, Error, Format, Image, Limits, OpenOptions, Options, Secrets, SnapshotSelector,
};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// How an image is opened. Corresponds to `OpenArgs` in `_types.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct OpenArgs {
    format: Option<String>,
    external_files: String,
    limits: Vec<(String, u64)>,
    snapshot: Option<String>,
    disk: Option<String>,
    ignore_content_id: bool,
    possible_parents: Vec<PathBuf>,
    strict: bool,
    salvage: bool,
    force_share: bool,
    direct: bool,
    memory_map: bool,
    secrets: Vec<(String, Vec<u8>)>,
}

impl OpenArgs {
    /// Returns the corresponding options of the library.
    pub(crate) fn options(&self, py: Python<'_>) -> PyResult<OpenOptions> {
        let format = self.format.as_deref().map(|name| format(py, name)).transpose()?;
        let options = OpenOptions::new()
            .format(format)
            .external_files(word("external_files", &self.external_files)?)
            .limits(self.limits(py)?)
            .snapshot(self.snapshot.clone().map(SnapshotSelector::IdOrName))
            .disk(self.disk.clone())
            .ignore_content_id(self.ignore_content_id)
            .possible_parents(self.possible_parents.clone())
            .strict(self.strict)
            .salvage(self.salvage)
            .force_share(self.force_share)
            .secrets(self.secrets());
        Ok(match (self.memory_map, self.direct) {
            (true, true) => return Err(bad_value("memory_map and direct are mutually exclusive")),
            (true, false) => mapped(options),
            (false, true) => options.caching(Caching::Direct),
            (false, false) => options,
        })
    }

    /// Returns the secrets. Only the library's copies are overwritten when they are dropped, not
    /// Python's and those of the conversion of arguments.
    fn secrets(&self) -> Secrets {
        let mut secrets = Secrets::new();
        for (id, secret) in &self.secrets {
            secrets.insert(id.as_str(), secret.as_slice());
        }
        secrets
    }

    /// Returns only the limits.
    pub(crate) fn limits(&self, py: Python<'_>) -> PyResult<Limits> {
        limits(py, &self.limits)
    }
}

/// Returns `options` with memory mapping enabled.
#[allow(unsafe_code)]
fn mapped(options: OpenOptions) -> OpenOptions {
    // SAFETY: The documentation of `diskimg.open(memory_map=True)` requires the caller to
    // guarantee that the files are neither truncated nor changed while they are mapped.
    unsafe { options.memory_map() }
}

/// An image that is going to be opened without the GIL.
pub(crate) enum Input {
    /// A file, by name.
    Path(PathBuf),
    /// An image that is described by options, and their JSON, which is its name in messages.
    Node(Node, String),
    /// A file on a server.
    Url(RemoteImage),
    /// The contents of a file object or `bytes`, with the name used in messages.
    File(InputFile, String, Raised),
}

impl Input {
    /// Creates an input from a name (`str`), the options of a node (a tuple of their JSON), a URL (a
    /// tuple of its arguments), a file object or `bytes`.
    pub(crate) fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok((json,)) = object.extract::<(String,)>() {
            let node = Node::from_json(&json).or_raise(object.py())?;
            let name = format!("json:{}", node.shown(&json));
            return Ok(Self::Node(node, name));
        }
        if let Some(remote) = RemoteImage::new(object)? {
            return Ok(Self::Url(remote));
        }
        if let Ok(name) = object.extract::<PathBuf>() {
            return Ok(Self::Path(plain(name)));
        }
        let raised = Raised::default();
        if let Ok(bytes) = object.cast::<PyBytes>() {
            let source = Arc::new(MemorySource::new(bytes.as_bytes()));
            return Ok(Self::File(InputFile::Seekable(source), "<bytes>".to_owned(), raised));
        }
        Ok(Self::File(file::input(object, raised.clone())?, file::name(object), raised))
    }

    /// Returns the slot for exceptions that the file object raises.
    pub(crate) fn raised(&self) -> Raised {
        match self {
            Self::Path(_) | Self::Node(..) | Self::Url(_) => Raised::default(),
            Self::File(_, _, raised) => raised.clone(),
        }
    }

    /// Returns the name used in messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Url(remote) => remote.name(),
            Self::Node(_, name) | Self::File(_, name, _) => name.clone(),
        }
    }

    /// Opens the image.
    pub(crate) fn open(self, options: &OpenOptions) -> diskimg::Result<Image> {
        match self {
            Self::Path(path) => options.open(path),
            Self::Url(remote) => remote.open(options),
            Self::Node(node, name) => options.open_node(&node, &name),
            Self::File(file, name, _) => {
                let source = file.source().map_err(|e| cannot_read(e, &name))?;
                options.open_source(source, name)
            }
        }
    }

    /// Returns the bytes of the file itself.
    pub(crate) fn source(self) -> diskimg::Result<Arc<dyn Source>> {
        match self {
            Self::Path(path) => {
                let local = local_path(&path).map_err(|e| e.in_file(&path))?;
                let source = FileSource::open(local);
                Ok(Arc::new(source.map_err(|e| Error::io("cannot open it", e).in_file(&path))?))
            }
            Self::Url(remote) => remote.source(),
            Self::Node(_, name) => {
                let message = "the bytes of an image that is described by options cannot be read";
                Err(Error::unsupported(message).hint("open it first").in_file(name))
            }
            Self::File(file, name, _) => file.source().map_err(|e| cannot_read(e, &name)),
        }
    }
}

fn cannot_read(error: std::io::Error, name: &str) -> Error {
    Error::io("cannot read it", error).in_file(name)
}

/// Returns `name` such that `-` names a file, as in other Python functions, and not a standard
/// stream.
pub(crate) fn plain(name: PathBuf) -> PathBuf {
    if name == Path::new("-") { Path::new(".").join(name) } else { name }
}

/// Returns the format called `name`.
pub(crate) fn format(py: Python<'_>, name: &str) -> PyResult<Format> {
    name.parse().or_raise(py)
}

/// Returns the default limits, changed by pairs of name and value.
pub(crate) fn limits(py: Python<'_>, pairs: &[(String, u64)]) -> PyResult<Limits> {
    let mut limits = Limits::default();
    for (name, value) in pairs {
        limits.set(name, *value).or_raise(py)?;
    }
    Ok(limits)
}

/// Parses an argument that is one of several words.
pub(crate) fn word<T: FromStr<Err = Error>>(argument: &str, word: &str) -> PyResult<T> {
    word.parse().map_err(|e: Error| bad_value(format!("{argument}: {e}")))
}

/// Returns the backing file of a new image.
pub(crate) fn backing(name: String, format: Option<String>) -> Backing {
    let backing = Backing::new(name);
    match format {
        Some(format) => backing.with_format(format),
        None => backing,
    }
}

/// Converts pairs of name and value to create options.
pub(crate) fn options(pairs: Vec<(String, String)>) -> Options {
    let mut options = Options::default();
    for (name, value) in pairs {
        options.set(name, value);
    }
    options
}
