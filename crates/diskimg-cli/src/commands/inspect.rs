//! `inspect`: whether to let an untrusted image in.

use crate::args::common::Form;
use crate::args::inspect::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};
use diskimg::open::local_path;

/// Exit code for an image that is not to be let in; 1 says that there is no verdict.
const UNSAFE: u8 = 2;

/// Looks.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    // It opens no other file, whatever the image names.
    let path = local_path(&job.path).map_err(|e| e.in_file(&job.path))?;
    confine::bound_files(&Rules::nothing().reading([path]).spooling())?;
    let found = diskimg::inspect(&job.path, &job.options)?;
    if !job.quiet {
        match job.form {
            Form::Human => console.print(&human::inspection(&found))?,
            Form::Json => json::print(console, &found)?,
        }
    }
    Ok(if found.is_safe() { 0 } else { UNSAFE })
}
