//! `check`: checks an image for consistency, and repairs it.

mod repair_lines;

use crate::args::check::Job;
use crate::args::common::OutputFormat;
use crate::commands::files_of_chain;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{self, Console, Program, human, json};
use diskimg::check::{CheckReport, RepairScope};
use diskimg::{Check, Error, Format, Repair};
use repair_lines::RepairLines;
use serde::Serialize;
use std::fs::File;

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
    if let Some(scope) = job.repair {
        return repair(scope, job, console);
    }
    let open = || job.input.open(console.program());
    let image = confine::open(&Rules::new().allow_cpu_count(), &[&job.input], open)?;
    let report = Check::new(&image)
        .run(&mut |finding| console.stderr(&finding.message))
        .map_err(|e| Failure::from(e).with_code(INCOMPLETE))?;
    print((image.name(0), image.format()), report.as_ref(), job, console)
}

/// Repairs the image. The result is that of a second check.
fn repair(scope: RepairScope, job: &Job, console: &Console) -> Result<u8, Failure> {
    output::require_streams(Some(&job.input.path), !job.quiet)?;
    let mut repair = Repair::new(scope).open_options(job.input.options_for(console.program()));
    if let Some(path) = &job.backup {
        let created = File::create_new(path)
            .map_err(|e| Error::io("cannot create the file of the backup", e).in_file(path))?;
        repair = repair.backup(created);
    }
    restrict(job, console)?;
    let name = job.input.shown();
    let mut lines = RepairLines::new(scope, console);
    let repaired = repair.run(&job.input.path, &mut |stage, finding| {
        lines.report(stage, finding.message);
    });
    let mut repaired = repaired.map_err(|e| Failure::from(e).with_code(INCOMPLETE))?;
    if let Some(repaired) = &mut repaired {
        repaired.after.corruptions_fixed = lines.corruptions_fixed(repaired);
        lines.finish(repaired.after.leaks_fixed + repaired.after.corruptions_fixed > 0);
    }
    if let (Some(repaired), OutputFormat::Human, false) = (&repaired, job.output, job.quiet) {
        console.print(&human::repaired(&repaired.after))?;
    }
    let format = repaired.as_ref().map_or(Format::Raw, |repaired| repaired.format);
    print((&name, format), repaired.as_ref().map(|repaired| &repaired.after), job, console)
}

/// Allows reading what the image needs, and overwriting it. Only a VMDK whose format is named has
/// further files that are repaired, and these cannot be saved.
fn restrict(job: &Job, console: &Console) -> Result<(), Failure> {
    let rules = || Rules::new().allow_input(&job.input).allow_overwrite(&job.input.path);
    if job.input.format != Some(Format::Vmdk) || job.backup.is_some() {
        return confine::restrict_files(&rules());
    }
    let wide = rules().allow_modify(&job.input.path, job.input.external_files);
    confine::restrict_files(&wide)?;
    let options = job.input.options_for(console.program());
    let files = files_of_chain(&options, &job.input.path, 1);
    confine::restrict_files(&files.iter().fold(rules(), |rules, file| rules.allow_overwrite(file)))
}

/// Prints the result of a check, if the format supports it. Returns the exit code.
fn print(
    (filename, format): (&str, Format),
    report: Option<&CheckReport>,
    job: &Job,
    console: &Console,
) -> Result<u8, Failure> {
    let Some(report) = report else {
        let message = match job.repair {
            None => "This image format does not support checks",
            Some(_) => "This image format does not support checks that repair it",
        };
        return Err(Failure::from(Error::unsupported(message)).with_code(UNSUPPORTED));
    };
    // Programs that run qemu-img take any message for a failure. The counts include all findings.
    if report.omitted_findings > 0 && console.program() != Program::QemuImg {
        console.stderr(&format!(
            "{} more findings are not listed (--limit check_findings=N lists more)",
            report.omitted_findings
        ));
    }
    if !job.quiet {
        match job.output {
            OutputFormat::Human => console.print(&human::check(report))?,
            OutputFormat::Json => {
                json::print(console, &Json::new(filename, format.name(), report))?;
            }
        }
    }
    Ok(match *report {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    corruptions_fixed: Option<u64>,
    check_errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaks_fixed: Option<u64>,
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
            corruptions_fixed: nonzero(report.corruptions_fixed),
            check_errors: report.check_errors,
            leaks_fixed: nonzero(report.leaks_fixed),
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
