//! `iso diff`: what was args, and what it means.

use super::{IsoInput, Opening, OutputArgs};
use crate::args::common::Form;
use crate::failure::Failure;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Each is an image or a directory. Names, kinds, sizes, permissions and links are
compared; not what only one of them records, nor permissions with a directory.

Exit code: 0 the same, 1 different, 2 trouble.

Example:
  diskimg iso diff --content old.iso new.iso";

/// Exit code when it did not come to a comparison: 1 would say "different".
pub(crate) const TROUBLE: u8 = 2;

/// Compare the trees of two images.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Images or directories
    #[arg(value_name = "A B", value_hint = clap::ValueHint::AnyPath)]
    files: Vec<OsString>,
    /// What is in the files, too
    #[arg(short, long)]
    content: bool,
    /// Say nothing: the exit code tells
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    telling: OutputArgs,
    #[command(flatten)]
    opening: Opening,
}

/// A comparison.
#[derive(Debug)]
pub(crate) struct Job {
    /// One tree, and the other.
    pub(crate) sides: [Side; 2],
    /// `--content`.
    pub(crate) content: bool,
    /// `-q`.
    pub(crate) quiet: bool,
    /// In which form.
    pub(crate) form: Form,
}

/// A tree to be compared.
#[derive(Debug)]
pub(crate) enum Side {
    /// That of an image.
    Image(Box<IsoInput>),
    /// What is in a directory of the host.
    Directory(PathBuf),
}

impl Args {
    /// What it means.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let [a, b] = <[OsString; 2]>::try_from(self.files)
            .map_err(|_| Failure::usage("iso diff", "Expecting two image file names"))?;
        let side = |name: &OsString| -> Result<Side, Failure> {
            Ok(match Path::new(name).is_dir() {
                true => Side::Directory(name.into()),
                false => Side::Image(Box::new(self.opening.input(name)?)),
            })
        };
        let sides = side(&a).and_then(|a| Ok([a, side(&b)?]));
        Ok(Job {
            sides: sides.map_err(|e| e.with_code(TROUBLE))?,
            content: self.content,
            quiet: self.quiet,
            form: self.telling.output,
        })
    }
}
