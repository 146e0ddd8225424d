//! The sandbox of a process that runs one operation: see `lib/diskimg/_confined.py`.

use diskimg::ExternalFiles;
use diskimg_cli::Confinement;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use std::path::PathBuf;

/// A file, and the word for the files to which it may refer.
type Named = (PathBuf, String);

/// Irrevocably restricts the process to an operation that reads, writes and modifies these images.
///
/// # Errors
/// `OSError` if the system does not support this.
#[pyfunction]
pub(crate) fn confine(read: Vec<Named>, write: Vec<PathBuf>, modify: Vec<Named>) -> PyResult<()> {
    let mut confinement = Confinement::default();
    confinement.read = policies(read)?;
    confinement.write = write;
    confinement.modify = policies(modify)?;
    confinement.apply().map_err(PyOSError::new_err)
}

fn policies(files: Vec<Named>) -> PyResult<Vec<(PathBuf, ExternalFiles)>> {
    let parse = |(path, word): Named| {
        let policy = word.parse().map_err(|e| crate::errors::bad_value(format!("{e}")))?;
        Ok((path, policy))
    };
    files.into_iter().map(parse).collect()
}
