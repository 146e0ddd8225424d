//! Guest bytes lent to Python where they lie in memory: the buffer behind a
//! `memoryview`.

use diskimg::extent::{ChainExtent, HostOffset, Kind};
use diskimg::storage::zeros::is_zero;
use diskimg::{Image, Source};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_int;
use std::ops::Range;
use std::sync::Arc;

/// Guest bytes that are stored as they are, in a file that is in memory; read-only.
#[pyclass(frozen)]
pub(crate) struct Cluster {
    /// Keeps the bytes where they are.
    file: Arc<dyn Source>,
    /// Which of them.
    stored: Range<usize>,
}

impl Cluster {
    /// The guest bytes of `range`; `None` if they are not in one piece, or not in memory.
    pub(crate) fn lend(image: &Image, range: Range<u64>) -> diskimg::Result<Option<Self>> {
        let len = (range.end - range.start) as usize;
        let extents = image.extents(range)?;
        let Some((first, start)) = extents.first().and_then(|e| Some((e, place(e)?))) else {
            return Ok(None);
        };
        let Some(layer) = image.layers().nth(first.depth) else { return Ok(None) };
        let file = Arc::clone(&layer.files()[start.file]);
        let stored = start.offset as usize..start.offset as usize + len;
        let lent = file.as_slice().and_then(|all| all.get(stored.clone())).is_some_and(|bytes| {
            extents.iter().all(|extent| {
                let at = extent.guest.start - first.guest.start;
                let next = HostOffset { offset: start.offset + at, ..start };
                let part = &bytes[at as usize..][..extent.len() as usize];
                // What reads as zeros, such as a hole of the file, may hold anything.
                let as_stored = !extent.kind.is_zero() || is_zero(part);
                (extent.depth, place(extent)) == (first.depth, Some(next)) && as_stored
            })
        });
        Ok(lent.then_some(Self { file, stored }))
    }
}

/// Where an extent lies as it is.
fn place(extent: &ChainExtent) -> Option<HostOffset> {
    match extent.kind {
        Kind::Data(place) | Kind::Zero(Some(place)) => Some(place),
        _ => None,
    }
}

#[pymethods]
impl Cluster {
    /// # Safety
    /// Python calls it with a view to be filled.
    #[allow(unsafe_code)]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        let Some(bytes) = this.file.as_slice().and_then(|all| all.get(this.stored.clone())) else {
            return Err(PyBufferError::new_err("the bytes are not in memory any more"));
        };
        let (start, len) = (bytes.as_ptr(), bytes.len() as ffi::Py_ssize_t);
        // SAFETY: `view` is Python's to be filled. The bytes stay where they are as
        // long as the source lives, which `slf` holds; the view takes a reference to
        // `slf`. The 1 says that they are not to be written, and a request for
        // writing fails here.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start.cast_mut().cast(), len, 1, flags)
        };
        match filled {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}
