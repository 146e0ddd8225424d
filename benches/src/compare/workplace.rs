//! A folder to work in.

use crate::args::Args;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder to work in, removed with all that is in it unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Workplace {
    /// Where.
    pub(crate) path: PathBuf,
    /// What it is called in a report.
    pub(crate) label: String,
    _temporary: Option<TempDir>,
}

impl Workplace {
    /// A folder of ours in `dir`, called `label`.
    pub(crate) fn new(dir: &Path, label: String, args: &Args) -> Result<Self> {
        let cannot = || format!("cannot make a folder in {}", dir.display());
        let (path, temporary) = if args.keep {
            let path = dir.join("diskimg-compare");
            std::fs::create_dir_all(&path).with_context(cannot)?;
            (path, None)
        } else {
            let folder = tempfile::Builder::new().prefix("diskimg-compare-").tempdir_in(dir);
            let folder = folder.with_context(cannot)?;
            (folder.path().to_owned(), Some(folder))
        };
        Ok(Self { path, label, _temporary: temporary })
    }
}
