//! The `diskimg` command, which is part of the wheel.

use pyo3::prelude::*;
use std::ffi::OsString;

/// Runs the command `diskimg` and returns its exit code. `argv[0]` is the name of the command.
#[pyfunction]
pub(crate) fn run_command(py: Python<'_>, argv: Vec<OsString>) -> u8 {
    py.detach(|| diskimg_cli::run(argv))
}
