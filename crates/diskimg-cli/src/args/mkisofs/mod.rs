//! The command line of mkisofs, as implemented by genisoimage and `xorriso -as mkisofs`.
//!
//! It is parsed without clap: long options begin with one hyphen or two, their values are separate
//! arguments, and options and operands can be mixed.
//!
//! ```text
//!   table, selection    the options: names, values, help, and how each changes the draft
//!   draft               the image described by the options parsed so far
//!   values              parsing of option values
//!   native              xorriso's own commands
//! ```
//!
//! Where genisoimage and xorriso differ, the name of the program decides ([`Dialect`]). Unsupported
//! options are errors. Configuration files (`.mkisofsrc`) are not read.

mod draft;
pub(crate) mod native;
mod selection;
mod table;
#[cfg(test)]
mod tests;
mod values;

use crate::args::recipe::Recipe;
use crate::args::{Command, Invocation};
use crate::confine::Sandbox;
use crate::failure::Failure;
use crate::output::Program;
use draft::Draft;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use table::Row;
use values::Value;

/// The program whose defaults apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// genisoimage: no Rock Ridge by default, directories deeper than eight levels are relocated.
    Mkisofs,
    /// xorriso: Rock Ridge by default, no relocation, volume ID ISOIMAGE.
    Xorriso,
}

/// Parses `argv` if it is a mkisofs command line, recognized by the name of the program or, as
/// `diskimg`, by the command. Returns `None` otherwise.
pub(super) fn parse(argv: &[OsString], program: Program) -> Option<Result<Invocation, Failure>> {
    let (name, args) = match program {
        Program::QemuImg => return None,
        Program::Diskimg => {
            let (command, args) = argv.get(1..)?.split_first()?;
            (command.to_str()?, args)
        }
        _ => (program.name(), argv.get(1..).unwrap_or_default()),
    };
    let command = (program == Program::Diskimg).then_some(name);
    Some(match name {
        "mkisofs" | "genisoimage" => parse_as(Dialect::Mkisofs, args, command, program),
        "xorrisofs" => parse_as(Dialect::Xorriso, args, command, program),
        "xorriso" | "osirrox" => parse_native(name, args, command, program),
        _ => return None,
    })
}

/// Parses the arguments of xorriso or osirrox.
fn parse_native(
    name: &str,
    args: &[OsString],
    command: Option<&str>,
    program: Program,
) -> Result<Invocation, Failure> {
    match args.first() {
        Some(arg) if is_one_of(arg, &["version", "-version"]) => {
            return Ok(Invocation::Show(program.version()));
        }
        Some(arg) if is_one_of(arg, &["help", "-help"]) => {
            let prefix = if command.is_some() { "diskimg " } else { "" };
            return Ok(Invocation::Show(native::help(&format!("{prefix}{name}"))));
        }
        _ if command.is_some() && asks_for_brief_help(args) => {
            let help = native::help(&format!("diskimg {name}"));
            return Ok(Invocation::Show(brief(&help, &USUAL_COMMANDS)));
        }
        None => return Err(usage("no commands").of_command(command)),
        _ => {}
    }
    match native::parse(args, name == "osirrox")? {
        native::Parsed::Emulated(name, args) if is_emulated(name) => {
            parse_as(Dialect::Xorriso, args, command, program)
        }
        native::Parsed::Emulated(name, _) => {
            Err(Failure::not_supported(&format!("-as {}", name.to_string_lossy()))
                .with_code(native::FAILED))
        }
        native::Parsed::Job(job) => {
            Ok(Invocation::Run(Box::new(Command::Xorriso(job)), Sandbox::default()))
        }
    }
}

/// Parses the arguments after `mkisofs`.
pub(super) fn parse_args(args: &[OsString], program: Program) -> Result<Invocation, Failure> {
    parse_as(Dialect::Mkisofs, args, Some("mkisofs"), program)
}

/// Parses the arguments after `xorriso`.
pub(super) fn parse_xorriso(args: &[OsString], program: Program) -> Result<Invocation, Failure> {
    parse_native("xorriso", args, Some("xorriso"), program)
}

/// Options of mkisofs that `-h` lists.
const USUAL_OPTIONS: [&str; 15] = [
    "-o",
    "-V",
    "-J",
    "-r",
    "-R",
    "-udf",
    "-m",
    "-f",
    "-graft-points",
    "-b",
    "-c",
    "-no-emul-boot",
    "-boot-load-size",
    "-boot-info-table",
    "-quiet",
];

/// Commands of xorriso that `-h` lists.
const USUAL_COMMANDS: [&str; 13] = [
    "-indev",
    "-outdev",
    "-dev",
    "-commit",
    "-volid",
    "-map",
    "-rm_r",
    "-ls",
    "-lsl",
    "-find",
    "-osirrox",
    "-extract",
    "-boot_image",
];

/// Returns whether `-h` is the only argument. The programs themselves have no such option.
fn asks_for_brief_help(args: &[OsString]) -> bool {
    args.len() == 1 && args[0] == "-h"
}

/// Returns the lines of `help` about the usage and about the options that are `usual`, without the
/// explanations at its end.
fn brief(help: &str, usual: &[&str]) -> String {
    let is_usual = |line: &&str| match line.strip_prefix("  -") {
        Some(option) => {
            let name = option.split([' ', ',']).next().unwrap_or_default();
            usual.iter().any(|usual| usual[1..] == *name)
        }
        None => true,
    };
    let (options, _) = help.rsplit_once("\n\n").unwrap_or((help, ""));
    let shown: Vec<_> = options.lines().filter(is_usual).map(narrow).collect();
    format!("{}\n\n-help shows all.\n", shown.join("\n"))
}

/// Returns a line of the help as lines of at most 80 columns.
fn narrow(line: &str) -> String {
    /// Columns before the text, in the full and in the brief help.
    const FULL: usize = 38;
    const BRIEF: usize = 28;
    let (left, text) = match line.split_at_checked(FULL) {
        Some((left, text)) if line.starts_with("  -") => (left.trim_end(), text),
        // The usage, without its remarks.
        _ => return line.split("   (").next().unwrap_or_default().to_owned(),
    };
    let mut lines = vec![format!("{left:<BRIEF$}")];
    if left.len() > BRIEF {
        lines.push(" ".repeat(BRIEF));
    }
    for word in text.split_whitespace() {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last + word.chars().count() >= 80 {
            lines.push(" ".repeat(BRIEF));
        }
        if let Some(last) = lines.last_mut() {
            *last += " ";
            *last += word;
        }
    }
    lines.join("\n")
}

/// Returns whether `xorriso -as NAME` is supported.
fn is_emulated(name: &OsStr) -> bool {
    ["mkisofs", "genisoimage", "genisofs"].iter().any(|known| name == *known)
}

/// Returns whether `arg` is an option with one of these names, which exclude the first hyphen.
fn is_one_of(arg: &OsStr, names: &[&str]) -> bool {
    arg.to_str().and_then(|text| text.strip_prefix('-')).is_some_and(|name| names.contains(&name))
}

fn parse_as(
    dialect: Dialect,
    args: &[OsString],
    command: Option<&str>,
    program: Program,
) -> Result<Invocation, Failure> {
    if args.iter().any(|arg| is_one_of(arg, &["help", "-help"])) {
        return Ok(Invocation::Show(help(command, program)));
    }
    if command.is_some() && asks_for_brief_help(args) {
        return Ok(Invocation::Show(brief(&help(command, program), &USUAL_OPTIONS)));
    }
    if args.iter().any(|arg| is_one_of(arg, &["version", "-version"])) {
        return Ok(Invocation::Show(program.version()));
    }
    recipe(dialect, args)
        .map(|recipe| {
            let command = Command::IsoCreate(Box::new(recipe));
            Invocation::Run(Box::new(command), Sandbox::default())
        })
        .map_err(|failure| failure.of_command(command))
}

/// Parses options and operands.
fn recipe(dialect: Dialect, args: &[OsString]) -> Result<Recipe, Failure> {
    let mut draft = Draft::new(dialect);
    let mut operands = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.to_str().and_then(|text| text.strip_prefix('-')) {
            None | Some("") => operands.push(arg.clone()),
            // In xorriso, `--` ends the mkisofs options; xorriso's own commands follow.
            Some("-") if dialect == Dialect::Xorriso => {
                for setting in native::parse_settings(args.as_slice())? {
                    setting.apply(&mut draft.options);
                }
                break;
            }
            Some("-") => operands.extend(args.by_ref().cloned()),
            Some(name) => {
                let name = name.strip_prefix('-').unwrap_or(name);
                option(&mut draft, name, &arg.to_string_lossy(), &mut args)?;
            }
        }
    }
    if operands.is_empty() && draft.path_lists.is_empty() {
        return Err(usage("Missing pathspec: no files to add"));
    }
    draft.recipe(&operands)
}

/// Parses an option and its values. `given` is the option as given, `name` is without hyphens.
fn option(
    draft: &mut Draft,
    name: &str,
    given: &str,
    args: &mut std::slice::Iter<'_, OsString>,
) -> Result<(), Failure> {
    if let Some(row) = table::find(name) {
        return apply(draft, row, given, None, args);
    }
    // A value joined to a long option: `--modification-date=DATE`.
    if let Some((name, value)) = name.split_once('=')
        && let Some(row) = table::find(name).filter(|row| row.values.len() == 1 && name.len() > 1)
    {
        let option = given.split('=').next().unwrap_or(given);
        return apply(draft, row, option, Some(OsStr::new(value)), args);
    }
    if table::is_unsupported(name) {
        return Err(Failure::not_supported(&format!("the option {given}")));
    }
    for row in short_options(name).ok_or_else(|| usage(format!("unrecognized option '{given}'")))? {
        apply(draft, row, given, None, args)?;
    }
    Ok(())
}

/// Splits short options that share a hyphen (`-JRo`). Only the last one may take a value, which is
/// a separate argument, so that a misspelt long option is not mistaken for `-o` and a file name.
fn short_options(name: &str) -> Option<Vec<&'static Row>> {
    let rows: Option<Vec<_>> =
        name.char_indices().map(|(at, c)| table::find(&name[at..at + c.len_utf8()])).collect();
    let rows = rows?;
    let (_, others) = rows.split_last()?;
    others.iter().all(|row| row.values.is_empty()).then_some(rows)
}

fn apply(
    draft: &mut Draft,
    row: &Row,
    option: &str,
    joined: Option<&OsStr>,
    args: &mut std::slice::Iter<'_, OsString>,
) -> Result<(), Failure> {
    let mut values = Vec::new();
    for _ in row.values {
        let next = joined.or_else(|| args.next().map(OsString::as_os_str));
        let arg = next.ok_or_else(|| usage(format!("option requires an argument: {option}")))?;
        values.push(Value { option, arg });
    }
    (row.apply)(draft, &values)
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::Usage { command: None, message: message.into() }
}

fn help(command: Option<&str>, program: Program) -> String {
    let mut name = program.name().to_owned();
    match command {
        Some(command) => name = format!("{name} {command}"),
        None if program == Program::Xorriso => name.push_str(" -as mkisofs"),
        None => {}
    }
    let mut text = format!("Usage: {name} [options] [-o IMAGE] FILE...\n\nOptions:\n");
    for row in table::rows() {
        let names: Vec<_> = row.names.iter().map(|name| format!("-{name}")).collect();
        let left = format!("{} {}", names.join(", "), row.values.join(" "));
        let _ = writeln!(text, "  {:<36} {}", left.trim_end(), row.help);
    }
    text.push_str(
        "\nFILE, or the entries of directory FILE, are added to the root directory of the image.\n\
         Options may begin with one hyphen or two.\n\
         If SOURCE_DATE_EPOCH is set, no later time is recorded.\n",
    );
    text
}
