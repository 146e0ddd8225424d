//! boto3, the S3 client that others use.

use crate::tool::run;
use std::path::{Path, PathBuf};

/// Returns a program of the Python environment with the reference readers.
///
/// # Panics
/// Panics if there is none.
pub(crate) fn python(program: &str) -> PathBuf {
    let folder = std::env::var_os("DISKIMG_ORACLES").map(PathBuf::from);
    let folder = folder.expect("./test.sh installs boto3 and moto and sets DISKIMG_ORACLES");
    folder.join("bin").join(program)
}

/// Accesses a store with boto3; see `oracles/boto3_s3.py`. Returns what that prints.
///
/// # Panics
/// Panics if it fails, or if boto3 is missing.
pub(crate) fn boto3(endpoint: &str, keys: (&str, &str), args: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/oracles/boto3_s3.py");
    let script = script.display().to_string();
    let own = [&*script, endpoint, keys.0, keys.1];
    run(&python("python").display().to_string(), [&own, args].concat())
}
