//! One run of one process.

use crate::tools::shown;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use wait4::Wait4;

/// What a run took.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Run {
    /// Seconds, from before the process is started until it has been waited for.
    pub(crate) wall: f64,
    /// Seconds of processor time, user and system, all threads and children.
    pub(crate) cpu: f64,
    /// The most memory it had, in bytes.
    pub(crate) peak: u64,
}

/// How large an output is.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct FileSize {
    /// As `ls` tells it.
    pub(crate) length: u64,
    /// As `du` tells it.
    pub(crate) allocated: u64,
}

/// Runs a process to its end. An exit code other than 0 is an error that says
/// what it printed.
pub(crate) fn timed(command: &mut Command) -> Result<Run> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot run {}", shown(command)))?;
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut said)?;
    }
    let used = child.wait4()?;
    let wall = start.elapsed().as_secs_f64();
    if !used.status.success() {
        let said = String::from_utf8_lossy(&said);
        let words: Vec<_> = said.split_whitespace().take(40).collect();
        bail!("{}: {}", used.status, words.join(" "));
    }
    let cpu = (used.rusage.utime + used.rusage.stime).as_secs_f64();
    Ok(Run { wall, cpu, peak: used.rusage.maxrss })
}

/// The size of a file.
pub(crate) fn size(path: &Path) -> Result<FileSize> {
    let metadata = fs::metadata(path).with_context(|| format!("no {}", path.display()))?;
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
