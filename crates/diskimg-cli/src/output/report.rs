//! What `convert` says after a conversion.

use super::human;
use diskimg::{Digests, Report, Salvaged};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// Number of salvaged ranges that are listed.
const MAX_LISTED: usize = 1000;

/// `--report`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReportFormat {
    /// A line of text.
    Text,
    /// An object on a line, which replaces warnings and notes.
    Json,
}

/// The report as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct JsonReport<'a> {
    event: &'static str,
    guest_bytes: u64,
    stored_bytes: u64,
    shared_bytes: u64,
    passed_bytes: u64,
    salvaged_bytes: u64,
    salvaged: Vec<JsonSalvaged<'a>>,
    verified: bool,
    seconds: f64,
    digests: Option<JsonDigests<'a>>,
    warnings: &'a [String],
    notes: &'a [String],
}

#[derive(Debug, Serialize)]
struct JsonSalvaged<'a> {
    start: u64,
    length: u64,
    error: &'a str,
}

#[derive(Debug, Serialize)]
struct JsonDigests<'a> {
    algorithm: String,
    guest: &'a str,
    files: Vec<JsonFile<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonFile<'a> {
    filename: String,
    digest: &'a str,
}

/// Returns the report as a line of JSON.
pub(crate) fn json(report: &Report, took: Duration) -> String {
    let value = JsonReport {
        event: "report",
        guest_bytes: report.guest_bytes,
        stored_bytes: report.stored_bytes,
        shared_bytes: report.shared_bytes,
        passed_bytes: report.passed_bytes,
        salvaged_bytes: report.salvaged_bytes,
        salvaged: report.salvaged.iter().map(JsonSalvaged::from).collect(),
        verified: report.verified,
        seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
        digests: report.digests.as_ref().map(JsonDigests::from),
        warnings: &report.warnings,
        notes: &report.notes,
    };
    serde_json::to_string(&value).unwrap_or_default()
}

impl<'a> From<&'a Salvaged> for JsonSalvaged<'a> {
    fn from(lost: &'a Salvaged) -> Self {
        let length = lost.guest.end - lost.guest.start;
        Self { start: lost.guest.start, length, error: &lost.error }
    }
}

impl<'a> From<&'a Digests> for JsonDigests<'a> {
    fn from(digests: &'a Digests) -> Self {
        let files = digests.files.iter().map(|file| JsonFile {
            filename: file.path.display().to_string(),
            digest: &file.digest,
        });
        Self {
            algorithm: digests.algorithm.to_string(),
            guest: &digests.guest,
            files: files.collect(),
        }
    }
}

/// Returns the report as a line of text.
pub(crate) fn text(report: &Report) -> String {
    format!(
        "{} guest bytes; {} bytes stored, {} of them shared with the source; \
         {} guest bytes copied in compressed form{}",
        report.guest_bytes,
        report.stored_bytes,
        report.shared_bytes,
        report.passed_bytes,
        if report.verified { "; verified" } else { "" }
    )
}

/// Returns what a person who has waited is told: source and output; sizes, time and rate.
pub(crate) fn summary(
    report: &Report,
    source: &str,
    output: &Path,
    took: Duration,
) -> (String, String) {
    let seconds = took.as_secs_f64();
    let stored = human::size(report.stored_bytes);
    let shared = match report.shared_bytes {
        0 => String::new(),
        bytes if bytes == report.stored_bytes => ", all shared".to_owned(),
        bytes => format!(", {} shared", human::size(bytes)),
    };
    let rate = (report.stored_bytes as f64 / seconds.max(0.001)) as u64;
    let result = format!(
        "disk of {}, {stored} stored{shared}, {seconds:.1} s, {}/s",
        human::size(report.guest_bytes),
        human::size(rate)
    );
    (format!("{source} -> {}", output.display()), result)
}

/// Formats the output of `--digest` as sha256sum(1) and b3sum(1) read it with `-c`: a comment with
/// the digest of the disk, and a line for each file written.
pub(crate) fn digests(digests: &Digests) -> String {
    let mut text = format!("# {}\n", disk_digest(digests));
    for file in &digests.files {
        let name = file.path.display().to_string();
        let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
        let mark = if escaped == name { "" } else { "\\" };
        // Other control characters are left: the name must be that of the file.
        let _ = writeln!(text, "{mark}{}  {escaped}", file.digest);
    }
    text
}

/// Returns the digest of the disk, which is the same in every format.
pub(crate) fn disk_digest(digests: &Digests) -> String {
    format!("disk {}:{}", digests.algorithm, digests.guest)
}

/// Returns warnings about ranges that `--salvage` replaced with zeros.
pub(crate) fn losses(report: &Report) -> Vec<String> {
    let lost = |lost: &Salvaged| {
        let (start, length) = (lost.guest.start, lost.guest.end - lost.guest.start);
        format!(
            "error while reading offset {start}: {} ({length} bytes replaced with zeros)",
            lost.error
        )
    };
    let mut lines: Vec<_> = report.salvaged.iter().take(MAX_LISTED).map(lost).collect();
    if report.salvaged.len() > MAX_LISTED {
        let bytes = report.salvaged_bytes;
        lines.push(format!(
            "more ranges were replaced with zeros, which have {bytes} bytes in total"
        ));
    }
    lines
}
