//! `inspect`: checks whether an untrusted image is safe to accept.

use crate::args::advice;
use crate::args::common::OutputFormat;
use crate::args::inspect::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};
use diskimg::open::local_path;

/// Exit code for an unsafe image; 1 means that there is no verdict.
const UNSAFE: u8 = 2;

/// Inspects the image.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    // No other file is opened, whatever the image refers to.
    let path = local_path(&job.path).map_err(|e| e.in_file(&job.path))?;
    confine::restrict_files(&Rules::new().allow_read([path]))?;
    let found = diskimg::inspect(&job.path, &job.options);
    let found = found.map_err(|error| match advice::of(&job.path) {
        Some(advice) if job.path != *"-" => error.hint(advice),
        _ => error,
    })?;
    if !job.quiet {
        match job.output {
            OutputFormat::Human => console.print(&human::inspection(&found))?,
            OutputFormat::Json => json::print(console, &found)?,
        }
    }
    Ok(if found.is_safe() { 0 } else { UNSAFE })
}
