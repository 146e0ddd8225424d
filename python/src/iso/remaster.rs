//! New ISO images out of old ones.

use super::Iso;
use super::create::{Addition, Times, add, in_memory, to_output};
use diskimg::Error;
use diskimg::iso::IsoImage;
use diskimg::iso::write::Plan;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

/// What shall be different: `Changes` in `iso/_remaster.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Changes {
    volume_id: Option<String>,
    times: Times,
    /// Taken out first.
    removed: Vec<PyBackedBytes>,
    added: Vec<Addition>,
}

impl Changes {
    fn plan(&self, image: &IsoImage) -> diskimg::Result<Plan> {
        let mut builder = image.remaster()?;
        let options = builder.options_mut();
        if let Some(volume_id) = &self.volume_id {
            options.volume_id.clone_from(volume_id);
        }
        self.times.set(options);
        for path in &self.removed {
            if !builder.remove(path) {
                let path = String::from_utf8_lossy(path);
                return Err(Error::invalid(format!("'{path}' is not there to be removed")));
            }
        }
        self.added.iter().try_for_each(|addition| add(&mut builder, addition))?;
        builder.plan()
    }
}

/// The new image, in memory.
#[pyfunction]
pub(crate) fn iso_remaster_bytes<'py>(
    py: Python<'py>,
    source: &Iso,
    changes: Changes,
) -> PyResult<Bound<'py, PyBytes>> {
    let plan = source.ask(py, |image| changes.plan(image))?;
    source.raised().or(in_memory(py, &plan))
}

/// Writes the new image; gives its size and the warnings.
#[pyfunction]
pub(crate) fn iso_remaster(
    py: Python<'_>,
    source: &Iso,
    changes: Changes,
    destination: &Bound<'_, PyAny>,
    durable: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<(u64, Vec<String>)> {
    let image = source.get()?;
    let plan = || changes.plan(&image);
    source.raised().or(to_output(py, destination, source.files(), durable, progress.as_ref(), plan))
}
