//! The sandbox of a process that runs one operation: see `lib/diskimg/_confined.py`.

use diskimg::ExternalFiles;
use diskimg_cli::Confinement;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use std::collections::HashMap;
use std::path::PathBuf;

/// A file, and the word for the files to which it may refer.
type Named = (PathBuf, String);

/// Irrevocably restricts the process to an operation that reads, writes and modifies these images;
/// `options` are those of the image that is written. The operation must be followed by `release`.
/// When the parent process ends, the operation is interrupted.
///
/// # Errors
/// `OSError` if the system does not support this.
#[pyfunction]
pub(crate) fn confine(
    read: Vec<Named>,
    write: Vec<PathBuf>,
    modify: Vec<Named>,
    options: HashMap<String, String>,
) -> PyResult<()> {
    interrupt_with_parent();
    let mut confinement = Confinement::default();
    confinement.read = policies(read)?;
    confinement.write = write;
    confinement.modify = policies(modify)?;
    for (name, value) in options {
        confinement.options.set(name, value);
    }
    confinement.apply().map_err(PyOSError::new_err)
}

/// Removes the temporary file that `confine` has created, if the operation did not use it.
#[pyfunction]
pub(crate) fn release() {
    diskimg::storage::output::release_output();
}

/// Lets the system send SIGINT when the parent ends. If that fails, the operation runs to its end.
#[cfg(target_os = "linux")]
fn interrupt_with_parent() {
    use rustix::process::{Signal, set_parent_process_death_signal};
    let _ = set_parent_process_death_signal(Some(Signal::INT));
}

#[cfg(not(target_os = "linux"))]
fn interrupt_with_parent() {}

fn policies(files: Vec<Named>) -> PyResult<Vec<(PathBuf, ExternalFiles)>> {
    let parse = |(path, word): Named| {
        let policy = word.parse().map_err(|e| crate::errors::bad_value(format!("{e}")))?;
        Ok((path, policy))
    };
    files.into_iter().map(parse).collect()
}
