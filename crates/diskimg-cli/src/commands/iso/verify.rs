//! `iso verify`: checks an ISO image for defects.

use crate::args::common::OutputFormat;
use crate::args::iso::verify::Job;
use crate::commands::iso::open_quietly;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, json};
use diskimg::Severity;
use diskimg::iso::{Finding, Verified};
use diskimg::printable;
use serde::Serialize;

/// Exit code for an image of which some data cannot be read correctly.
const ERRORS: u8 = 2;
/// Exit code for an image that some systems may not read.
const WARNINGS: u8 = 3;

/// Runs the verification.
pub(in crate::commands) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let open = || open_quietly(&job.input, console);
    let image = confine::open(&Rules::new(), &[&job.input.input], open)?;
    let mut findings = Vec::new();
    let verified = image.verify(&mut |finding| {
        if finding.severity > Severity::Note || !job.quiet {
            findings.push(finding);
        }
    })?;
    match job.output {
        OutputFormat::Human => {
            let lines: String = findings.iter().map(line).collect();
            let omitted = omitted(&findings, &verified, job.quiet);
            console.print(&format!("{lines}{omitted}{}", summary(&verified)))?;
        }
        OutputFormat::Json => {
            let filename = job.input.input.path.to_string_lossy().into_owned();
            json::print(console, &Json { filename, findings, summary: &verified })?;
        }
    }
    Ok(match verified {
        Verified { errors: 1.., .. } => ERRORS,
        Verified { warnings: 1.., .. } => WARNINGS,
        _ => 0,
    })
}

/// Formats a finding: `error: extent at 34816 in /a/b: message`.
fn line(finding: &Finding) -> String {
    let mut text = format!("{}: {}", json_name(&finding.severity), json_name(&finding.code));
    if let Some(offset) = finding.offset {
        text.push_str(&format!(" at {offset}"));
    }
    if let Some(path) = &finding.path {
        text.push_str(&format!(" in /{path}"));
    }
    let text = format!("{text}: {}", finding.message);
    format!("{}\n", printable(&text))
}

/// Returns a line with the number of findings that are counted, but not listed.
fn omitted(listed: &[Finding], verified: &Verified, quiet: bool) -> String {
    let notes = if quiet { 0 } else { verified.notes };
    let found = verified.errors + verified.warnings + notes;
    match found.saturating_sub(listed.len() as u64) {
        0 => String::new(),
        more => format!("{more} more findings are not listed\n"),
    }
}

/// Returns the name of an enum value in JSON.
fn json_name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

fn summary(verified: &Verified) -> String {
    let Verified { files, directories, bytes, notes, warnings, errors, .. } = verified;
    format!(
        "{files} files and {directories} directories with {bytes} bytes: \
         {errors} errors, {warnings} warnings, {notes} notes\n"
    )
}

#[derive(Serialize)]
struct Json<'a> {
    filename: String,
    findings: Vec<Finding>,
    summary: &'a Verified,
}
