//! Arguments of `iso diff`.

use super::{IsoArgs, IsoInput, OutputArgs};
use crate::args::common::OutputFormat;
use crate::failure::Failure;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
A and B are images or directories. Names, types, sizes and link targets are compared and, if A and B
are both images, permissions and device numbers. What only one side records is not compared.

Exit code: 0 identical, 1 different, 2 cannot compare.

Example:
  diskimg iso diff --content old.iso new.iso";

/// Exit code if the comparison fails; 1 would mean "different".
pub(crate) const CANNOT_COMPARE: u8 = 2;

/// Compare the files of two ISO images or directories.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Images or directories.
    #[arg(value_name = "A B", value_hint = clap::ValueHint::AnyPath)]
    files: Vec<OsString>,
    /// Also compare the contents of files
    #[arg(short, long)]
    content: bool,
    /// Print only errors; report through the exit code
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    output_args: OutputArgs,
    #[command(flatten)]
    iso_args: IsoArgs,
}

/// A comparison.
#[derive(Debug)]
pub(crate) struct Job {
    /// The two sides, A and B.
    pub(crate) sides: [Side; 2],
    /// `--content`.
    pub(crate) content: bool,
    /// `-q`.
    pub(crate) quiet: bool,
    /// `--output`.
    pub(crate) output: OutputFormat,
}

/// A directory tree to compare.
#[derive(Debug)]
pub(crate) enum Side {
    /// The tree of an image.
    Image(Box<IsoInput>),
    /// A host directory.
    Directory(PathBuf),
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let [a, b] = <[OsString; 2]>::try_from(self.files)
            .map_err(|_| Failure::error("Expecting two images or directories"))
            .map_err(|e| e.with_code(CANNOT_COMPARE))?;
        let side = |name: &OsString| -> Result<Side, Failure> {
            Ok(match Path::new(name).is_dir() {
                true => Side::Directory(name.into()),
                false => Side::Image(Box::new(self.iso_args.input(name)?)),
            })
        };
        let sides = side(&a).and_then(|a| Ok([a, side(&b)?]));
        Ok(Job {
            sides: sides.map_err(|e| e.with_code(CANNOT_COMPARE))?,
            content: self.content,
            quiet: self.quiet,
            output: self.output_args.output,
        })
    }
}
