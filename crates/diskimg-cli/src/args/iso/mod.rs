//! `iso`: verbs about what is in an ISO image.

pub(crate) mod cat;
pub(crate) mod create;
pub(crate) mod diff;
pub(crate) mod extract;
pub(crate) mod ls;
pub(crate) mod remaster;
pub(crate) mod show;
pub(crate) mod verify;

use crate::args::common::{Form, Input, Reading};
use crate::args::{Command, Invocation, Parsed, run};
use crate::failure::Failure;
use diskimg::iso::{IsoOptions, Namespace, Session};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg iso ls -l debian.iso /boot
  diskimg iso create -V cidata -o seed.iso user-data meta-data
  diskimg iso extract -C out debian.iso

FILE may be an ISO image in any image format. 'diskimg iso COMMAND --help' tells more.";

/// List, extract, verify and build ISO images.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, subcommand_required = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, and it is consumed at once")]
enum Verb {
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
    /// What it means.
    pub(super) fn parsed(self) -> Result<Invocation, Failure> {
        Ok(match self.verb {
            Verb::Info(args) => run(Parsed::Job(args.job()?), Command::IsoShow),
            Verb::Boot(args) => run(Parsed::Job(args.job()?), Command::IsoShow),
            Verb::Ls(args) => run(Parsed::Job(args.job()?), Command::IsoLs),
            Verb::Cat(args) => run(Parsed::Job(args.job()?), Command::IsoCat),
            Verb::Extract(args) => run(Parsed::Job(args.job()?), Command::IsoExtract),
            Verb::Verify(args) => run(Parsed::Job(args.job()?), Command::IsoVerify),
            Verb::Diff(args) => run(Parsed::Job(args.job()?), Command::IsoDiff),
            Verb::Remaster(args) => run(Parsed::Job(args.job()?), Command::IsoRemaster),
            Verb::Create(args) => run(Parsed::Job(args.recipe()?), Command::IsoCreate),
        })
    }
}

/// What one of the verbs takes besides options.
pub(super) fn operands(verb: &str) -> &'static str {
    match verb {
        "ls" | "extract" => "FILE [PATH...]",
        "cat" => "FILE PATH...",
        "diff" => "A B",
        "create" => "-o IMAGE {DIR | FILE | PLACE=FILE}...",
        "remaster" => "FILE -o IMAGE",
        _ => "FILE",
    }
}

/// How an ISO image is opened: the same for every verb that reads one.
#[derive(Debug, clap::Args)]
pub(crate) struct Opening {
    /// Format of the file that holds the ISO image (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    #[command(flatten)]
    seeing: TreeArgs,
    #[command(flatten)]
    reading: Reading,
}

/// Which of the trees in an ISO image is seen.
#[derive(Debug, clap::Args)]
pub(crate) struct TreeArgs {
    /// Whose names: auto (default), rockridge, joliet, iso or udf
    #[arg(long, value_enum, value_name = "WHICH", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    namespace: NamespaceWord,
    /// last (default), first, or the one that begins with sector N
    #[arg(long, value_name = "last|first|N")]
    session: Option<String>,
    /// Put up with nothing that is wrong
    #[arg(long)]
    strict: bool,
}

/// [`Namespace`] as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum NamespaceWord {
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
    /// The file that holds it.
    pub(crate) input: Input,
    /// Which of its trees.
    pub(crate) options: IsoOptions,
}

impl Opening {
    /// The image in the file called `name`.
    pub(crate) fn input(&self, name: &OsString) -> Result<IsoInput, Failure> {
        let policy = self.reading.policy()?;
        let mut options = self.seeing.options()?;
        options.external_files = policy.external_files;
        options.limits = policy.limits.clone();
        Ok(IsoInput { input: Input::new(name, self.format.as_deref(), &policy)?, options })
    }

    /// The images in the only file, and the words behind it.
    pub(crate) fn first(
        &self,
        verb: &str,
        words: Vec<OsString>,
    ) -> Result<(IsoInput, Vec<OsString>), Failure> {
        // What is asked for may be help (`--limit help`), which takes no file.
        self.reading.policy()?;
        let mut words = words.into_iter();
        let file = words
            .next()
            .ok_or_else(|| Failure::usage(verb, "Expecting the name of an image file"))?;
        Ok((self.input(&file)?, words.collect()))
    }

    /// The image in the only file.
    pub(crate) fn only(&self, verb: &str, words: Vec<OsString>) -> Result<IsoInput, Failure> {
        match self.first(verb, words)? {
            (input, rest) if rest.is_empty() => Ok(input),
            _ => Err(Failure::usage(verb, "Expecting one image file name")),
        }
    }
}

impl TreeArgs {
    fn options(&self) -> Result<IsoOptions, Failure> {
        let mut options = IsoOptions::default();
        options.namespace = match self.namespace {
            NamespaceWord::Auto => Namespace::Auto,
            NamespaceWord::Rockridge => Namespace::RockRidge,
            NamespaceWord::Joliet => Namespace::Joliet,
            NamespaceWord::Iso => Namespace::Iso,
            NamespaceWord::Udf => Namespace::Udf,
        };
        options.session = match self.session.as_deref() {
            None | Some("last") => Session::Last,
            Some("first") => Session::First,
            Some(number) => Session::At(number.parse().map_err(|_| {
                Failure::error(format!("--session {number}: expecting last, first or a sector"))
            })?),
        };
        options.strict = self.strict;
        Ok(options)
    }
}

/// `--output`, as it stands with every verb that has it.
#[derive(Debug, clap::Args)]
pub(crate) struct OutputArgs {
    /// human (default) or json
    #[arg(long, value_enum, value_name = "FORM", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    pub(crate) output: Form,
}
