//! Arguments of the `iso` commands.

pub(crate) mod cat;
pub(crate) mod create;
pub(crate) mod diff;
pub(crate) mod extract;
pub(crate) mod ls;
pub(crate) mod remaster;
pub(crate) mod show;
pub(crate) mod verify;

use crate::args::common::{ImageArgs, Input, OutputFormat};
use crate::args::{Command, Invocation, Parsed, run};
use crate::failure::Failure;
use crate::remote::NetworkArgs;
use diskimg::iso::{IsoOptions, Namespace};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg iso ls -l debian.iso /boot
  diskimg iso create -V cidata -o seed.iso user-data meta-data
  diskimg iso extract -C out debian.iso

FILE may be an ISO image stored in any supported image format. See 'diskimg iso COMMAND --help'.";

/// List, extract, verify and create ISO images.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, subcommand_required = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: CommandArgs,
}

#[derive(Debug, clap::Subcommand)]
#[allow(clippy::large_enum_variant, reason = "only one value exists, and only briefly")]
enum CommandArgs {
    Info(show::Info),
    Boot(show::Boot),
    Ls(ls::Args),
    Cat(cat::Args),
    Extract(extract::Args),
    Verify(verify::Args),
    Diff(diff::Args),
    Create(create::Args),
    Remaster(remaster::Args),
}

impl Args {
    /// Validates the arguments.
    pub(super) fn parse(self) -> Result<Invocation, Failure> {
        Ok(match self.command {
            CommandArgs::Info(args) => run(Parsed::Job(args.job()?), Command::IsoShow),
            CommandArgs::Boot(args) => run(Parsed::Job(args.job()?), Command::IsoShow),
            CommandArgs::Ls(args) => run(Parsed::Job(args.job()?), Command::IsoLs),
            CommandArgs::Cat(args) => run(Parsed::Job(args.job()?), Command::IsoCat),
            CommandArgs::Extract(args) => run(Parsed::Job(args.job()?), Command::IsoExtract),
            CommandArgs::Verify(args) => run(Parsed::Job(args.job()?), Command::IsoVerify),
            CommandArgs::Diff(args) => run(Parsed::Job(args.job()?), Command::IsoDiff),
            CommandArgs::Remaster(args) => run(Parsed::Job(args.job()?), Command::IsoRemaster),
            CommandArgs::Create(args) => {
                run(Parsed::Job(Box::new(args.recipe()?)), Command::IsoCreate)
            }
        })
    }
}

/// Returns the operands of an `iso` command for its usage line.
pub(super) fn operands(command: &str) -> &'static str {
    match command {
        "ls" | "extract" => "FILE [PATH...]",
        "cat" => "FILE PATH...",
        "diff" => "A B",
        "create" => "-o IMAGE {DIR | FILE | PLACE=FILE}...",
        "remaster" => "FILE -o IMAGE",
        _ => "FILE",
    }
}

/// Options of every command that reads an ISO image.
#[derive(Debug, clap::Args)]
pub(crate) struct IsoArgs {
    /// Format of the file that contains the image, such as qcow2 (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    #[command(flatten)]
    tree_args: TreeArgs,
    #[command(flatten)]
    image_args: ImageArgs,
    #[command(flatten)]
    network_args: NetworkArgs,
}

/// Options that select a directory tree of an ISO image.
#[derive(Debug, clap::Args)]
pub(crate) struct TreeArgs {
    /// Names to use: auto, rockridge, joliet, iso, udf (default: auto)
    #[arg(long, value_enum, value_name = "NAME", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    namespace: NamespaceArg,
    /// Session: last, first, or the one that starts at sector N (default: last)
    #[arg(long, value_name = "last|first|N")]
    session: Option<String>,
    /// Fail on defects that are tolerated by default
    #[arg(long)]
    strict: bool,
}

/// Values of `--namespace`; see [`Namespace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum NamespaceArg {
    #[default]
    Auto,
    #[value(alias = "rock-ridge", alias = "rr")]
    Rockridge,
    Joliet,
    Iso,
    Udf,
}

/// An ISO image to be opened.
#[derive(Debug)]
pub(crate) struct IsoInput {
    /// The file that contains it.
    pub(crate) input: Input,
    /// How to read it.
    pub(crate) options: IsoOptions,
}

impl IsoArgs {
    /// Returns the ISO image in the file `name`.
    pub(crate) fn input(&self, name: &OsString) -> Result<IsoInput, Failure> {
        let policy = self.image_args.policy()?.with_network(self.network_args.clone());
        let mut options = self.tree_args.options()?;
        options.external_files = policy.external_files;
        options.limits = policy.limits.clone();
        Ok(IsoInput { input: Input::new(name, self.format.as_deref(), &policy)?, options })
    }

    /// Returns the ISO image that the first operand names, and the other operands.
    pub(crate) fn input_and_paths(
        &self,
        command: &str,
        operands: Vec<OsString>,
    ) -> Result<(IsoInput, Vec<OsString>), Failure> {
        // `--limit help` needs no file.
        self.image_args.policy()?;
        let mut operands = operands.into_iter();
        let file = operands
            .next()
            .ok_or_else(|| Failure::usage(command, "Expecting an image file name"))?;
        Ok((self.input(&file)?, operands.collect()))
    }

    /// Returns the ISO image that the only operand names.
    pub(crate) fn single_input(
        &self,
        command: &str,
        operands: Vec<OsString>,
    ) -> Result<IsoInput, Failure> {
        match self.input_and_paths(command, operands)? {
            (input, rest) if rest.is_empty() => Ok(input),
            _ => Err(Failure::usage(command, "Expecting one image file name")),
        }
    }
}

impl TreeArgs {
    fn options(&self) -> Result<IsoOptions, Failure> {
        let mut options = IsoOptions::default();
        options.namespace = match self.namespace {
            NamespaceArg::Auto => Namespace::Auto,
            NamespaceArg::Rockridge => Namespace::RockRidge,
            NamespaceArg::Joliet => Namespace::Joliet,
            NamespaceArg::Iso => Namespace::Iso,
            NamespaceArg::Udf => Namespace::Udf,
        };
        if let Some(session) = &self.session {
            let parsed = session.parse();
            options.session = parsed.map_err(|e| Failure::error(format!("--session: {e}")))?;
        }
        options.strict = self.strict;
        Ok(options)
    }
}

/// The option `--output`.
#[derive(Debug, clap::Args)]
pub(crate) struct OutputArgs {
    /// Output format (default: human)
    #[arg(long, value_enum, value_name = "human|json", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    pub(crate) output: OutputFormat,
}
