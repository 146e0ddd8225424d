//! Guest bytes lent to Python where they lie in memory: the buffer behind a
//! `memoryview`.

use diskimg::Image;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_int;
use std::sync::Arc;

/// A run of an image's bytes that can be borrowed as one; read-only.
#[pyclass(frozen)]
pub(crate) struct Cluster {
    /// Keeps the bytes where they are: its sources are what they lie in.
    image: Arc<Image>,
    offset: u64,
    len: usize,
}

impl Cluster {
    /// The `len` guest bytes at `offset`; `None` if they are not one run in memory.
    pub(crate) fn lend(
        image: &Arc<Image>,
        offset: u64,
        len: usize,
    ) -> diskimg::Result<Option<Self>> {
        let whole = image.slice_at(offset, len)?.is_some_and(|bytes| bytes.len() == len);
        Ok(whole.then(|| Self { image: Arc::clone(image), offset, len }))
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
        let bytes = this.image.slice_at(this.offset, this.len).ok().flatten();
        let Some(bytes) = bytes.filter(|bytes| bytes.len() == this.len) else {
            return Err(PyBufferError::new_err("the bytes are not in memory any more"));
        };
        let (start, len) = (bytes.as_ptr(), bytes.len() as ffi::Py_ssize_t);
        // SAFETY: `view` is Python's to be filled. The bytes stay where they are as
        // long as the image lives, which `slf` holds; the view takes a reference to
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
