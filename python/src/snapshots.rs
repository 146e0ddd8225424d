//! Internal snapshots of qcow2 images.

use crate::arguments::{self, OpenArgs};
use crate::image::json;
use crate::work;
use diskimg::SnapshotSelector;
use diskimg::formats::qcow2::Qcow2Mut;
use pyo3::prelude::*;
use std::path::PathBuf;

/// Creates a snapshot. Returns it as qemu-img's JSON.
#[pyfunction]
pub(crate) fn create_snapshot(
    py: Python<'_>,
    path: PathBuf,
    name: &str,
    how: OpenArgs,
) -> PyResult<String> {
    let options = how.options(py)?;
    let created = work::run(py, None, |_| {
        Qcow2Mut::open_with(arguments::plain(path), options)?.create_snapshot(name)
    })?;
    json(&created)
}

/// Makes the disk equal to a snapshot.
#[pyfunction]
pub(crate) fn apply_snapshot(
    py: Python<'_>,
    path: PathBuf,
    snapshot: String,
    how: OpenArgs,
) -> PyResult<()> {
    let options = how.options(py)?;
    let which = SnapshotSelector::IdOrName(snapshot);
    work::run(py, None, |_| {
        Qcow2Mut::open_with(arguments::plain(path), options)?.apply_snapshot(&which)
    })
}

/// Deletes a snapshot.
#[pyfunction]
pub(crate) fn delete_snapshot(
    py: Python<'_>,
    path: PathBuf,
    snapshot: String,
    how: OpenArgs,
) -> PyResult<()> {
    let options = how.options(py)?;
    let which = SnapshotSelector::IdOrName(snapshot);
    work::run(py, None, |_| {
        Qcow2Mut::open_with(arguments::plain(path), options)?.delete_snapshot(&which)
    })
}
