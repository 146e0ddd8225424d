//! Command-line arguments, in two stages: clap fills an `Args` struct for each command, and
//! `Args::parse` validates it and returns the `Job` that the command runs.

pub(crate) mod advice;
pub(crate) mod amend;
pub(crate) mod bench;
pub(crate) mod bitmap;
pub(crate) mod check;
pub(crate) mod commit;
pub(crate) mod common;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod create;
pub(crate) mod dd;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod iso;
pub(crate) mod ls;
pub(crate) mod map;
pub(crate) mod measure;
pub(crate) mod mkisofs;
pub(crate) mod names;
mod objects;
pub(crate) mod preflight;
pub(crate) mod rebase;
pub(crate) mod recipe;
pub(crate) mod resize;
#[cfg(feature = "nbd")]
pub(crate) mod serve;
pub(crate) mod snapshot;
mod usage;

use crate::confine::Sandbox;
use crate::failure::Failure;
use crate::output::Program;
use crate::output::color::When;
use crate::settings::Settings;
use clap::builder::StyledStr;
use clap::{CommandFactory, FromArgMatches};
use std::ffi::OsString;
use std::path::PathBuf;

const CONFIG: &str = "\
The output is a configuration file with the values in effect and where they come from. The file is
$DISKIMG_CONFIG, or else diskimg/config.toml in $XDG_CONFIG_HOME (~/.config). Its keys are color,
external-files, sandbox, threads, and those of the table limits; DISKIMG_COLOR and so on are the
variables. Options of the command line replace them.

Example:
  diskimg config";

const EXAMPLES: &str = "\
Examples:
  diskimg convert -O qcow2 -c disk.vmdk disk.qcow2

Options and output are those of qemu-img, as is the name in messages when run as
qemu-img. 'diskimg COMMAND --help' shows the options of a command.";

/// Convert and inspect disk images.
#[derive(Debug, clap::Parser)]
#[command(name = "diskimg", version, after_help = EXAMPLES, args_override_self = true)]
#[command(infer_long_args = true, disable_help_subcommand = true)]
struct Args {
    /// Confine the process: on (default), off, require
    #[arg(
        long_help = "Sandbox: on, off, or require (fail if the kernel lacks support); default: on"
    )]
    #[arg(long, value_name = "MODE", default_value = "on", global = true, display_order = 900)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    sandbox: Sandbox,
    /// Use colors: auto (default), always, never
    #[arg(
        long_help = "Use colors in messages and help: auto (at a terminal), always, never; default: auto"
    )]
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true, display_order = 901)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    color: When,
    /// Ignore config file and variables
    #[arg(long_help = "Ignore the configuration file and the variables that stand for options")]
    #[arg(long, global = true, display_order = 902)]
    no_config: bool,
    #[command(subcommand)]
    command: CommandArgs,
}

#[derive(Debug, clap::Subcommand)]
#[allow(clippy::large_enum_variant, reason = "only one value exists, and only briefly")]
enum CommandArgs {
    Convert(convert::Args),
    Info(info::Args),
    Inspect(inspect::Args),
    Preflight(preflight::Args),
    Map(map::Args),
    Ls(ls::Args),
    Create(create::Args),
    Compare(compare::Args),
    Check(check::Args),
    Measure(measure::Args),
    Resize(resize::Args),
    Dd(dd::Args),
    #[cfg(feature = "nbd")]
    Serve(serve::Args),
    Bench(bench::Args),
    Rebase(rebase::Args),
    Commit(commit::Args),
    Snapshot(snapshot::Args),
    Amend(amend::Args),
    Bitmap(bitmap::Args),
    Iso(iso::Args),
    /// Create an ISO image; takes the options of mkisofs.
    #[command(aliases = ["genisoimage", "xorrisofs"], disable_help_flag = true)]
    Mkisofs {
        /// Options of mkisofs (see -help) and files
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Work with ISO images; takes the commands of xorriso.
    #[command(alias = "osirrox", disable_help_flag = true)]
    Xorriso {
        /// Commands of xorriso (see -help)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Show the defaults set by the configuration.
    #[command(after_help = CONFIG)]
    Config,
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
    /// Print this text to standard output: the version or a list of options.
    Show(String),
    /// Print help to standard output.
    Help(StyledStr),
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
    /// `preflight`.
    Preflight(preflight::Job),
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
    /// `dd`.
    Dd(dd::Job),
    /// `serve`.
    #[cfg(feature = "nbd")]
    Serve(serve::Job),
    /// `bench`.
    Bench(bench::Job),
    /// `rebase`.
    Rebase(rebase::Job),
    /// `commit`.
    Commit(commit::Job),
    /// `snapshot`.
    Snapshot(snapshot::Job),
    /// `amend`.
    Amend(amend::Job),
    /// `bitmap`.
    Bitmap(bitmap::Job),
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
    /// `config`.
    Config(Settings),
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
const HELP: &str = "{about-with-newline}\n{usage-heading} {usage}\n\n\x1b[1m\x1b[4mOptions:\x1b[0m\n\
                    {options}{after-help}";

/// The headings of examples, which look like those of clap.
const HEADINGS: [(&str, &str); 2] = [
    ("Examples:\n", "\x1b[1m\x1b[4mExamples:\x1b[0m\n"),
    ("Example:\n", "\x1b[1m\x1b[4mExample:\x1b[0m\n"),
];

/// Returns the clap command, with the name the program was run as in usage and examples.
pub(crate) fn grammar(program: Program) -> clap::Command {
    let name = program.name();
    let usage = format!("{name} [OPTIONS] <COMMAND>");
    let grammar = rename_examples(Args::command(), name).name(name).bin_name(name);
    let grammar = match program {
        Program::Diskimg => grammar,
        // Accepted, but without effect: other programs have no configuration and no colors.
        _ => grammar
            .mut_arg("color", |arg| arg.hide(true))
            .mut_arg("no_config", |arg| arg.hide(true))
            .mut_subcommand("config", |command| command.hide(true)),
    };
    grammar.override_usage(usage).mut_subcommands(|command| match command.get_name() {
        // qemu-img has no such option.
        "map" if program == Program::QemuImg => {
            let command = command.mut_arg("html", |arg| arg.hide(true)).after_help(None::<&str>);
            with_usage(command, name, "", operands("map"))
        }
        "iso" => rename_examples(command, name)
            .override_usage(format!("{name} iso [OPTIONS] <COMMAND>"))
            .mut_subcommands(|command| {
                let operands = iso::operands(command.get_name());
                with_usage(command, name, "iso ", operands)
            }),
        other => {
            let (operands, hidden) =
                (operands(other), is_own(other) && program == Program::QemuImg);
            with_usage(command, name, "", operands).hide(hidden)
        }
    })
}

/// Sets the usage line and help template of a command; `parent` is the enclosing command's name and
/// a space, or empty.
fn with_usage(command: clap::Command, name: &str, parent: &str, operands: &str) -> clap::Command {
    let usage = format!("{name} {parent}{} [OPTIONS] {operands}", command.get_name());
    let usage = usage.trim_end().to_owned();
    rename_examples(command, name)
        .mut_args(allow_hyphen_values)
        .override_usage(usage)
        .help_template(HELP)
}

/// Returns true for commands that would be taken for qemu-img's, and are not.
fn is_own(command: &str) -> bool {
    matches!(command, "ls" | "preflight" | "serve")
}

/// Returns the operands of a command for its usage line.
fn operands(command: &str) -> &'static str {
    match command {
        "convert" => "SRC... DST",
        "compare" => "A B",
        "create" => "FILE [SIZE]",
        "measure" => "{FILE | --size SIZE}",
        "resize" => "FILE [+|-]SIZE",
        "bitmap" => "FILE BITMAP",
        "dd" => "if=FILE of=FILE [bs=SIZE] [skip=N] [count=N]",
        "mkisofs" => "[-o IMAGE] FILE...",
        "xorriso" => "COMMAND...",
        "completions" => "SHELL",
        "serve" => "{-k SOCKET | -p PORT} FILE",
        "config" => "",
        "man" => "[DIR]",
        "info" => "FILE...",
        "ls" => "IMAGE[:PARTITION] [PATH...]",
        _ => "FILE",
    }
}

/// Replaces `diskimg` with the program's name in the examples, and styles their headings.
fn rename_examples(command: clap::Command, name: &str) -> clap::Command {
    let examples = command
        .get_after_help()
        .map(|text| text.to_string().replace("diskimg ", &format!("{name} ")));
    match examples {
        Some(examples) => command.after_help(styled(&examples)),
        None => command,
    }
}

/// Returns text in which the headings of examples are styled.
fn styled(text: &str) -> StyledStr {
    let style = |text: String, (plain, styled): (&str, &str)| text.replace(plain, styled);
    HEADINGS.into_iter().fold(text.to_owned(), style).into()
}

/// Lets the value of an option begin with a hyphen, as getopt does.
fn allow_hyphen_values(arg: clap::Arg) -> clap::Arg {
    // Flags whose positions matter take no values.
    let is_flag = arg.get_num_args().is_some_and(|values| !values.takes_values());
    let takes_value = arg.get_action().takes_values() && !is_flag && !arg.is_positional();
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
pub(crate) fn parse(
    argv: Vec<OsString>,
    program: Program,
    settings: Settings,
) -> Result<Invocation, Failure> {
    if let Some(parsed) = mkisofs::parse(&argv, program) {
        return Ok(match (parsed?, settings.sandbox()) {
            (Invocation::Run(command, _), Some(sandbox)) => Invocation::Run(command, sandbox),
            (parsed, _) => parsed,
        });
    }
    let argv = expand_help(argv, program);
    let command_name = argv.get(1).and_then(|arg| arg.to_str()).map(str::to_owned);
    let command_name = command_name.map(|name| match argv.get(2).and_then(|arg| arg.to_str()) {
        Some(subcommand) if name == "iso" => format!("iso {subcommand}"),
        _ => name,
    });
    if program == Program::QemuImg
        && let Some(name) = command_name.as_deref().filter(|name| is_own(name))
    {
        let message = format!("Command not found: {name} (it is one of diskimg's own)");
        return Err(Failure::Usage { command: None, message });
    }
    let brief = !argv.iter().any(|arg| arg == "--help");
    let mut grammar = settings.apply(grammar(program));
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
        CommandArgs::Preflight(args) => run(args.parse()?, Command::Preflight),
        CommandArgs::Map(args) => run(args.parse(program)?, Command::Map),
        CommandArgs::Ls(args) => run(args.parse()?, Command::Ls),
        CommandArgs::Create(args) => run(args.parse(program)?, Command::Create),
        CommandArgs::Compare(args) => run(args.parse()?, Command::Compare),
        CommandArgs::Check(args) => run(args.parse()?, Command::Check),
        CommandArgs::Measure(args) => run(args.parse(program)?, Command::Measure),
        CommandArgs::Resize(args) => run(args.parse()?, Command::Resize),
        CommandArgs::Dd(args) => run(args.parse(program)?, Command::Dd),
        #[cfg(feature = "nbd")]
        CommandArgs::Serve(args) => run(args.parse()?, Command::Serve),
        CommandArgs::Bench(args) => run(args.parse()?, Command::Bench),
        CommandArgs::Rebase(args) => run(args.parse()?, Command::Rebase),
        CommandArgs::Commit(args) => run(args.parse()?, Command::Commit),
        CommandArgs::Snapshot(args) => run(args.parse()?, Command::Snapshot),
        CommandArgs::Amend(args) => run(args.parse()?, Command::Amend),
        CommandArgs::Bitmap(args) => run(args.parse()?, Command::Bitmap),
        CommandArgs::Iso(args) => args.parse()?,
        // Reached when run as qemu-img or with options before the command; otherwise mkisofs::parse
        // has handled the line above.
        CommandArgs::Mkisofs { args } => mkisofs::parse_args(&args, program)?,
        CommandArgs::Xorriso { args } => mkisofs::parse_xorriso(&args, program)?,
        CommandArgs::Config => run(Parsed::Job(settings), Command::Config),
        CommandArgs::Completions { shell } => run(Parsed::Job(shell), Command::Completions),
        CommandArgs::Man { dir } => run(Parsed::Job(dir), Command::Man),
    };
    Ok(match parsed {
        Invocation::Run(command, _) => Invocation::Run(command, args.sandbox),
        show => show,
    })
}

/// Returns the exit code of an error in the command line or the configuration.
pub(crate) fn usage_code(argv: &[OsString]) -> u8 {
    let is_word = |word: &&OsString| !word.as_encoded_bytes().starts_with(b"-");
    match argv.iter().skip(1).find(is_word) {
        Some(word) if word == "compare" => compare::CANNOT_OPEN,
        _ => 1,
    }
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

    /// Returns the names of all commands, and an empty one for the program's own help.
    fn all_names(grammar: &clap::Command) -> Vec<String> {
        let names = grammar.get_subcommands().flat_map(|command| {
            let nested = command.get_subcommands().map(|inner| inner.get_name());
            let name = command.get_name();
            let nested = nested.map(move |inner| format!("{name} {inner}"));
            std::iter::once(name.to_owned()).chain(nested)
        });
        std::iter::once(String::new()).chain(names).collect()
    }

    #[test]
    fn brief_help_fits_a_screen_of_80_columns_and_30_lines() {
        let grammar = grammar(Program::Diskimg).term_width(80);
        let names = all_names(&grammar);
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            let help = usage::brief_help(&grammar, &name).to_string();
            assert!(help.lines().count() <= 30, "{name}:\n{help}");
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        }
    }

    #[test]
    fn help_has_all_options_and_lines_of_at_most_100_columns() {
        let mut grammar = grammar(Program::Diskimg);
        grammar.build();
        let mut hidden = 0;
        for name in all_names(&grammar) {
            let brief = usage::brief_help(&grammar, &name).to_string();
            let command = usage::find(&grammar, &name).expect("exists");
            let all = usage::full_help(&grammar, &name).to_string();
            let shown = |help: &str, long: &str| {
                help.split([' ', '=', '[', '\n']).any(|word| word == format!("--{long}"))
            };
            for long in
                command.get_arguments().filter(|a| !a.is_hide_set()).filter_map(|a| a.get_long())
            {
                assert!(shown(&all, long), "{name} --help: --{long}\n{all}");
                hidden += usize::from(!shown(&brief, long));
            }
            assert_eq!(
                brief.contains("--help shows all options"),
                brief.len() < all.len(),
                "{name}"
            );
            assert!(all.lines().all(|line| line.chars().count() <= 100), "{name}: {all}");
        }
        assert!(hidden > 20, "only {hidden} options are left out of brief help");
    }
}
