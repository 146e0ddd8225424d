//! `iso ls`: what was args, and what it means.

use super::{IsoInput, Opening, OutputArgs};
use crate::args::common::Form;
use crate::args::names;
use crate::failure::Failure;
use std::ffi::OsString;

const EXAMPLES: &str = "\
With -R, or more than one PATH, names are paths from the root. Control
characters in names are escaped; -0 gives names as they are.

Example:
  diskimg iso ls -lR debian.iso";

/// List files and directories.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image, and what to list in it (default: the root)
    #[arg(value_name = "FILE [PATH...]", value_hint = clap::ValueHint::FilePath)]
    words: Vec<OsString>,
    /// Permissions, owners, sizes, times (UTC) and where links lead
    #[arg(short, long)]
    long: bool,
    /// What is in directories, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// End names with NUL, and escape nothing
    #[arg(short = '0', long)]
    null: bool,
    #[command(flatten)]
    telling: OutputArgs,
    #[command(flatten)]
    opening: Opening,
}

/// What to list.
#[derive(Debug)]
pub(crate) struct Job {
    /// Of which image.
    pub(crate) input: IsoInput,
    /// Paths in it; none: the root.
    pub(crate) paths: Vec<Vec<u8>>,
    /// `-l`.
    pub(crate) long: bool,
    /// `-R`.
    pub(crate) recursive: bool,
    /// `-0`.
    pub(crate) null: bool,
    /// In which form.
    pub(crate) form: Form,
}

impl Args {
    /// What it means.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let (input, rest) = self.opening.first("iso ls", self.words)?;
        if self.null && self.telling.output == Form::Json {
            return Err(Failure::usage("iso ls", "-0 is for people's form, not for JSON"));
        }
        Ok(Job {
            input,
            paths: rest.iter().map(|word| names::bytes(word)).collect::<Result<_, _>>()?,
            long: self.long,
            recursive: self.recursive,
            null: self.null,
            form: self.telling.output,
        })
    }
}
