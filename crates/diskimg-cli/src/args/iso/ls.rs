//! Arguments of `iso ls`.

use super::{IsoArgs, IsoInput, OutputArgs};
use crate::args::common::OutputFormat;
use crate::args::names;
use crate::failure::Failure;
use std::ffi::OsString;

const EXAMPLES: &str = "\
With -R or several PATH, full paths are printed. Control characters in names are escaped unless
-0 is given.

Example:
  diskimg iso ls -lR debian.iso";

/// List files and directories of an ISO image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image, and paths in it (default: the root directory).
    #[arg(value_name = "FILE [PATH...]", value_hint = clap::ValueHint::FilePath)]
    operands: Vec<OsString>,
    /// Also print permissions, owners, sizes, times (UTC) and link targets
    #[arg(short, long)]
    long: bool,
    /// List directories recursively
    #[arg(short = 'R', long)]
    recursive: bool,
    /// End names with NUL and do not escape them
    #[arg(short = '0', long)]
    null: bool,
    #[command(flatten)]
    output_args: OutputArgs,
    #[command(flatten)]
    iso_args: IsoArgs,
}

/// What to list.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: IsoInput,
    /// Paths in the image; empty for the root directory.
    pub(crate) paths: Vec<Vec<u8>>,
    /// `-l`.
    pub(crate) long: bool,
    /// `-R`.
    pub(crate) recursive: bool,
    /// `-0`.
    pub(crate) null: bool,
    /// `--output`.
    pub(crate) output: OutputFormat,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let (input, paths) = self.iso_args.input_and_paths("iso ls", self.operands)?;
        if self.null && self.output_args.output == OutputFormat::Json {
            return Err(Failure::usage("iso ls", "-0 cannot be used with --output=json"));
        }
        Ok(Job {
            input,
            paths: paths.iter().map(|path| names::bytes(path)).collect::<Result<_, _>>()?,
            long: self.long,
            recursive: self.recursive,
            null: self.null,
            output: self.output_args.output,
        })
    }
}
