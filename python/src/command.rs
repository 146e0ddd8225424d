//! The command, carried in the wheel.

use pyo3::prelude::*;
use std::ffi::OsString;

/// Runs the command `diskimg`; gives the exit code. `argv[0]` is its name.
#[pyfunction]
pub(crate) fn run_command(py: Python<'_>, argv: Vec<OsString>) -> u8 {
    py.detach(|| diskimg_cli::run(argv))
}
