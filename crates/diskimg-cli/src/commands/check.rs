//! `check`: whether an image is consistent in itself.

use crate::args::check::Job;
use crate::args::common::Form;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};
use diskimg::Error;
use diskimg::check::CheckReport;
use serde::Serialize;

/// Exit code when the check could not be done, or not wholly.
const INCOMPLETE: u8 = 1;
/// Exit code for an image whose data are or may become wrong.
const CORRUPT: u8 = 2;
/// Exit code for an image that only wastes space.
const LEAKS: u8 = 3;
/// Exit code for formats that have nothing to check.
const NOTHING_TO_CHECK: u8 = 63;

/// Checks.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let image = job.input.open(console.program())?;
    confine::bound_files(&Rules::nothing().spooling())?;
    let report = image
        .check(&mut |finding| console.stderr(&finding.message))
        .map_err(|e| Failure::from(e).with_code(INCOMPLETE))?;
    let Some(report) = report else {
        let words = "This image format does not support checks";
        return Err(Failure::from(Error::unsupported(words)).with_code(NOTHING_TO_CHECK));
    };
    if !job.quiet {
        match job.form {
            Form::Human => console.print(&human::check(&report))?,
            Form::Json => {
                let (filename, format) = (image.name(0), image.format().name());
                json::print(console, &Json { filename, format, report: &report })?;
            }
        }
    }
    Ok(match report {
        CheckReport { check_errors: 1.., .. } => INCOMPLETE,
        CheckReport { corruptions: 1.., .. } => CORRUPT,
        CheckReport { leaks: 1.., .. } => LEAKS,
        _ => 0,
    })
}

/// qemu-img's keys.
#[derive(Serialize)]
struct Json<'a> {
    filename: &'a str,
    format: &'a str,
    #[serde(flatten)]
    report: &'a CheckReport,
}
