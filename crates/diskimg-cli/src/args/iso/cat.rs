//! `iso cat`: what was args, and what it means.

use super::{IsoInput, Opening};
use crate::args::names;
use crate::failure::Failure;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Example:
  diskimg iso cat seed.iso user-data";

/// Write files' contents to standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image, and the files in it
    #[arg(value_name = "FILE PATH...", value_hint = clap::ValueHint::FilePath)]
    words: Vec<OsString>,
    #[command(flatten)]
    opening: Opening,
}

/// What to write.
#[derive(Debug)]
pub(crate) struct Job {
    /// Of which image.
    pub(crate) input: IsoInput,
    /// Paths in it.
    pub(crate) paths: Vec<Vec<u8>>,
}

impl Args {
    /// What it means.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let (input, rest) = self.opening.first("iso cat", self.words)?;
        if rest.is_empty() {
            return Err(Failure::usage("iso cat", "Expecting a path in the image"));
        }
        let paths = rest.iter().map(|word| names::bytes(word)).collect::<Result<_, _>>()?;
        Ok(Job { input, paths })
    }
}
