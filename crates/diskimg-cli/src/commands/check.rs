//! `check`: checks an image for consistency.

use crate::args::check::Job;
use crate::args::common::OutputFormat;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};
use diskimg::check::CheckReport;
use diskimg::{Check, Error};
use serde::Serialize;

/// Exit code if the check could not be completed.
const INCOMPLETE: u8 = 1;
/// Exit code for a corrupt image.
const CORRUPT: u8 = 2;
/// Exit code for an image with leaked clusters or warnings only.
const LEAKS: u8 = 3;
/// Exit code for formats that do not support checks.
const UNSUPPORTED: u8 = 63;

/// Runs the check.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let open = || job.input.open(console.program());
    let image = confine::open(&Rules::new().allow_cpu_count(), &[&job.input], open)?;
    let report = Check::new(&image)
        .run(&mut |finding| console.stderr(&finding.message))
        .map_err(|e| Failure::from(e).with_code(INCOMPLETE))?;
    let Some(report) = report else {
        let message = "This image format does not support checks";
        return Err(Failure::from(Error::unsupported(message)).with_code(UNSUPPORTED));
    };
    if report.omitted_findings > 0 {
        console.stderr(&format!(
            "{} more findings are not listed (--limit check_findings=N lists more)",
            report.omitted_findings
        ));
    }
    if !job.quiet {
        match job.output {
            OutputFormat::Human => console.print(&human::check(&report))?,
            OutputFormat::Json => {
                let (filename, format) = (image.name(0), image.format().name());
                json::print(console, &Json::new(filename, format, &report))?;
            }
        }
    }
    Ok(match report {
        CheckReport { check_errors: 1.., .. } => INCOMPLETE,
        CheckReport { corruptions: 1.., .. } => CORRUPT,
        CheckReport { leaks: 1.., .. } | CheckReport { warnings: 1.., .. } => LEAKS,
        _ => 0,
    })
}

/// The JSON output, with the keys of qemu-img in its order. Counts of zero are omitted.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Json<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    image_end_offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compressed_clusters: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_clusters: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    corruptions: Option<u64>,
    check_errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated_clusters: Option<u64>,
    filename: &'a str,
    format: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fragmented_clusters: Option<u64>,
    /// Not a key of qemu-img.
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<u64>,
    /// Not a key of qemu-img.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted_findings: Option<u64>,
    /// Not a key of qemu-img.
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded_digests: Option<u64>,
    /// Not a key of qemu-img.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_digests: Option<u64>,
}

impl<'a> Json<'a> {
    fn new(filename: &'a str, format: &'a str, report: &CheckReport) -> Self {
        let nonzero = |count| Some(count).filter(|&count| count > 0);
        Self {
            image_end_offset: report.image_end_offset.and_then(nonzero),
            compressed_clusters: nonzero(report.compressed_clusters),
            total_clusters: nonzero(report.total_clusters),
            corruptions: nonzero(report.corruptions),
            check_errors: report.check_errors,
            leaks: nonzero(report.leaks),
            allocated_clusters: nonzero(report.allocated_clusters),
            filename,
            format,
            fragmented_clusters: nonzero(report.fragmented_clusters),
            warnings: nonzero(report.warnings),
            omitted_findings: nonzero(report.omitted_findings),
            recorded_digests: report.recorded_digests,
            verified_digests: report.recorded_digests.map(|_| report.verified_digests),
        }
    }
}
