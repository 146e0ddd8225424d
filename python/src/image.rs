//! An open image.

use crate::arguments::{Input, OpenArgs, format, options};
use crate::cluster::Cluster;
use crate::errors::{Raise, bad_value};
use crate::file::Raised;
use crate::work;
use diskimg::check::Code;
use diskimg::{Error, MapEntry};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyIndexError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use serde::Serialize;
use std::sync::{PoisonError, RwLock};

/// Cluster size reported for formats that have none.
const DEFAULT_CLUSTER_SIZE: u64 = 64 << 10;

/// An open image.
#[pyclass(frozen)]
pub(crate) struct Image {
    /// `None` once the image is closed.
    image: RwLock<Option<diskimg::Image>>,
    raised: Raised,
}

/// The fields of `Extent`, in order.
type Entry = (u64, u64, usize, bool, bool, bool, bool, Option<u64>, Option<String>);

/// A finding of a check: its code, severity and message.
type CheckFinding = (&'static str, String, String);

impl Image {
    /// Returns the slot for exceptions that the image's file object raises.
    pub(crate) fn raised(&self) -> &Raised {
        &self.raised
    }

    /// Runs an operation on the image without the GIL.
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        operation: impl FnOnce(&diskimg::Image) -> diskimg::Result<T> + Send,
    ) -> PyResult<T> {
        let image = self.get()?;
        self.raised.or(py.detach(|| operation(&image)).or_raise(py))
    }

    /// Returns the image.
    ///
    /// # Errors
    /// `ValueError` if the image was closed, as for Python's files.
    pub(crate) fn get(&self) -> PyResult<diskimg::Image> {
        let image = self.image.read().unwrap_or_else(PoisonError::into_inner);
        image.clone().ok_or_else(|| bad_value("I/O operation on closed image"))
    }
}

#[pymethods]
impl Image {
    /// Opens an image. With `metadata_only`, its backing files are opened only if `chain` is set.
    #[staticmethod]
    fn open(
        py: Python<'_>,
        file: &Bound<'_, PyAny>,
        args: OpenArgs,
        metadata_only: bool,
        chain: bool,
    ) -> PyResult<Self> {
        let input = Input::new(file)?;
        let options = args.options(py)?;
        let options = options.metadata_only(metadata_only);
        let options = options.with_extents(metadata_only).with_chain(chain);
        let raised = input.raised();
        let image = raised.or(py.detach(|| input.open(&options)).or_raise(py))?;
        Ok(Self { image: RwLock::new(Some(image)), raised })
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
    fn name(&self) -> PyResult<String> {
        Ok(self.get()?.name(0).to_owned())
    }

    #[getter]
    fn format(&self) -> PyResult<&'static str> {
        Ok(self.get()?.format().name())
    }

    #[getter]
    fn size(&self) -> PyResult<u64> {
        Ok(self.get()?.size())
    }

    /// Size in bytes of what `cluster` returns.
    #[getter]
    fn cluster_size(&self) -> PyResult<u64> {
        Ok(cluster_size(&self.get()?))
    }

    /// Number of images in the chain.
    #[getter]
    fn layers(&self) -> PyResult<usize> {
        Ok(self.get()?.layers().len())
    }

    #[getter]
    fn warnings(&self) -> PyResult<Vec<String>> {
        Ok(self.get()?.warnings().collect())
    }

    /// Returns information about a layer as qemu-img's JSON.
    fn info(&self, py: Python<'_>, layer: usize) -> PyResult<String> {
        let image = self.get()?;
        if layer >= image.layers().len() {
            return Err(PyIndexError::new_err("the chain has no such layer"));
        }
        json(&self.run(py, |image| image.info(layer))?)
    }

    /// Returns at most `max_count` extents between `start` and `end`. To continue, call it again
    /// with the end of the last extent as `start`.
    fn extents(
        &self,
        py: Python<'_>,
        start: u64,
        end: u64,
        max_count: usize,
    ) -> PyResult<Vec<Entry>> {
        self.run(py, |image| {
            diskimg::map(image, start..end).take(max_count).map(|entry| entry.map(fields)).collect()
        })
    }

    fn read_at<'py>(
        &self,
        py: Python<'py>,
        offset: u64,
        len: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        // Checked before the buffer is allocated.
        require_inside(&self.get()?, offset, len).or_raise(py)?;
        PyBytes::new_with(py, len, |buf| self.run(py, |image| image.read_at(buf, offset)))
    }

    /// Fills `buffer`, a writable one-dimensional buffer of bytes. The data pass through a copy
    /// because other threads can access Python's memory while the GIL is released.
    fn readinto_at(&self, py: Python<'_>, offset: u64, buffer: PyBuffer<u8>) -> PyResult<()> {
        let mut bytes = vec![0; buffer.item_count()];
        self.run(py, |image| image.read_at(&mut bytes, offset))?;
        buffer.copy_from_slice(py, &bytes)
    }

    /// Returns a `memoryview` of the cluster that contains `offset`: of the mapped file if
    /// possible, otherwise of a copy.
    fn cluster<'py>(&self, py: Python<'py>, offset: u64) -> PyResult<Bound<'py, PyMemoryView>> {
        let image = self.get()?;
        if offset >= image.size() {
            return Err(PyIndexError::new_err(format!(
                "offset {offset} is beyond the end of the disk, which has {} bytes",
                image.size()
            )));
        }
        let size = cluster_size(&image);
        let start = offset / size * size;
        let end = image.size().min(start + size);
        match self.run(py, |image| Cluster::lend(image, start..end))? {
            Some(cluster) => PyMemoryView::from(Bound::new(py, cluster)?.as_any()),
            None => PyMemoryView::from(self.read_at(py, start, (end - start) as usize)?.as_any()),
        }
    }

    /// Checks the image. Returns the findings with their severities, and the counts as JSON; `None`
    /// if the format has no metadata to check.
    #[allow(clippy::type_complexity, reason = "the Python code names the parts")]
    fn check(&self, py: Python<'_>) -> PyResult<Option<(Vec<CheckFinding>, String)>> {
        let image = self.get()?;
        let mut findings = Vec::new();
        let report = work::run(py, None, |_| {
            image.check(&mut |finding| {
                findings.push((code(finding.code), finding.severity.to_string(), finding.message))
            })
        });
        let report = self.raised.or(report)?;
        report.map(|report| Ok((findings, json(&report)?))).transpose()
    }

    /// Returns the space that the image would take in `format` as qemu-img's JSON.
    fn measure(
        &self,
        py: Python<'_>,
        format: &str,
        pairs: Vec<(String, String)>,
    ) -> PyResult<String> {
        let (format, options) = (self::format(py, format)?, options(pairs));
        json(&self.run(py, |image| diskimg::measure(format, &options, image))?)
    }
}

fn cluster_size(image: &diskimg::Image) -> u64 {
    match image.disk_layout().cluster_size {
        0 | 1 => DEFAULT_CLUSTER_SIZE,
        size => size,
    }
}

fn require_inside(image: &diskimg::Image, offset: u64, len: usize) -> diskimg::Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= image.size() => Ok(()),
        _ => Err(Error::invalid(format!(
            "{len} bytes at {offset} extend beyond the end of the disk at {}",
            image.size()
        ))),
    }
}

fn fields(entry: MapEntry) -> Entry {
    let e = entry;
    (e.start, e.length, e.depth, e.present, e.zero, e.data, e.compressed, e.offset, e.filename)
}

fn code(code: Code) -> &'static str {
    match code {
        Code::Leak => "leak",
        Code::CheckError => "check-error",
        _ => "corruption",
    }
}

/// Serializes `value` to JSON text, which the Python code converts to its own classes.
pub(crate) fn json(value: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|e| PyRuntimeError::new_err(e.to_string()))
}
