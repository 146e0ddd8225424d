//! An open image.

use crate::arguments::{Input, Opening, format, options};
use crate::cluster::Cluster;
use crate::errors::{Raise, bad_value};
use crate::file::Raised;
use crate::work;
use diskimg::check::Severity;
use diskimg::{Error, ErrorKind, MapEntry};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyIndexError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use serde::Serialize;
use std::sync::{Arc, PoisonError, RwLock};

/// The unit of a format that has none.
const PLAIN_UNIT: u64 = 64 << 10;

/// An image, until it is closed.
#[pyclass(frozen)]
pub(crate) struct Image {
    image: RwLock<Option<Arc<diskimg::Image>>>,
    raised: Raised,
}

/// One entry of a map: the fields of `Extent`, in order.
type Entry = (u64, u64, usize, bool, bool, bool, bool, Option<u64>, Option<String>);

impl Image {
    /// What the file object under the image raises.
    pub(crate) fn raised(&self) -> &Raised {
        &self.raised
    }

    /// What the library says of the image, asked with the GIL released.
    fn ask<T: Send>(
        &self,
        py: Python<'_>,
        question: impl FnOnce(&Arc<diskimg::Image>) -> diskimg::Result<T> + Send,
    ) -> PyResult<T> {
        let image = self.get()?;
        self.raised.or(py.detach(|| question(&image)).or_raise(py))
    }

    /// The image.
    ///
    /// # Errors
    /// `ValueError` if it was closed, as files have it.
    pub(crate) fn get(&self) -> PyResult<Arc<diskimg::Image>> {
        let image = self.image.read().unwrap_or_else(PoisonError::into_inner);
        image.clone().ok_or_else(|| bad_value("I/O operation on closed image"))
    }
}

#[pymethods]
impl Image {
    /// Opens an image. For `facts` alone no backing file is opened, unless with
    /// the `chain`.
    #[staticmethod]
    fn open(
        py: Python<'_>,
        file: &Bound<'_, PyAny>,
        opening: Opening,
        facts: bool,
        chain: bool,
    ) -> PyResult<Self> {
        let input = Input::new(file)?;
        let options = opening.options(py)?;
        let options = options.metadata_only(facts).with_extents(facts).with_chain(chain);
        let raised = input.raised();
        let image = raised.or(py.detach(|| input.open(&options)).or_raise(py))?;
        Ok(Self { image: RwLock::new(Some(Arc::new(image))), raised })
    }

    fn close(&self, py: Python<'_>) {
        let image = self.image.write().unwrap_or_else(PoisonError::into_inner).take();
        // Closing files may take its time.
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

    /// Bytes that `cluster` gives at a time.
    #[getter]
    fn cluster_size(&self) -> PyResult<u64> {
        Ok(unit(&*self.get()?))
    }

    /// Images in the chain.
    #[getter]
    fn layers(&self) -> PyResult<usize> {
        Ok(self.get()?.layers().len())
    }

    #[getter]
    fn warnings(&self) -> PyResult<Vec<String>> {
        Ok(self.get()?.warnings().collect())
    }

    /// What `info` tells of a layer: qemu-img's JSON.
    fn info(&self, py: Python<'_>, layer: usize) -> PyResult<String> {
        let image = self.get()?;
        if layer >= image.layers().len() {
            return Err(PyIndexError::new_err("the chain has fewer layers"));
        }
        json(&self.ask(py, |image| image.info(layer))?)
    }

    /// At most `most` extents between `start` and `end`. What follows is asked for
    /// from where the last one ends.
    fn extents(&self, py: Python<'_>, start: u64, end: u64, most: usize) -> PyResult<Vec<Entry>> {
        self.ask(py, |image| extents(image, start, end, most))
    }

    fn read_at<'py>(
        &self,
        py: Python<'py>,
        offset: u64,
        len: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        // Before so much memory is asked for.
        require_inside(&*self.get()?, offset, len).or_raise(py)?;
        PyBytes::new_with(py, len, |buf| self.ask(py, |image| image.read_at(buf, offset)))
    }

    /// Fills `buffer`, which has one dimension of bytes and can be written. By way
    /// of a copy: other threads may see Python's memory while the GIL is released.
    fn readinto_at(&self, py: Python<'_>, offset: u64, buffer: PyBuffer<u8>) -> PyResult<()> {
        let mut bytes = vec![0; buffer.item_count()];
        self.ask(py, |image| image.read_at(&mut bytes, offset))?;
        buffer.copy_from_slice(py, &bytes)
    }

    /// The cluster that holds `offset`: a `memoryview` of the bytes where they lie
    /// in memory, or of a copy.
    fn cluster<'py>(&self, py: Python<'py>, offset: u64) -> PyResult<Bound<'py, PyMemoryView>> {
        let image = self.get()?;
        if offset >= image.size() {
            return Err(PyIndexError::new_err(format!(
                "offset {offset} is behind the end of the disk, which has {} bytes",
                image.size()
            )));
        }
        let unit = unit(&image);
        let start = offset / unit * unit;
        let end = image.size().min(start + unit);
        match self.ask(py, |image| Cluster::lend(image, start..end))? {
            Some(cluster) => PyMemoryView::from(Bound::new(py, cluster)?.as_any()),
            None => PyMemoryView::from(self.read_at(py, start, (end - start) as usize)?.as_any()),
        }
    }

    /// The findings, each with its severity, and the counts as JSON; `None` for a
    /// format that has nothing to check.
    #[allow(clippy::type_complexity, reason = "as Python has it")]
    fn check(&self, py: Python<'_>) -> PyResult<Option<(Vec<(&'static str, String)>, String)>> {
        let image = self.get()?;
        let mut findings = Vec::new();
        let report = work::run(py, None, |_| {
            image.check(&mut |finding| findings.push((severity(finding.severity), finding.message)))
        });
        let report = self.raised.or(report)?;
        report.map(|report| Ok((findings, json(&report)?))).transpose()
    }

    /// What `measure` tells: qemu-img's JSON.
    fn measure(
        &self,
        py: Python<'_>,
        format: &str,
        pairs: Vec<(String, String)>,
    ) -> PyResult<String> {
        let (format, options) = (self::format(py, format)?, options(pairs));
        json(&self.ask(py, |image| diskimg::measure(format, &options, image))?)
    }
}

fn unit(image: &diskimg::Image) -> u64 {
    match image.disk_layout().cluster_size {
        0 | 1 => PLAIN_UNIT,
        unit => unit,
    }
}

fn require_inside(image: &diskimg::Image, offset: u64, len: usize) -> diskimg::Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= image.size() => Ok(()),
        _ => Err(Error::invalid(format!(
            "{len} bytes at {offset} leave the disk, which ends at {}",
            image.size()
        ))),
    }
}

fn extents(
    image: &diskimg::Image,
    start: u64,
    end: u64,
    most: usize,
) -> diskimg::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let outcome = diskimg::map(image, start..end, &mut |entry| {
        if entries.len() >= most {
            return Err(Error::cancelled());
        }
        entries.push(fields(entry));
        Ok(())
    });
    match outcome {
        Err(e) if e.kind() != ErrorKind::Cancelled => Err(e),
        _ => Ok(entries),
    }
}

fn fields(entry: MapEntry) -> Entry {
    let MapEntry { start, length, depth, present, zero, data, compressed, offset, filename } =
        entry;
    (start, length, depth, present, zero, data, compressed, offset, filename)
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Leak => "leak",
        Severity::CheckError => "check-error",
        _ => "corruption",
    }
}

/// As text, which the Python half reads into its own classes.
pub(crate) fn json(value: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|e| PyRuntimeError::new_err(e.to_string()))
}
