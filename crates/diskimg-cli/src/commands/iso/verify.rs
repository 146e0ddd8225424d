//! `iso verify`: what is wrong with an image.

use crate::args::common::Form;
use crate::args::iso::verify::Job;
use crate::commands::iso::open;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, json};
use diskimg::iso::{Finding, Severity, Verified};
use diskimg::printable;
use serde::Serialize;

/// Exit code for an image of which something cannot be read, or reads wrong.
const ERRORS: u8 = 2;
/// Exit code for an image over which some readers stumble.
const WARNINGS: u8 = 3;

/// Verifies.
pub(in crate::commands) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let image = open(&job.input, console)?;
    confine::bound_files(&Rules::nothing())?;
    let mut findings = Vec::new();
    let verified = image.verify(&mut |finding| {
        if finding.severity > Severity::Note || !job.quiet {
            findings.push(finding);
        }
    })?;
    match job.form {
        Form::Human => {
            let lines: String = findings.iter().map(line).collect();
            console.print(&format!("{lines}{}", summary(&verified)))?;
        }
        Form::Json => {
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

/// `error: extent at 34816 in /a/b: words`.
fn line(finding: &Finding) -> String {
    let mut text = format!("{}: {}", word(&finding.severity), word(&finding.code));
    if let Some(offset) = finding.offset {
        text.push_str(&format!(" at {offset}"));
    }
    if let Some(path) = &finding.path {
        text.push_str(&format!(" in /{path}"));
    }
    let text = format!("{text}: {}", finding.message);
    format!("{}\n", printable(&text))
}

/// As JSON has it.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn summary(seen: &Verified) -> String {
    let Verified { files, directories, bytes, notes, warnings, errors, .. } = seen;
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
