//! Working directories.

use crate::args::Args;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A working directory, removed on drop unless `--keep` is given.
#[derive(Debug)]
pub(crate) struct Workplace {
    /// Path of the directory.
    pub(crate) path: PathBuf,
    /// Name in reports.
    pub(crate) label: String,
    _temporary: Option<TempDir>,
}

impl Workplace {
    /// Creates a working directory in `dir`.
    pub(crate) fn new(dir: &Path, label: String, args: &Args) -> Result<Self> {
        let cannot_create = || format!("cannot create a directory in {}", dir.display());
        let (path, temporary) = if args.keep {
            let path = dir.join("diskimg-compare");
            std::fs::create_dir_all(&path).with_context(cannot_create)?;
            (path, None)
        } else {
            let temp_dir = tempfile::Builder::new().prefix("diskimg-compare-").tempdir_in(dir);
            let temp_dir = temp_dir.with_context(cannot_create)?;
            (temp_dir.path().to_owned(), Some(temp_dir))
        };
        Ok(Self { path, label, _temporary: temporary })
    }
}
