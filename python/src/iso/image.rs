//! An open ISO image.

use super::IsoContents;
use super::entry::{Fields, Text, fields, text};
use crate::arguments::{Input, OpenArgs, plain, word};
use crate::errors::{Raise, bad_value, exception};
use crate::file::{self, Raised};
use crate::image::json;
use crate::work;
use diskimg::iso::{ExtractOptions, Extracted, Finding, IsoImage, IsoOptions, Namespace};
use diskimg::iso::{Node, Session, Walk};
use diskimg::storage::source::HostFileId;
use diskimg::{Error, ErrorKind, Progress};
use pyo3::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The session to show: its first sector or a keyword.
#[derive(FromPyObject)]
enum SessionArg {
    Sector(u32),
    Keyword(String),
}

/// How to extract. Corresponds to `ExtractArgs` in `iso/_image.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct ExtractArgs {
    overwrite: bool,
    modes: bool,
    special_modes: bool,
    times: bool,
    owners: bool,
    symlinks: bool,
    hard_links: bool,
    devices: bool,
    limit: u64,
}

/// The fields of `Extracted`, in order.
type ExtractedFields<'py> = (u64, u64, u64, u64, u64, Vec<(Text<'py>, PyErr)>);

/// An open ISO image.
#[pyclass(frozen)]
pub(crate) struct Iso {
    /// `None` once the image is closed.
    image: RwLock<Option<Arc<IsoImage>>>,
    name: String,
    /// The files that the image is stored in.
    files: Vec<HostFileId>,
    raised: Raised,
}

/// An iterator over everything below a directory.
#[pyclass(frozen)]
pub(crate) struct IsoWalk {
    iso: Py<Iso>,
    walk: Mutex<Walk>,
}

impl Iso {
    /// Returns the image.
    ///
    /// # Errors
    /// `ValueError` if the image was closed, as for Python's files.
    pub(super) fn get(&self) -> PyResult<Arc<IsoImage>> {
        let image = self.image.read().unwrap_or_else(PoisonError::into_inner);
        image.clone().ok_or_else(|| bad_value("I/O operation on closed image"))
    }

    /// Runs an operation on the image without the GIL.
    pub(super) fn run<T: Send>(
        &self,
        py: Python<'_>,
        operation: impl FnOnce(&IsoImage) -> diskimg::Result<T> + Send,
    ) -> PyResult<T> {
        let image = self.get()?;
        let result = py.detach(|| operation(&image).map_err(|e| self.in_image(e)));
        self.raised.or(result.or_raise(py))
    }

    pub(super) fn files(&self) -> &[HostFileId] {
        &self.files
    }

    pub(super) fn raised(&self) -> &Raised {
        &self.raised
    }

    /// Adds the name of the image to `error`.
    fn in_image(&self, error: Error) -> Error {
        error.in_file(&self.name)
    }

    fn node(&self, py: Python<'_>, path: &[u8]) -> PyResult<Node> {
        let found = self.run(py, |image| match image.lookup(path) {
            Err(error) if error.kind() == ErrorKind::Invalid => Ok(None),
            other => other.map(Some),
        })?;
        found.ok_or_else(|| self.os_error(py, 2, "no such file or directory", path))
    }

    fn directory(&self, py: Python<'_>, path: &[u8]) -> PyResult<Node> {
        let node = self.node(py, path)?;
        match node.is_dir() {
            true => Ok(node),
            false => Err(self.os_error(py, 20, "not a directory", path)),
        }
    }

    /// Returns the exception for a path in the image, with the class that Python uses for `errno`.
    fn os_error(&self, py: Python<'_>, errno: i32, reason: &str, path: &[u8]) -> PyErr {
        let build = || {
            let path = text(py, path)?;
            let shown = path.call_method0("__repr__")?;
            let message = format!("{}: {shown}: {reason}", self.name);
            py.import("diskimg._errors")?.call_method1("io_error", (errno, message, path))
        };
        build().map_or_else(|failed| failed, PyErr::from_value)
    }
}

#[pymethods]
impl Iso {
    #[staticmethod]
    fn open(
        py: Python<'_>,
        file: &Bound<'_, PyAny>,
        args: OpenArgs,
        namespace: &str,
        session: SessionArg,
        strict: bool,
    ) -> PyResult<Self> {
        let input = Input::new(file)?;
        let options = args.options(py)?;
        let mut how = IsoOptions::default();
        how.namespace = word("namespace", namespace)?;
        how.session = session.session()?;
        how.strict = strict;
        how.limits = args.limits(py)?;
        let raised = input.raised();
        let opened = py.detach(|| {
            let image = input.open(&options)?;
            let name = image.name(0).to_owned();
            let files = file::files_of(&image).collect();
            let iso = IsoImage::open(Arc::new(image), &how).map_err(|e| e.in_file(&name))?;
            Ok((iso, name, files))
        });
        let (image, name, files) = raised.or(opened.or_raise(py))?;
        Ok(Self { image: RwLock::new(Some(Arc::new(image))), name, files, raised })
    }

    fn close(&self, py: Python<'_>) {
        let image = self.image.write().unwrap_or_else(PoisonError::into_inner).take();
        // Closing files may block.
        py.detach(|| drop(image));
    }

    #[getter]
    fn closed(&self) -> bool {
        self.image.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    #[getter]
    fn namespace(&self) -> PyResult<&'static str> {
        Ok(self.get()?.namespace().name())
    }

    #[getter]
    fn namespaces(&self) -> PyResult<Vec<&'static str>> {
        Ok(self.get()?.namespaces().map(Namespace::name).collect())
    }

    #[getter]
    fn truncated(&self) -> PyResult<Option<String>> {
        Ok(self.get()?.truncated().map(|finding| finding.to_string()))
    }

    /// Returns information about the image as JSON.
    fn info(&self, py: Python<'_>) -> PyResult<String> {
        json(&self.run(py, IsoImage::info)?)
    }

    fn stat<'py>(&self, py: Python<'py>, path: &[u8]) -> PyResult<Fields<'py>> {
        fields(py, path, &self.node(py, path)?)
    }

    /// Returns the extents of a file: offset (`None` for a hole) and length.
    fn extents(&self, py: Python<'_>, path: &[u8]) -> PyResult<Vec<(Option<u64>, u64)>> {
        let node = self.node(py, path)?;
        Ok(node.extents().iter().map(|extent| (extent.offset, extent.len)).collect())
    }

    /// Returns the entries of a directory, with `path` prepended to their names.
    fn read_dir<'py>(&self, py: Python<'py>, path: &[u8]) -> PyResult<Vec<Fields<'py>>> {
        let directory = self.directory(py, path)?;
        let entries = self.run(py, |image| image.read_dir(&directory))?;
        let full_path = |name: &[u8]| match path.is_empty() {
            true => name.to_vec(),
            false => [path, b"/", name].concat(),
        };
        entries.iter().map(|entry| fields(py, &full_path(&entry.name), &entry.node)).collect()
    }

    fn walk(slf: &Bound<'_, Self>, path: &[u8]) -> PyResult<IsoWalk> {
        let this = slf.get();
        let directory = this.directory(slf.py(), path)?;
        let walk = this.get()?.walk_from(directory, path);
        Ok(IsoWalk { iso: slf.clone().unbind(), walk: Mutex::new(walk) })
    }

    fn contents(slf: &Bound<'_, Self>, path: &[u8]) -> PyResult<IsoContents> {
        let (this, py) = (slf.get(), slf.py());
        let node = this.node(py, path)?;
        if node.is_dir() {
            return Err(this.os_error(py, 21, "is a directory", path));
        }
        let contents = this.run(py, |image| image.contents(&node))?;
        Ok(IsoContents::new(slf.clone().unbind(), contents))
    }

    /// Verifies the image and returns the findings as JSON.
    fn verify(&self, py: Python<'_>) -> PyResult<String> {
        let image = self.get()?;
        let mut findings: Vec<Finding> = Vec::new();
        let verified = work::run(py, None, |_| {
            let verified = image.verify(&mut |finding| findings.push(finding));
            verified.map_err(|e| self.in_image(e))
        });
        self.raised.or(verified)?;
        json(&findings)
    }

    fn extract<'py>(
        &self,
        py: Python<'py>,
        path: &[u8],
        dest: PathBuf,
        how: ExtractArgs,
        progress: Option<Bound<'py, PyAny>>,
    ) -> PyResult<ExtractedFields<'py>> {
        let (image, options, dest) = (self.get()?, how.options(), plain(dest));
        self.node(py, path)?;
        let extracted = work::run(py, progress.as_ref(), |report| {
            extract(&image, path, &dest, &options, report).map_err(|e| self.in_image(e))
        });
        let done = self.raised.or(extracted)?;
        let failures = done.failures.iter();
        let failures = failures.map(|(path, error)| Ok((text(py, path)?, exception(py, error))));
        let failures = failures.collect::<PyResult<_>>()?;
        Ok((done.files, done.directories, done.bytes, done.left_out, done.failed, failures))
    }
}

/// Extracts files. Reports the number of bytes of the files that are complete, and the total.
fn extract(
    image: &IsoImage,
    path: &[u8],
    dest: &Path,
    options: &ExtractOptions,
    report: diskimg::Callback<'_>,
) -> diskimg::Result<Extracted> {
    let node = image.lookup(path)?;
    let sizes = |node: &Node| match node.is_dir() {
        true => Some(image.walk_from(node.clone(), b"").filter_map(Result::ok)),
        false => None,
    };
    let total = sizes(&node).map_or(node.size, |walk| {
        walk.filter(|found| !found.node.is_dir())
            .fold(0, |sum: u64, found| sum.saturating_add(found.node.size))
    });
    // This second walk yields the same files in the same order as the extraction. All files before
    // the current one are complete.
    let mut walk = sizes(&node);
    let (mut done, mut size) = (0u64, 0u64);
    let mut tick = |current: &[u8]| {
        let below = current.strip_prefix(path).unwrap_or(current);
        let below = below.strip_prefix(b"/").unwrap_or(below);
        while let Some(found) = walk.as_mut().and_then(Iterator::next) {
            done = done.saturating_add(size);
            size = if found.node.is_dir() { 0 } else { found.node.size };
            if found.path == below {
                break;
            }
        }
        // `done == total` is reported only at the end.
        let done = done.min(total.saturating_sub(1));
        match report(Progress::new(done, total.max(1))).is_continue() {
            true => Ok(()),
            false => Err(Error::cancelled()),
        }
    };
    let extracted = image.extract_path(path, dest, options, &mut tick)?;
    // Everything has been extracted. If the caller stops now, that is still an error.
    match report(Progress::new(total.max(1), total.max(1))).is_continue() {
        true => Ok(extracted),
        false => Err(Error::cancelled()),
    }
}

#[pymethods]
impl IsoWalk {
    /// Returns at most `max_count` entries and, if the entry after them cannot be followed, the
    /// error. At the end, returns neither.
    fn next<'py>(
        &self,
        py: Python<'py>,
        max_count: usize,
    ) -> PyResult<(Vec<Fields<'py>>, Option<PyErr>)> {
        let mut entries = Vec::new();
        let failed = self.iso.get().run(py, |_| {
            let mut walk = self.walk.lock().unwrap_or_else(PoisonError::into_inner);
            for found in walk.by_ref() {
                match found {
                    Ok(found) => entries.push(found),
                    Err(error) => return Ok(Some(self.iso.get().in_image(error))),
                }
                if entries.len() >= max_count {
                    break;
                }
            }
            Ok(None)
        })?;
        let entries = entries.iter().map(|found| fields(py, &found.path, &found.node));
        Ok((entries.collect::<PyResult<_>>()?, failed.map(|error| exception(py, &error))))
    }
}

impl SessionArg {
    fn session(self) -> PyResult<Session> {
        match self {
            Self::Sector(sector) => Ok(Session::At(sector)),
            Self::Keyword(keyword) => word("session", &keyword),
        }
    }
}

impl ExtractArgs {
    fn options(self) -> ExtractOptions {
        let mut options = ExtractOptions::default();
        options.overwrite = self.overwrite;
        options.modes = self.modes;
        options.special_modes = self.special_modes;
        options.times = self.times;
        options.owners = self.owners;
        options.symlinks = self.symlinks;
        options.hard_links = self.hard_links;
        options.devices = self.devices;
        options.max_bytes = self.limit;
        options
    }
}
