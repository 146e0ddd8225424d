//! Measurement of a process.

use crate::tools::shown;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use wait4::Wait4;

/// The resources that a run used.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Run {
    /// Wall-clock time in seconds, from before the process starts until it has been waited for.
    pub(crate) wall: f64,
    /// User and system CPU time in seconds, including all threads and children.
    pub(crate) cpu: f64,
    /// Peak memory in bytes.
    pub(crate) peak: u64,
}

/// The size of a file.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct FileSize {
    /// Length in bytes.
    pub(crate) length: u64,
    /// Allocated bytes.
    pub(crate) allocated: u64,
}

/// Runs a process. A nonzero exit code is an error with the process's standard error.
pub(crate) fn timed(command: &mut Command) -> Result<Run> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot run {}", shown(command)))?;
    let mut error = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut error)?;
    }
    let used = child.wait4()?;
    let wall = start.elapsed().as_secs_f64();
    if !used.status.success() {
        let error = String::from_utf8_lossy(&error);
        let words: Vec<_> = error.split_whitespace().take(40).collect();
        bail!("{}: {}", used.status, words.join(" "));
    }
    let cpu = (used.rusage.utime + used.rusage.stime).as_secs_f64();
    Ok(Run { wall, cpu, peak: used.rusage.maxrss })
}

/// Returns the size of a file.
pub(crate) fn size(path: &Path) -> Result<FileSize> {
    let metadata = fs::metadata(path)
        .with_context(|| format!("cannot read the size of {}", path.display()))?;
    Ok(FileSize { length: metadata.len(), allocated: allocated(&metadata) })
}

#[cfg(unix)]
fn allocated(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

#[cfg(not(unix))]
fn allocated(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}
