//! Arguments of `iso verify`.

use super::{IsoArgs, IsoInput, OutputArgs};
use crate::args::common::OutputFormat;
use crate::failure::Failure;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Exit code: 0 no errors or warnings, 1 cannot verify, 2 errors (some data cannot be read),
3 warnings only (some systems may be unable to read the image).

Example:
  diskimg iso verify debian.iso";

/// Check an ISO image for defects.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Do not print notes
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    output_args: OutputArgs,
    #[command(flatten)]
    iso_args: IsoArgs,
}

/// What to verify.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: IsoInput,
    /// `--output`.
    pub(crate) output: OutputFormat,
    /// `-q`.
    pub(crate) quiet: bool,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let input = self.iso_args.single_input("iso verify", self.files)?;
        Ok(Job { input, output: self.output_args.output, quiet: self.quiet })
    }
}
