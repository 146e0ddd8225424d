//! Arguments of `iso cat`.

use super::{IsoArgs, IsoInput};
use crate::args::{common, names};
use crate::failure::Failure;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Example:
  diskimg iso cat seed.iso user-data";

/// Print the contents of files in an ISO image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image, and paths of files in it.
    #[arg(value_name = "FILE PATH...", value_hint = clap::ValueHint::FilePath)]
    operands: Vec<OsString>,
    /// Fail if the files have more than SIZE bytes in total (default: no limit)
    #[arg(long, value_name = "SIZE")]
    max_bytes: Option<String>,
    #[command(flatten)]
    iso_args: IsoArgs,
}

/// Which files to print.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: IsoInput,
    /// Paths in the image.
    pub(crate) paths: Vec<Vec<u8>>,
    /// `--max-bytes`.
    pub(crate) max_bytes: Option<u64>,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let (input, paths) = self.iso_args.input_and_paths("iso cat", self.operands)?;
        if paths.is_empty() {
            return Err(Failure::usage("iso cat", "Expecting a path in the image"));
        }
        let paths = paths.iter().map(|path| names::bytes(path)).collect::<Result<_, _>>()?;
        let max_bytes = self.max_bytes.map(|text| common::size("number of bytes", &text));
        Ok(Job { input, paths, max_bytes: max_bytes.transpose()? })
    }
}
