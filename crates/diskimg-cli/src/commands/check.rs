//! `check`: whether an image is consistent in itself.

use crate::args::check::Job;
use crate::args::common::Form;
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
    let image = job.input.open()?;
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
                json::print(console, &Json::new(filename, format, &report))?;
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

/// qemu-img's keys. Counts that are zero are left out, but for the first.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Json<'a> {
    filename: &'a str,
    format: &'a str,
    check_errors: u64,
    #[serde(skip_serializing_if = "is_zero")]
    image_end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    corruptions: u64,
    #[serde(skip_serializing_if = "is_zero")]
    leaks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    allocated_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    fragmented_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    compressed_clusters: u64,
}

impl<'a> Json<'a> {
    fn new(filename: &'a str, format: &'a str, report: &CheckReport) -> Self {
        Self {
            filename,
            format,
            check_errors: report.check_errors,
            image_end_offset: report.image_end_offset.unwrap_or(0),
            corruptions: report.corruptions,
            leaks: report.leaks,
            total_clusters: report.total_clusters,
            allocated_clusters: report.allocated_clusters,
            fragmented_clusters: report.fragmented_clusters,
            compressed_clusters: report.compressed_clusters,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}
