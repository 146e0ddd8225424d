//! Modified copies of ISO images.

use super::Iso;
use super::create::{Addition, Times, add, in_memory, to_output};
use diskimg::Error;
use diskimg::iso::write::Plan;
use diskimg::iso::{IsoImage, RemasterOptions};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

/// What to change. Corresponds to `RemasterArgs` in `iso/_remaster.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct RemasterArgs {
    volume_id: Option<String>,
    drop: Vec<String>,
    times: Times,
    /// Removed before anything is added.
    removed: Vec<PyBackedBytes>,
    added: Vec<Addition>,
}

impl RemasterArgs {
    fn plan(&self, image: &IsoImage) -> diskimg::Result<Plan> {
        let mut remaster = RemasterOptions::default();
        remaster.drop = self.drop.iter().map(|word| word.parse()).collect::<Result<_, Error>>()?;
        let mut builder = image.remaster_with(&remaster)?;
        let options = builder.options_mut();
        if let Some(volume_id) = &self.volume_id {
            options.volume_id.clone_from(volume_id);
        }
        self.times.set(options);
        for path in &self.removed {
            if !builder.remove(path) {
                let path = String::from_utf8_lossy(path);
                return Err(Error::invalid(format!(
                    "cannot remove '{path}': no such file or directory"
                )));
            }
        }
        self.added.iter().try_for_each(|addition| add(&mut builder, addition))?;
        builder.plan()
    }
}

/// Creates the modified image in memory.
#[pyfunction]
pub(crate) fn iso_remaster_bytes<'py>(
    py: Python<'py>,
    source: &Iso,
    changes: RemasterArgs,
) -> PyResult<Bound<'py, PyBytes>> {
    let plan = source.run(py, |image| changes.plan(image))?;
    source.raised().or(in_memory(py, &plan))
}

/// Writes the modified image. Returns its size and the warnings.
#[pyfunction]
pub(crate) fn iso_remaster(
    py: Python<'_>,
    source: &Iso,
    changes: RemasterArgs,
    destination: &Bound<'_, PyAny>,
    durable: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<(u64, Vec<String>)> {
    let image = source.get()?;
    let plan = || changes.plan(&image);
    source.raised().or(to_output(py, destination, source.files(), durable, progress.as_ref(), plan))
}
