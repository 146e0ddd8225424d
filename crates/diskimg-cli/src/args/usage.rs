//! Converts clap's errors to one-line messages in the style of getopt.

use crate::args::Invocation;
use crate::failure::Failure;
use crate::output::Program;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Options that `-h` leaves out, so that its help fits on a screen, by command; those of an empty
/// name are left out everywhere.
const RARELY_USED: [(&str, &[&str]); 9] = [
    (
        "",
        &[
            "aws_profile",
            "ca_bundle",
            "color",
            "endpoint_url",
            "header_file",
            "ignore_cid",
            "image_opts",
            "insecure",
            "limits",
            "no_config",
            "no_private_addresses",
            "no_sign_request",
            "os_interface",
            "os_region_name",
            "parents",
            "region",
            "request_payer",
            "sandbox",
        ],
    ),
    (
        "convert",
        &[
            "bitmaps",
            "cache",
            "copy_range_offloading",
            "force",
            "max_size",
            "no_verify",
            "quiet",
            "rate",
            "recompress",
            "reflink",
            "report",
            "resume",
            "salvage",
            "sha256",
            "skip_broken_bitmaps",
            "source_cache",
            "sparse_size",
            "strict",
            "target_is_zero",
            "trust_source",
        ],
    ),
    ("rebase", &["backing_cache", "cache"]),
    ("amend", &["cache"]),
    ("create", &["backing_unsafe", "force_share", "max_size"]),
    (
        "iso create",
        &[
            "align",
            "append_efi",
            "application",
            "boot_info_table",
            "gid",
            "grub2_mbr",
            "hybrid_mbr",
            "joliet",
            "joliet_long",
            "level",
            "oemdrv",
            "pad",
            "publisher",
            "uid",
        ],
    ),
    (
        "iso extract",
        &["devices", "max_bytes", "no_links", "owner", "preserve", "session", "strict"],
    ),
    ("iso remaster", &["session", "strict"]),
    ("iso ls", &["session", "strict"]),
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
        ErrorKind::DisplayHelp if brief => {
            let name = command.unwrap_or_default();
            return Ok(Invocation::Help(brief_help(grammar, &name)));
        }
        ErrorKind::DisplayHelp => {
            let name = command.unwrap_or_default();
            return Ok(Invocation::Help(full_help(grammar, &name)));
        }
        ErrorKind::DisplayVersion => return Ok(Invocation::Show(program.version())),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            if command.is_none() && program == Program::Diskimg {
                return Ok(Invocation::Help(brief_help(grammar, "")));
            }
            "Not enough arguments".to_owned()
        }
        ErrorKind::InvalidSubcommand => {
            let name = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            with_suggestion(
                format!("Command not found: {name}"),
                text(error, ContextKind::SuggestedSubcommand),
            )
        }
        ErrorKind::UnknownArgument => unknown_argument(error, grammar, command.as_deref()),
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

/// Help template of the program, without an empty line before the usage: its commands fill a screen.
const PROGRAM: &str = "{about}\n{usage-heading} {usage}\n\n\x1b[1m\x1b[4mCommands:\x1b[0m\n\
                       {subcommands}{after-help}";

/// Returns the help of a command, or of the program if `name` is empty, without the options that are
/// rarely used and the explanations.
pub(super) fn brief_help(grammar: &clap::Command, name: &str) -> StyledStr {
    let mut grammar = grammar.clone();
    grammar.build();
    let Some(command) = find(&grammar, name) else { return StyledStr::new() };
    let lists = RARELY_USED.iter().filter(|(command, _)| command.is_empty() || *command == name);
    let rare: Vec<&str> = lists.flat_map(|(_, ids)| ids.iter().copied()).collect();
    // The program's own help has its commands only: they fill the screen.
    let is_rare = |arg: &clap::Arg| name.is_empty() || rare.contains(&arg.get_id().as_str());
    let full = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let brief = if name.is_empty() { String::new() } else { examples(&full) };
    let mut after = brief.clone();
    if brief != full || command.get_arguments().any(|arg| is_rare(arg) && !arg.is_hide_set()) {
        let gap = if after.is_empty() { "" } else { "\n\n" };
        after = format!("{after}{gap}--help shows all options.");
    }
    let hide = |arg: clap::Arg| if is_rare(&arg) { arg.hide(true) } else { arg };
    let mut shown = command.clone().mut_args(hide).after_help(super::styled(&after));
    match name.is_empty() {
        true => {
            let shown = shown.mut_subcommand("man", |command| command.hide(true));
            shown.help_template(PROGRAM).render_help()
        }
        false => shown.render_help(),
    }
}

/// Returns the help of a command, or of the program if `name` is empty, with all options and their
/// full descriptions. Unlike clap's, it has no empty lines between the options.
pub(super) fn full_help(grammar: &clap::Command, name: &str) -> StyledStr {
    let mut grammar = grammar.clone();
    grammar.build();
    let Some(command) = find(&grammar, name) else { return StyledStr::new() };
    let describe = |arg: clap::Arg| match arg.get_long_help().cloned() {
        Some(full) => arg.help(full),
        None => arg,
    };
    command.clone().mut_args(describe).render_help()
}

/// Returns the command with this name, such as `iso ls`, or the program's if `name` is empty.
pub(super) fn find<'g>(grammar: &'g clap::Command, name: &str) -> Option<&'g clap::Command> {
    name.split_whitespace().try_fold(grammar, |command, word| command.find_subcommand(word))
}

/// Returns the paragraph with the exit codes and the first examples.
fn examples(text: &str) -> String {
    let paragraphs = text.split("\n\n").filter_map(|paragraph| {
        let is_examples = paragraph.starts_with("Example");
        let most = if is_examples { 4 } else { 2 };
        let lines: Vec<_> = paragraph.lines().take(most).collect();
        (is_examples || paragraph.starts_with("Exit code:")).then(|| lines.join("\n"))
    });
    paragraphs.collect::<Vec<_>>().join("\n\n")
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

fn unknown_argument(error: &clap::Error, grammar: &clap::Command, name: Option<&str>) -> String {
    let word = text(error, ContextKind::InvalidArg).unwrap_or_default();
    if !word.starts_with('-') {
        return format!("unexpected argument '{word}'");
    }
    let possible = abbreviated(&word, grammar, name.unwrap_or_default());
    if possible.len() > 1 {
        // As getopt_long(3).
        let possible: Vec<_> = possible.iter().map(|long| format!("'--{long}'")).collect();
        return format!("option '{word}' is ambiguous; possibilities: {}", possible.join(" "));
    }
    let near = text(error, ContextKind::SuggestedArg);
    with_suggestion(format!("unrecognized option '{word}'"), near)
}

/// Returns the long options of a command that `word` can abbreviate.
fn abbreviated(word: &str, grammar: &clap::Command, name: &str) -> Vec<String> {
    let start = word.split('=').next().unwrap_or_default();
    let Some(start) = start.strip_prefix("--").filter(|start| !start.is_empty()) else {
        return Vec::new();
    };
    let command = find(grammar, name).unwrap_or(grammar);
    let visible = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let longs = visible.filter_map(|arg| arg.get_long());
    longs.filter(|long| long.starts_with(start)).map(str::to_owned).collect()
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
