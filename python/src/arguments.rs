//! What Python gave, as the library takes it.
//!
//! The Python half has made sure of the types and filled in the defaults; whether
//! the values mean anything is seen here.

use crate::errors::{Raise, bad_value};
use crate::file::{self, Given, Raised};
use diskimg::open::local_path;
use diskimg::storage::source::{FileSource, MemorySource, Source};
use diskimg::{
    Caching, Error, ExternalFiles, Format, Image, Limits, OpenOptions, Options, SnapshotSelector,
    printable,
};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How an image is opened: `Opening` in `_types.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Opening {
    format: Option<String>,
    external_files: String,
    limits: Vec<(String, u64)>,
    snapshot: Option<String>,
    disk: Option<String>,
    ignore_content_id: bool,
    direct: bool,
    memory_map: bool,
}

impl Opening {
    /// The library's word for it.
    pub(crate) fn options(&self, py: Python<'_>) -> PyResult<OpenOptions> {
        let format = self.format.as_deref().map(|name| format(py, name)).transpose()?;
        let options = OpenOptions::new()
            .format(format)
            .external_files(external_files(&self.external_files)?)
            .limits(self.limits(py)?)
            .snapshot(self.snapshot.clone().map(SnapshotSelector::IdOrName))
            .disk(self.disk.clone())
            .ignore_content_id(self.ignore_content_id);
        Ok(match (self.memory_map, self.direct) {
            (true, true) => return Err(bad_value("memory_map and direct exclude each other")),
            (true, false) => mapped(options),
            (false, true) => options.caching(Caching::Direct),
            (false, false) => options,
        })
    }

    /// The bounds alone.
    pub(crate) fn limits(&self, py: Python<'_>) -> PyResult<Limits> {
        limits(py, &self.limits)
    }
}

/// With the image's files mapped.
#[allow(unsafe_code)]
fn mapped(options: OpenOptions) -> OpenOptions {
    // SAFETY: `diskimg.open(memory_map=True)` hands its caller the promise, in
    // its documentation: nobody truncates or changes the files meanwhile.
    unsafe { options.memory_map() }
}

/// An image to be opened, once the GIL is released.
pub(crate) enum Input {
    /// By its name.
    Path(PathBuf),
    /// Bytes that Python's file object has, and what it is called.
    File(Given, String, Raised),
}

impl Input {
    /// `object` is a name (`str`), a file object, or the bytes themselves.
    pub(crate) fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(name) = object.extract::<PathBuf>() {
            return Ok(Self::Path(plain(name)));
        }
        let raised = Raised::default();
        if let Ok(bytes) = object.cast::<PyBytes>() {
            let source = Arc::new(MemorySource::new(bytes.as_bytes()));
            return Ok(Self::File(Given::Positioned(source), "<bytes>".to_owned(), raised));
        }
        Ok(Self::File(file::given(object, raised.clone())?, file::name(object), raised))
    }

    /// What a file object raises from now on.
    pub(crate) fn raised(&self) -> Raised {
        match self {
            Self::Path(_) => Raised::default(),
            Self::File(_, _, raised) => raised.clone(),
        }
    }

    /// What it is called.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::File(_, name, _) => name.clone(),
        }
    }

    /// Opens it.
    pub(crate) fn open(self, options: &OpenOptions) -> diskimg::Result<Image> {
        match self {
            Self::Path(path) => options.open(path),
            Self::File(given, name, _) => {
                let source = given.source().map_err(|e| cannot_read(e, &name))?;
                options.open_source(source, name)
            }
        }
    }

    /// Its bytes, uninterpreted.
    pub(crate) fn source(self) -> diskimg::Result<Arc<dyn Source>> {
        match self {
            Self::Path(path) => {
                let local = local_path(&path).map_err(|e| e.in_file(&path))?;
                let source = FileSource::open(local);
                Ok(Arc::new(source.map_err(|e| Error::io("cannot open it", e).in_file(&path))?))
            }
            Self::File(given, name, _) => given.source().map_err(|e| cannot_read(e, &name)),
        }
    }
}

fn cannot_read(error: std::io::Error, name: &str) -> Error {
    Error::io("cannot read it", error).in_file(name)
}

/// A name is a name: `-` is no standard stream to a program that handles files.
pub(crate) fn plain(name: PathBuf) -> PathBuf {
    if name == Path::new("-") { Path::new(".").join(name) } else { name }
}

/// The format called `name`.
pub(crate) fn format(py: Python<'_>, name: &str) -> PyResult<Format> {
    name.parse().or_raise(py)
}

/// Which files an image may name.
pub(crate) fn external_files(word: &str) -> PyResult<ExternalFiles> {
    match word {
        "none" => Ok(ExternalFiles::None),
        "same-dir" => Ok(ExternalFiles::SameDir),
        "any" => Ok(ExternalFiles::Any),
        _ => Err(unknown("external_files", word, "none, same-dir or any")),
    }
}

/// The defaults, but for what is given by name.
pub(crate) fn limits(py: Python<'_>, given: &[(String, u64)]) -> PyResult<Limits> {
    let mut limits = Limits::default();
    for (name, value) in given {
        limits.set(name, *value).or_raise(py)?;
    }
    Ok(limits)
}

/// A word that is none of those possible.
pub(crate) fn unknown(what: &str, word: &str, possible: &str) -> PyErr {
    bad_value(format!("{what}='{}' must be {possible}", printable(word)))
}

/// Create options from names and values.
pub(crate) fn options(pairs: Vec<(String, String)>) -> Options {
    let mut options = Options::default();
    for (name, value) in pairs {
        options.set(name, value);
    }
    options
}
