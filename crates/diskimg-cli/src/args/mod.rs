//! Command-line arguments, in two stages: clap fills an `Args` struct for each command, and
//! `Args::parse` validates it and returns the `Job` that the command runs.

mod advice;
pub(crate) mod check;
pub(crate) mod common;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod create;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod iso;
pub(crate) mod ls;
pub(crate) mod map;
pub(crate) mod measure;
pub(crate) mod mkisofs;
pub(crate) mod names;
mod objects;
pub(crate) mod recipe;
pub(crate) mod resize;
mod usage;

use crate::confine::Sandbox;
use crate::failure::Failure;
use crate::output::Program;
use clap::{CommandFactory, FromArgMatches};
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  diskimg convert -O qcow2 -c disk.vmdk disk.qcow2
  diskimg info --output=json disk.qcow2
  diskimg compare a.raw b.qcow2

Options and output are compatible with qemu-img. When run as qemu-img, diskimg uses that name in
messages and in --version. See 'diskimg COMMAND --help' for the options of a command.";

/// Convert and inspect disk images.
#[derive(Debug, clap::Parser)]
#[command(name = "diskimg", version, after_help = EXAMPLES, args_override_self = true)]
#[command(infer_long_args = true, disable_help_subcommand = true)]
struct Args {
    /// Sandbox: on, off, or require (fail if the kernel lacks support); default: on
    #[arg(long, value_name = "MODE", default_value = "on", global = true)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    sandbox: Sandbox,
    #[command(subcommand)]
    command: CommandArgs,
}

#[derive(Debug, clap::Subcommand)]
#[allow(clippy::large_enum_variant, reason = "only one value exists, and only briefly")]
enum CommandArgs {
    Convert(convert::Args),
    Info(info::Args),
    Inspect(inspect::Args),
    Map(map::Args),
    Ls(ls::Args),
    Create(create::Args),
    Compare(compare::Args),
    Check(check::Args),
    Measure(measure::Args),
    Resize(resize::Args),
    Iso(iso::Args),
    /// Create an ISO image; takes the options of mkisofs.
    #[command(aliases = ["genisoimage", "xorrisofs"], disable_help_flag = true)]
    Mkisofs {
        /// Options of mkisofs (see -help) and files
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Create, change, show and extract ISO images; takes the commands of xorriso.
    #[command(alias = "osirrox", disable_help_flag = true)]
    Xorriso {
        /// Commands of xorriso (see -help)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Print a shell completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print diskimg(1), or write all manual pages to a directory.
    Man {
        /// The directory, which is created if it does not exist.
        dir: Option<PathBuf>,
    },
}

/// What a command line requests.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Print this text to standard output: help, the version or a list of options.
    Show(String),
    /// Run this command in this sandbox.
    Run(Box<Command>, Sandbox),
}

/// A command with validated arguments.
#[derive(Debug)]
pub(crate) enum Command {
    /// `convert`.
    Convert(convert::Job),
    /// `info`.
    Info(info::Job),
    /// `inspect`.
    Inspect(inspect::Job),
    /// `map`.
    Map(map::Job),
    /// `ls`.
    Ls(ls::Job),
    /// `create`.
    Create(create::Job),
    /// `compare`.
    Compare(compare::Job),
    /// `check`.
    Check(check::Job),
    /// `measure`.
    Measure(measure::Job),
    /// `resize`.
    Resize(resize::Job),
    /// `iso info`, `iso boot`.
    IsoShow(iso::show::Job),
    /// `iso ls`.
    IsoLs(iso::ls::Job),
    /// `iso cat`.
    IsoCat(iso::cat::Job),
    /// `iso extract`.
    IsoExtract(iso::extract::Job),
    /// `iso verify`.
    IsoVerify(iso::verify::Job),
    /// `iso diff`.
    IsoDiff(iso::diff::Job),
    /// `iso remaster`.
    IsoRemaster(iso::remaster::Job),
    /// `iso create` and `mkisofs`.
    IsoCreate(Box<recipe::Recipe>),
    /// `xorriso`.
    Xorriso(Box<mkisofs::native::Job>),
    /// `completions`.
    Completions(clap_complete::Shell),
    /// `man`.
    Man(Option<PathBuf>),
}

/// The result of parsing a command's arguments.
#[derive(Debug)]
pub(crate) enum Parsed<J> {
    /// The job to run.
    Job(J),
    /// Text to print instead (`-o help`).
    Show(String),
}

/// Help template that omits clap's "Arguments" section, so that help fits on a screen: the usage
/// line shows the operands.
const HELP: &str =
    "{about-with-newline}\n{usage-heading} {usage}\n\nOptions:\n{options}{after-help}";

/// Returns the clap command, with the name the program was run as in usage and examples.
pub(crate) fn grammar(program: Program) -> clap::Command {
    let name = program.name();
    rename_examples(Args::command(), name).name(name).bin_name(name).mut_subcommands(|command| {
        match command.get_name() {
            "iso" => rename_examples(command, name).mut_subcommands(|command| {
                let operands = iso::operands(command.get_name());
                with_usage(command, name, "iso ", operands)
            }),
            other => {
                let (operands, hidden) =
                    (operands(other), other == "ls" && program == Program::QemuImg);
                with_usage(command, name, "", operands).hide(hidden)
            }
        }
    })
}

/// Sets the usage line and help template of a command; `parent` is the enclosing command's name and
/// a space, or empty.
fn with_usage(command: clap::Command, name: &str, parent: &str, operands: &str) -> clap::Command {
    let usage = format!("{name} {parent}{} [OPTIONS] {operands}", command.get_name());
    rename_examples(command, name)
        .mut_args(allow_hyphen_values)
        .override_usage(usage)
        .help_template(HELP)
}

/// Returns the operands of a command for its usage line.
fn operands(command: &str) -> &'static str {
    match command {
        "convert" => "SRC... DST",
        "compare" => "A B",
        "create" => "FILE [SIZE]",
        "measure" => "{FILE | --size SIZE}",
        "resize" => "FILE [+|-]SIZE",
        "mkisofs" => "[-o IMAGE] FILE...",
        "xorriso" => "COMMAND...",
        "completions" => "SHELL",
        "man" => "[DIR]",
        "info" => "FILE...",
        "ls" => "IMAGE[:PARTITION] [PATH...]",
        _ => "FILE",
    }
}

/// Replaces `diskimg` with the program's name in the examples.
fn rename_examples(command: clap::Command, name: &str) -> clap::Command {
    let examples = command
        .get_after_help()
        .map(|text| text.to_string().replace("diskimg ", &format!("{name} ")));
    match examples {
        Some(examples) => command.after_help(examples),
        None => command,
    }
}

/// Lets the value of an option begin with a hyphen, as getopt does.
fn allow_hyphen_values(arg: clap::Arg) -> clap::Arg {
    let takes_value = arg.get_action().takes_values() && !arg.is_positional();
    if takes_value { arg.allow_hyphen_values(true) } else { arg }
}

/// Replaces `help COMMAND` by `COMMAND --help`. qemu-img has no command `help`.
fn expand_help(mut argv: Vec<OsString>, program: Program) -> Vec<OsString> {
    if program == Program::Diskimg && argv.get(1).is_some_and(|word| word == "help") {
        argv.remove(1);
        argv.push("--help".into());
    }
    argv
}

/// Parses the command line. `argv[0]` is the program's name.
pub(crate) fn parse(argv: Vec<OsString>, program: Program) -> Result<Invocation, Failure> {
    if let Some(parsed) = mkisofs::parse(&argv, program) {
        return parsed;
    }
    let argv = expand_help(argv, program);
    let command_name = argv.get(1).and_then(|arg| arg.to_str()).map(str::to_owned);
    let command_name = command_name.map(|name| match argv.get(2).and_then(|arg| arg.to_str()) {
        Some(subcommand) if name == "iso" => format!("iso {subcommand}"),
        _ => name,
    });
    if program == Program::QemuImg && command_name.as_deref() == Some("ls") {
        let message = "Command not found: ls (it is one of diskimg's own)".to_owned();
        return Err(Failure::Usage { command: None, message });
    }
    let brief = !argv.iter().any(|arg| arg == "--help");
    let mut grammar = grammar(program);
    let args =
        grammar.try_get_matches_from_mut(argv).and_then(|matches| Args::from_arg_matches(&matches));
    let args = match args {
        Ok(args) => args,
        Err(error) => return usage::explain(&error, command_name, program, &grammar, brief),
    };
    let parsed = match args.command {
        CommandArgs::Convert(args) => run(args.parse(program)?, Command::Convert),
        CommandArgs::Info(args) => run(args.parse(program)?, Command::Info),
        CommandArgs::Inspect(args) => run(args.parse()?, Command::Inspect),
        CommandArgs::Map(args) => run(args.parse()?, Command::Map),
        CommandArgs::Ls(args) => run(args.parse()?, Command::Ls),
        CommandArgs::Create(args) => run(args.parse(program)?, Command::Create),
        CommandArgs::Compare(args) => run(args.parse()?, Command::Compare),
        CommandArgs::Check(args) => run(args.parse()?, Command::Check),
        CommandArgs::Measure(args) => run(args.parse()?, Command::Measure),
        CommandArgs::Resize(args) => run(args.parse()?, Command::Resize),
        CommandArgs::Iso(args) => args.parse()?,
        // Reached when run as qemu-img or with options before the command; otherwise mkisofs::parse
        // has handled the line above.
        CommandArgs::Mkisofs { args } => mkisofs::parse_args(&args, program)?,
        CommandArgs::Xorriso { args } => mkisofs::parse_xorriso(&args, program)?,
        CommandArgs::Completions { shell } => run(Parsed::Job(shell), Command::Completions),
        CommandArgs::Man { dir } => run(Parsed::Job(dir), Command::Man),
    };
    Ok(match parsed {
        Invocation::Run(command, _) => Invocation::Run(command, args.sandbox),
        show => show,
    })
}

fn run<J>(parsed: Parsed<J>, command: fn(J) -> Command) -> Invocation {
    match parsed {
        Parsed::Job(job) => Invocation::Run(Box::new(command(job)), Sandbox::default()),
        Parsed::Show(text) => Invocation::Show(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clap_command_is_valid() {
        grammar(Program::Diskimg).debug_assert();
    }

    #[test]
    fn help_fits_a_screen() {
        let mut grammar = grammar(Program::Diskimg);
        // Adds the global options to the commands.
        grammar.build();
        let brief = usage::brief_help(&grammar, "convert");
        assert!(brief.lines().count() <= 40, "{brief}");
        let iso = grammar.find_subcommand("iso").expect("iso is a command").clone();
        let iso_commands = iso.get_subcommands().cloned();
        let commands: Vec<_> = grammar.get_subcommands().cloned().chain(iso_commands).collect();
        for mut command in commands {
            let help = command.render_help().to_string();
            let lines = help.lines().count();
            let most = if command.get_name() == "convert" { 55 } else { 50 };
            assert!(lines <= most, "{}: {lines} lines", command.get_name());
            let longest = help.lines().map(|l| l.chars().count()).max();
            assert!(longest <= Some(100), "{}: {longest:?} columns", command.get_name());
        }
    }
}
