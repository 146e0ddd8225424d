//! A file in an ISO image.

use super::Iso;
use diskimg::{Error, Source};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Arc;

/// The contents of a regular file. They can be read as long as the image is open.
#[pyclass(frozen)]
pub(crate) struct IsoContents {
    iso: Py<Iso>,
    contents: Arc<dyn Source>,
}

impl IsoContents {
    pub(super) fn new(iso: Py<Iso>, contents: Arc<dyn Source>) -> Self {
        Self { iso, contents }
    }

    fn fill(&self, py: Python<'_>, buf: &mut [u8], offset: u64) -> PyResult<()> {
        self.iso.get().run(py, |_| {
            let read = self.contents.read_exact_at(buf, offset);
            read.map_err(|e| Error::io("cannot read a file in the image", e))
        })
    }
}

#[pymethods]
impl IsoContents {
    #[getter]
    fn size(&self) -> u64 {
        self.contents.len()
    }

    fn read_at<'py>(
        &self,
        py: Python<'py>,
        offset: u64,
        len: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        PyBytes::new_with(py, len, |buf| self.fill(py, buf, offset))
    }

    /// Fills `buffer` through a copy, as `Image` does.
    fn readinto_at(&self, py: Python<'_>, offset: u64, buffer: PyBuffer<u8>) -> PyResult<()> {
        let mut bytes = vec![0; buffer.item_count()];
        self.fill(py, &mut bytes, offset)?;
        buffer.copy_from_slice(py, &bytes)
    }
}
