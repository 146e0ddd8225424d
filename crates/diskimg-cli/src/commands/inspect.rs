//! `inspect`: whether to let an untrusted image in.

use crate::args::common::Form;
use crate::args::inspect::Job;
use crate::failure::Failure;
use crate::output::{Console, human, json};

/// Exit code for an image that is not to be let in; 1 says that there is no verdict.
const UNSAFE: u8 = 2;

/// Looks.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let found = diskimg::inspect(&job.path, &job.options)?;
    if !job.quiet {
        match job.form {
            Form::Human => console.print(&human::inspection(&found))?,
            Form::Json => json::print(console, &found)?,
        }
    }
    Ok(if found.is_safe() { 0 } else { UNSAFE })
}
