//! Arguments in two stages: what was args (clap's structs, one a verb), and
//! what it means (a job that the verb's command carries out).

pub(crate) mod check;
pub(crate) mod common;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod create;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod iso;
pub(crate) mod map;
pub(crate) mod measure;
mod mkisofs;
pub(crate) mod names;
pub(crate) mod recipe;
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

The command line is qemu-img's; called as qemu-img, --version and messages go by that name.
'diskimg COMMAND --help' tells more.";

/// Convert and inspect disk images.
#[derive(Debug, clap::Parser)]
#[command(name = "diskimg", version, after_help = EXAMPLES, args_override_self = true)]
#[command(infer_long_args = true, disable_help_subcommand = true)]
struct Args {
    /// Confine this process to what its work needs: on (default), off or require
    #[arg(long, value_name = "WHEN", default_value = "on", global = true)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    sandbox: Sandbox,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, and it is consumed at once")]
enum Verb {
    Convert(convert::Args),
    Info(info::Args),
    Inspect(inspect::Args),
    Map(map::Args),
    Create(create::Args),
    Compare(compare::Args),
    Check(check::Args),
    Measure(measure::Args),
    Iso(iso::Args),
    /// Build an ISO image with mkisofs's command line; called by that name, too.
    #[command(aliases = ["genisoimage", "xorrisofs"], disable_help_flag = true)]
    Mkisofs {
        /// Its own options: -help lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Write a completion script for SHELL to standard output.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual: pages into DIR, or the main one to standard output.
    Man {
        /// An existing directory.
        dir: Option<PathBuf>,
    },
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Show this on standard output: help, a version, a list of options.
    Show(String),
    /// Do this, so confined.
    Run(Box<Command>, Sandbox),
}

/// What it means: a verb, ready to be carried out.
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
    /// `create`.
    Create(create::Job),
    /// `compare`.
    Compare(compare::Job),
    /// `check`.
    Check(check::Job),
    /// `measure`.
    Measure(measure::Job),
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
    /// `iso create`, and mkisofs's command line.
    IsoCreate(recipe::Recipe),
    /// `completions`.
    Completions(clap_complete::Shell),
    /// `man`.
    Man(Option<PathBuf>),
}

/// What a verb's own arguments come to.
#[derive(Debug)]
pub(crate) enum Parsed<J> {
    /// A job.
    Job(J),
    /// The user only wanted to know something (`-o help`).
    Show(String),
}

/// Help that fits a screen: the usage line tells of the arguments.
const HELP: &str =
    "{about-with-newline}\n{usage-heading} {usage}\n\nOptions:\n{options}{after-help}";

/// The grammar, under the name that we are called by.
pub(crate) fn grammar(program: Program) -> clap::Command {
    let name = program.name();
    named(Args::command(), name).name(name).bin_name(name).mut_subcommands(|verb| {
        match verb.get_name() {
            "iso" => named(verb, name).mut_subcommands(|verb| {
                let operands = iso::operands(verb.get_name());
                shown(verb, name, "iso ", operands)
            }),
            other => {
                let operands = operands(other);
                shown(verb, name, "", operands)
            }
        }
    })
}

/// A verb as it is shown and read; `above` is the verb that it belongs to.
fn shown(verb: clap::Command, name: &str, above: &str, operands: &str) -> clap::Command {
    let usage = format!("{name} {above}{} [OPTIONS] {operands}", verb.get_name());
    named(verb, name).mut_args(take_any_value).override_usage(usage).help_template(HELP)
}

/// What a verb takes besides options.
fn operands(verb: &str) -> &'static str {
    match verb {
        "convert" => "SRC... DST",
        "compare" => "A B",
        "create" => "FILE [SIZE]",
        "measure" => "{FILE | --size SIZE}",
        "mkisofs" => "-o IMAGE FILE...",
        "completions" => "SHELL",
        "man" => "[DIR]",
        _ => "FILE",
    }
}

/// With the program's name in its examples.
fn named(command: clap::Command, name: &str) -> clap::Command {
    let examples = command
        .get_after_help()
        .map(|text| text.to_string().replace("diskimg ", &format!("{name} ")));
    match examples {
        Some(examples) => command.after_help(examples),
        None => command,
    }
}

/// As getopt does: an option that takes a value takes the next word, whatever
/// it begins with.
fn take_any_value(arg: clap::Arg) -> clap::Arg {
    let takes_value = arg.get_action().takes_values() && !arg.is_positional();
    if takes_value { arg.allow_hyphen_values(true) } else { arg }
}

/// Reads the command line. `argv[0]` is the program's name.
pub(crate) fn parse(argv: Vec<OsString>, program: Program) -> Result<Invocation, Failure> {
    if let Some(parsed) = mkisofs::parse(&argv, program) {
        return parsed;
    }
    let verb_name = argv.get(1).and_then(|arg| arg.to_str()).map(str::to_owned);
    let verb_name = verb_name.map(|verb| match argv.get(2).and_then(|arg| arg.to_str()) {
        Some(inner) if verb == "iso" => format!("iso {inner}"),
        _ => verb,
    });
    let mut grammar = grammar(program);
    let args =
        grammar.try_get_matches_from_mut(argv).and_then(|matches| Args::from_arg_matches(&matches));
    let args = match args {
        Ok(args) => args,
        Err(error) => return usage::explain(&error, verb_name, program, &grammar),
    };
    let parsed = match args.verb {
        Verb::Convert(args) => run(args.parse()?, Command::Convert),
        Verb::Info(args) => run(args.parse()?, Command::Info),
        Verb::Inspect(args) => run(args.parse()?, Command::Inspect),
        Verb::Map(args) => run(args.parse()?, Command::Map),
        Verb::Create(args) => run(args.parse()?, Command::Create),
        Verb::Compare(args) => run(args.parse()?, Command::Compare),
        Verb::Check(args) => run(args.parse()?, Command::Check),
        Verb::Measure(args) => run(args.parse()?, Command::Measure),
        Verb::Iso(args) => args.parsed()?,
        // Reached only where mkisofs's own reading of the line did not take it (as qemu-img).
        Verb::Mkisofs { words } => mkisofs::read_words(&words, program)?,
        Verb::Completions { shell } => run(Parsed::Job(shell), Command::Completions),
        Verb::Man { dir } => run(Parsed::Job(dir), Command::Man),
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
    fn the_grammar_is_consistent() {
        grammar(Program::Diskimg).debug_assert();
    }

    #[test]
    fn help_fits_a_screen() {
        let mut grammar = grammar(Program::Diskimg);
        let iso = grammar.find_subcommand("iso").expect("is a verb").clone();
        let inner = iso.get_subcommands().cloned();
        let verbs: Vec<_> = grammar.get_subcommands().cloned().chain(inner).collect();
        grammar.build();
        for mut verb in verbs {
            let help = verb.render_help().to_string();
            let lines = help.lines().count();
            assert!(lines <= 50, "{}: {lines} lines", verb.get_name());
            let longest = help.lines().map(|l| l.chars().count()).max();
            assert!(longest <= Some(100), "{}: {longest:?} columns", verb.get_name());
        }
    }
}
