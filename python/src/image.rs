//! An open image.

use crate::arguments::{Input, OpenArgs, format, options};
use crate::cluster::Cluster;
use crate::errors::{Raise, bad_value};
use crate::file::Raised;
use crate::iso::{Fields, fields as fields_of};
use crate::work;
use diskimg::check::Code;
use diskimg::files::{self, FileSystem};
use diskimg::storage::source::{Source, WindowSource};
use diskimg::{Check, Error, MapEntry, partition};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyIndexError, PyRuntimeError, PyRuntimeWarning};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use serde::Serialize;
use std::ffi::CString;
use std::sync::{Arc, PoisonError, RwLock};

/// Cluster size reported for formats that have none.
const DEFAULT_CLUSTER_SIZE: u64 = 64 << 10;

/// An open image.
#[pyclass(frozen)]
pub(crate) struct Image {
    /// `None` once the image is closed.
    image: RwLock<Option<diskimg::Image>>,
    raised: Raised,
}

/// A partition table, and what each partition contains.
#[derive(Serialize)]
struct TableWithContents {
    #[serde(flatten)]
    table: partition::Table,
    contents: Vec<Option<files::Recognized>>,
}

/// The fields of `Extent`, in order.
type Entry = (u64, u64, usize, bool, bool, bool, bool, Option<u64>, Option<String>);

/// A finding of a check: its code, severity and message.
pub(crate) type CheckFinding = (&'static str, String, String);

/// Returns the fields of a finding.
pub(crate) fn finding_fields(finding: diskimg::check::Finding) -> CheckFinding {
    (word_of(finding.code), finding.severity.to_string(), finding.message)
}

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

    /// Returns what a consumer would reject of the image, as JSON.
    fn preflight(&self, py: Python<'_>, consumer: &str) -> PyResult<String> {
        let consumer = consumer.parse().or_raise(py)?;
        json(&self.run(py, |image| diskimg::preflight::preflight(image, consumer))?)
    }

    /// Returns the dirty bitmaps as JSON; `None` if images of this format and version have none.
    fn bitmaps(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.run(py, diskimg::Image::dirty_bitmaps)?.as_ref().map(json).transpose()
    }

    /// Returns the dirty parts of a guest range, as pairs of start and end.
    fn dirty_ranges(
        &self,
        py: Python<'_>,
        name: &str,
        start: u64,
        end: u64,
    ) -> PyResult<Vec<(u64, u64)>> {
        self.run(py, |image| {
            let mut ranges = Vec::new();
            let each = |range: std::ops::Range<u64>| ranges.push((range.start, range.end));
            image.dirty_bitmap(name)?.for_each_dirty(start..end, each)?;
            Ok(ranges)
        })
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
        let report = work::run(py, None, |callback| {
            Check::new(&image).progress(callback).run(&mut |finding| {
                findings.push(finding_fields(finding));
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

    /// Returns the partition table as JSON, with what the partitions contain.
    fn partitions(&self, py: Python<'_>, sector_size: Option<u64>) -> PyResult<Option<String>> {
        let table = self.run(py, |image| {
            let Some(table) = partition::table(image, sector_size)? else { return Ok(None) };
            let disk: Arc<dyn Source> = Arc::new(image.clone());
            let found = files::contents(&disk, &table.partitions)?;
            let in_image = |error: Error| error.in_file(image.name(0)).to_string();
            let failures: Vec<_> = found.errors.into_iter().map(in_image).collect();
            Ok(Some((TableWithContents { table, contents: found.recognized }, failures)))
        })?;
        let Some((table, failures)) = table else { return Ok(None) };
        for failure in failures {
            let text = CString::new(failure.replace('\0', "")).unwrap_or_default();
            PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, 2)?;
        }
        json(&table).map(Some)
    }

    /// Returns what a partition, or with 0 the disk, contains as JSON.
    fn file_system(&self, py: Python<'_>, partition: u32) -> PyResult<Option<String>> {
        let found = self.run(py, |image| files::recognize(&part(image, partition)?))?;
        found.as_ref().map(json).transpose()
    }

    /// Returns the entries of a directory.
    fn listdir<'py>(
        &self,
        py: Python<'py>,
        partition: u32,
        path: Vec<u8>,
    ) -> PyResult<Vec<Fields<'py>>> {
        let entries = self.run(py, |image| {
            let in_image = |error: Error| error.in_file(image.name(0));
            let source = part(image, partition).map_err(in_image)?;
            let files = FileSystem::open(source, image.limits(0)).map_err(in_image)?;
            files.read_dir(&path).map_err(in_image)
        })?;
        let below = if path.is_empty() { path } else { [&path, &b"/"[..]].concat() };
        let entries = entries.iter();
        entries
            .map(|entry| fields_of(py, &[&below, &entry.name[..]].concat(), &entry.node))
            .collect()
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

fn word_of(code: Code) -> &'static str {
    match code {
        Code::Leak => "leak",
        Code::CheckError => "check-error",
        Code::DigestMismatch => "digest-mismatch",
        Code::DigestNotVerified => "digest-not-verified",
        _ => "corruption",
    }
}

/// Serializes `value` to JSON text, which the Python code converts to its own classes.
pub(crate) fn json(value: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|e| PyRuntimeError::new_err(e.to_string()))
}

/// Returns the bytes of a partition, unless it begins beyond the end of the disk.
fn window(disk: &Arc<dyn Source>, partition: &partition::Partition) -> Option<Arc<dyn Source>> {
    let range = partition.range(disk.len())?;
    Some(Arc::new(WindowSource::new(Arc::clone(disk), range).ok()?))
}

/// Returns the bytes of the partition with this number; 0 is the whole disk.
fn part(image: &diskimg::Image, number: u32) -> diskimg::Result<Arc<dyn Source>> {
    let disk: Arc<dyn Source> = Arc::new(image.clone());
    if number == 0 {
        return Ok(disk);
    }
    let table = partition::table(image, None)?;
    let found = table.as_ref().and_then(|table| table.partition(number));
    let source = found.and_then(|partition| window(&disk, partition));
    source.ok_or_else(|| Error::invalid(format!("the disk has no partition {number}")))
}
