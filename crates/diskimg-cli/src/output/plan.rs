//! What `--dry-run` says.

use super::human;
use diskimg::{FileAction, Plan, PlannedFile};
use serde::Serialize;

/// Returns the plan as text.
pub(crate) fn text(plan: &Plan, source: Option<&str>, compress: bool) -> String {
    let mut text = heading();
    let mut add = |name: &str, value: &str| text += &line(name, value);
    if let Some(source) = source {
        add("source", source);
    }
    add("format", plan.format.name());
    add("disk size", &human::size_and_bytes(plan.guest_bytes));
    let most = match compress {
        true => format!("at most {}, before compression", human::size(plan.required_bytes)),
        false => format!("at most {}", human::size(plan.required_bytes)),
    };
    add("space", &most);
    if let Some(free) = plan.free_bytes {
        add("free", &human::size(free));
    }
    if let Some(backing) = &plan.backing {
        add("backing file", backing);
    }
    if plan.files.is_empty() {
        add("writes", "standard output");
    }
    plan.files.iter().map(file).for_each(|line| text += &line);
    text
}

/// Returns the first line.
pub(crate) fn heading() -> String {
    "dry run: nothing was written\n".to_owned()
}

/// Returns a line about a property.
pub(crate) fn line(name: &str, value: &str) -> String {
    format!("{:<12} {}\n", format!("{name}:"), diskimg::printable(value))
}

/// Returns the line about a file.
pub(crate) fn file(file: &PlannedFile) -> String {
    let name = match file.action {
        FileAction::Replace => "replaces",
        FileAction::Overwrite => "overwrites",
        _ => "creates",
    };
    line(name, &described(file))
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
            "the output may not fit: it takes up to {}, and {} are free",
            human::size(plan.required_bytes),
            human::size(plan.free_bytes.unwrap_or_default())
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
