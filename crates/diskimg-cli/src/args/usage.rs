//! Converts clap's errors to one-line messages in the style of getopt.

use crate::args::Invocation;
use crate::failure::Failure;
use crate::output::Program;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands of qemu-img that are not supported.
const UNSUPPORTED: [&str; 7] = ["amend", "bench", "bitmap", "commit", "dd", "rebase", "snapshot"];

/// Options of `convert` that `-h` leaves out, so that its help fits on a screen.
const RARELY_USED: [&str; 13] = [
    "cache",
    "copy_range_offloading",
    "force",
    "ignore_cid",
    "image_opts",
    "no_verify",
    "rate",
    "recompress",
    "sha256",
    "source_cache",
    "strict",
    "target_is_zero",
    "trust_source",
];

/// Returns the text of a help or version request, or the error as a [`Failure`]. `brief` is true for
/// `-h`.
pub(super) fn explain(
    error: &clap::Error,
    command_name: Option<String>,
    program: Program,
    grammar: &clap::Command,
    brief: bool,
) -> Result<Invocation, Failure> {
    let command = command_name.and_then(|name| known_prefix(grammar, &name));
    let message = match error.kind() {
        ErrorKind::DisplayHelp if brief && command.as_deref() == Some("convert") => {
            return Ok(Invocation::Show(brief_help(grammar, "convert")));
        }
        ErrorKind::DisplayHelp => return Ok(Invocation::Show(error.render().to_string())),
        ErrorKind::DisplayVersion => return Ok(Invocation::Show(program.version())),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            if command.is_none() && program == Program::Diskimg {
                return Ok(Invocation::Show(grammar.clone().render_help().to_string()));
            }
            "Not enough arguments".to_owned()
        }
        ErrorKind::InvalidSubcommand => {
            let name = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            if UNSUPPORTED.contains(&name.as_str()) {
                return Err(Failure::not_supported(&format!("the command '{name}'")));
            }
            with_suggestion(
                format!("Command not found: {name}"),
                text(error, ContextKind::SuggestedSubcommand),
            )
        }
        ErrorKind::UnknownArgument => unknown_argument(error),
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

/// Returns the help of a command without the options that are rarely used.
pub(super) fn brief_help(grammar: &clap::Command, name: &str) -> String {
    let mut grammar = grammar.clone();
    grammar.build();
    let Some(command) = grammar.find_subcommand(name) else { return String::new() };
    let hide = |arg: clap::Arg| {
        let is_rare = RARELY_USED.contains(&arg.get_id().as_str());
        if is_rare { arg.hide(true) } else { arg }
    };
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (examples, _) = examples.split_once("\n\n").unwrap_or((&examples, ""));
    let after = format!("{examples}\n\n--help shows all options.");
    command.clone().mut_args(hide).after_help(after).render_help().to_string()
}

/// Returns the longest prefix of a command name such as `iso ls` that exists.
fn known_prefix(grammar: &clap::Command, name: &str) -> Option<String> {
    let mut found = Vec::new();
    let mut command = grammar;
    for word in name.split(' ') {
        let Some(subcommand) = command.find_subcommand(word) else { break };
        found.push(word);
        command = subcommand;
    }
    (!found.is_empty()).then(|| found.join(" "))
}

fn unknown_argument(error: &clap::Error) -> String {
    let word = text(error, ContextKind::InvalidArg).unwrap_or_default();
    if !word.starts_with('-') {
        return format!("unexpected argument '{word}'");
    }
    let near = text(error, ContextKind::SuggestedArg);
    with_suggestion(format!("unrecognized option '{word}'"), near)
}

/// Adds what the user may have meant to a message.
fn with_suggestion(message: String, near: Option<String>) -> String {
    match near {
        Some(near) => format!("{message} (did you mean '{near}'?)"),
        None => message,
    }
}

/// Returns an item of an error's context as text.
fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        _ => None,
    }
}

/// Returns the first line of clap's message, followed by the possible values.
fn first_line(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let line = rendered.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line).to_owned();
    match text(error, ContextKind::ValidValue) {
        Some(values) => format!("{line} (one of: {values})"),
        None => line,
    }
}
