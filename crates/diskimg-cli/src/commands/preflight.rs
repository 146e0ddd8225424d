//! `preflight`: checks whether a cloud or hypervisor accepts an image.

use crate::args::common::OutputFormat;
use crate::args::preflight::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};
use diskimg::preflight::preflight;

/// Exit code for an image that is rejected; 1 means that it cannot be examined.
const REJECTED: u8 = 2;

/// Examines the image.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let image = confine::open(&Rules::new(), &[&job.input], || job.input.open(console.program()))?;
    let found = preflight(&image, job.consumer)?;
    if !job.quiet {
        match job.output {
            OutputFormat::Human => console.print(&human::preflight(&found))?,
            OutputFormat::Json => json::print(console, &found)?,
        }
    }
    Ok(if found.accepted { 0 } else { REJECTED })
}
