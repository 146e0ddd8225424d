//! `iso verify`: what was args, and what it means.

use super::{IsoInput, Opening, OutputArgs};
use crate::args::common::Form;
use crate::failure::Failure;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Exit code: 0 nothing but notes, 1 cannot verify, 2 errors: something cannot be
read, 3 warnings: some readers may stumble.

Example:
  diskimg iso verify debian.iso";

/// Look for all that is wrong in an ISO image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Say nothing of mere notes
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    telling: OutputArgs,
    #[command(flatten)]
    opening: Opening,
}

/// What to verify.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: IsoInput,
    /// In which form to report.
    pub(crate) form: Form,
    /// `-q`.
    pub(crate) quiet: bool,
}

impl Args {
    /// What it means.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let input = self.opening.only("iso verify", self.files)?;
        Ok(Job { input, form: self.telling.output, quiet: self.quiet })
    }
}
