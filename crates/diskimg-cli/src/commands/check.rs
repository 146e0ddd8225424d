//! `check`: checks an image for consistency.

use crate::args::check::Job;
use crate::args::common::OutputFormat;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};
use diskimg::Error;
use diskimg::check::CheckReport;
use serde::Serialize;

/// Exit code if the check could not be completed.
const INCOMPLETE: u8 = 1;
/// Exit code for a corrupt image.
const CORRUPT: u8 = 2;
/// Exit code for an image with leaked clusters only.
const LEAKS: u8 = 3;
/// Exit code for formats that do not support checks.
const UNSUPPORTED: u8 = 63;

/// Runs the check.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let image = job.input.open(console.program())?;
    confine::restrict_files(&Rules::new().allow_temp_files())?;
    let report = image
        .check(&mut |finding| console.stderr(&finding.message))
        .map_err(|e| Failure::from(e).with_code(INCOMPLETE))?;
    let Some(report) = report else {
        let message = "This image format does not support checks";
        return Err(Failure::from(Error::unsupported(message)).with_code(UNSUPPORTED));
    };
    if !job.quiet {
        match job.output {
            OutputFormat::Human => console.print(&human::check(&report))?,
            OutputFormat::Json => {
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

/// The JSON output, with the keys of qemu-img.
#[derive(Serialize)]
struct Json<'a> {
    filename: &'a str,
    format: &'a str,
    #[serde(flatten)]
    report: &'a CheckReport,
}
