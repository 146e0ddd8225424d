//! A wrong command line, said as getopt says it.

use crate::args::Invocation;
use crate::failure::Failure;
use crate::output::Program;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// qemu-img's verbs that are not here.
const ELSEWHERE: [&str; 8] =
    ["amend", "bench", "bitmap", "commit", "dd", "rebase", "resize", "snapshot"];

/// Help and versions are shown; anything else is a failure in one line.
pub(super) fn explain(
    error: &clap::Error,
    verb: Option<String>,
    program: Program,
    grammar: &clap::Command,
) -> Result<Invocation, Failure> {
    let command = verb.and_then(|path| known(grammar, &path));
    let message = match error.kind() {
        ErrorKind::DisplayHelp => return Ok(Invocation::Show(error.render().to_string())),
        ErrorKind::DisplayVersion => return Ok(Invocation::Show(program.version())),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "Not enough arguments".to_owned()
        }
        ErrorKind::InvalidSubcommand => {
            let name = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            if ELSEWHERE.contains(&name.as_str()) {
                return Err(Failure::not_supported(&format!("the command '{name}'")));
            }
            format!("Command not found: {name}")
        }
        ErrorKind::UnknownArgument => unknown(error),
        ErrorKind::MissingRequiredArgument => {
            let what = text(error, ContextKind::InvalidArg).unwrap_or_default();
            format!("missing {}", what.replace(['<', '>'], ""))
        }
        _ if text(error, ContextKind::InvalidValue).as_deref() == Some("") => {
            let option = text(error, ContextKind::InvalidArg).unwrap_or_default();
            format!("option requires an argument: {option}")
        }
        _ => first_line(error),
    };
    Err(Failure::Usage { command, message })
}

/// As much of a verb's path (`iso ls`) as there is.
fn known(grammar: &clap::Command, path: &str) -> Option<String> {
    let mut found = Vec::new();
    let mut command = grammar;
    for name in path.split(' ') {
        let Some(inner) = command.find_subcommand(name) else { break };
        found.push(name);
        command = inner;
    }
    (!found.is_empty()).then(|| found.join(" "))
}

fn unknown(error: &clap::Error) -> String {
    let word = text(error, ContextKind::InvalidArg).unwrap_or_default();
    if !word.starts_with('-') {
        return format!("unexpected argument '{word}'");
    }
    match text(error, ContextKind::SuggestedArg) {
        Some(near) => format!("unrecognized option '{word}' (did you mean '{near}'?)"),
        None => format!("unrecognized option '{word}'"),
    }
}

/// What clap knows under `kind`, as text.
fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        _ => None,
    }
}

/// clap's own words without its advice, and the possible values after them.
fn first_line(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let line = rendered.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line).to_owned();
    match text(error, ContextKind::ValidValue) {
        Some(values) => format!("{line} (one of: {values})"),
        None => line,
    }
}
