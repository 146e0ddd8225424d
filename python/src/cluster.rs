//! Guest bytes in a mapped file that are exported to Python without a copy: the buffer of a
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

/// Guest bytes that are stored verbatim in a mapped file, as a read-only buffer.
#[pyclass(frozen)]
pub(crate) struct Cluster {
    /// The mapped file. Holding it keeps the bytes mapped.
    file: Arc<dyn Source>,
    /// Position of the bytes in the file.
    stored: Range<usize>,
}

impl Cluster {
    /// Returns the guest bytes of `range`, or `None` if they are not contiguous in a mapped file.
    pub(crate) fn lend(image: &Image, range: Range<u64>) -> diskimg::Result<Option<Self>> {
        let len = (range.end - range.start) as usize;
        let extents = image.extents(range)?.collect::<diskimg::Result<Vec<_>>>()?;
        let Some((first, start)) = extents.first().and_then(|e| Some((e, host_offset(e)?))) else {
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
                // An extent that reads as zeros may have other bytes at its host offset.
                let as_stored = !extent.kind.is_zero() || is_zero(part);
                (extent.depth, host_offset(extent)) == (first.depth, Some(next)) && as_stored
            })
        });
        Ok(lent.then_some(Self { file, stored }))
    }
}

/// Returns the host offset of an extent that is stored verbatim.
fn host_offset(extent: &ChainExtent) -> Option<HostOffset> {
    match extent.kind {
        Kind::Data(offset) | Kind::Zero(Some(offset)) => Some(offset),
        _ => None,
    }
}

#[pymethods]
impl Cluster {
    /// Fills `view` with the address and length of the bytes.
    ///
    /// # Safety
    /// `view` must be a valid pointer to a `Py_buffer`. Only Python calls this.
    #[allow(unsafe_code)]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        let Some(bytes) = this.file.as_slice().and_then(|all| all.get(this.stored.clone())) else {
            return Err(PyBufferError::new_err("the bytes are no longer in memory"));
        };
        let (start, len) = (bytes.as_ptr(), bytes.len() as ffi::Py_ssize_t);
        // SAFETY: Python passes a valid `view`. The bytes stay mapped as long as the source
        // exists; `slf` holds the source and the view holds a reference to `slf`. The 1 marks the
        // buffer as read-only: the call fails if a writable buffer was requested.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start.cast_mut().cast(), len, 1, flags)
        };
        match filled {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}
