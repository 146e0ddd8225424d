//! What `--dry-run` says.

use super::human;
use diskimg::{FileAction, Plan, PlannedFile};
use serde::Serialize;
use std::fmt::Write;

/// Returns the plan as text.
pub(crate) fn text(plan: &Plan, source: Option<&str>, compress: bool) -> String {
    let mut text = "dry run: nothing was written\n".to_owned();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{:<12} {}", format!("{name}:"), diskimg::printable(value));
    };
    if let Some(source) = source {
        line("source", source);
    }
    line("format", plan.format.name());
    line("disk size", &human::size_and_bytes(plan.guest_bytes));
    let most = match compress {
        true => format!("at most {}, before compression", human::size(plan.required_bytes)),
        false => format!("at most {}", human::size(plan.required_bytes)),
    };
    line("space", &most);
    if let Some(free) = plan.free_bytes {
        line("free", &human::size(free));
    }
    if let Some(backing) = &plan.backing {
        line("backing file", backing);
    }
    if plan.files.is_empty() {
        line("writes", "standard output");
    }
    for file in &plan.files {
        let name = match file.action {
            FileAction::Replace => "replaces",
            FileAction::Overwrite => "overwrites",
            _ => "creates",
        };
        line(name, &described(file));
    }
    text
}

/// Returns the name of the file and why it is overwritten.
fn described(file: &PlannedFile) -> String {
    let path = file.path.display();
    match &file.reason {
        Some(reason) => format!("{path} in place, because {reason}"),
        None => path.to_string(),
    }
}

/// Returns warnings about what may go wrong.
pub(crate) fn warnings(plan: &Plan) -> Vec<String> {
    let mut warnings = plan.warnings.clone();
    if plan.may_not_fit() {
        warnings.push(format!(
            "the output may not fit: it takes up to {} bytes, and {} are free",
            plan.required_bytes,
            plan.free_bytes.unwrap_or_default()
        ));
    }
    warnings
}

/// The plan as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct JsonPlan<'a> {
    event: &'static str,
    format: &'static str,
    guest_bytes: u64,
    required_bytes: u64,
    free_bytes: Option<u64>,
    backing_filename: Option<&'a str>,
    files: Vec<JsonFile<'a>>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct JsonFile<'a> {
    filename: String,
    action: &'static str,
    reason: Option<&'a str>,
}

/// Returns the plan as a line of JSON.
pub(crate) fn json(plan: &Plan) -> String {
    let files = plan.files.iter().map(|file| JsonFile {
        filename: file.path.display().to_string(),
        action: file.action.name(),
        reason: file.reason.as_deref(),
    });
    let value = JsonPlan {
        event: "plan",
        format: plan.format.name(),
        guest_bytes: plan.guest_bytes,
        required_bytes: plan.required_bytes,
        free_bytes: plan.free_bytes,
        backing_filename: plan.backing.as_deref(),
        files: files.collect(),
        warnings: warnings(plan),
    };
    serde_json::to_string(&value).unwrap_or_default()
}
