//! Arguments of `iso remaster`.

use super::{IsoArgs, IsoInput};
use crate::args::names;
use crate::args::recipe::{Destination, Graft};
use crate::failure::Failure;
use diskimg::iso::Droppable;
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
The files, label and boot configuration of FILE are kept unless changed by options: boot images,
boot code and partitions. A part of it that cannot be kept is an error; --drop leaves it out.
Removals are applied before additions; an added file replaces an existing one at the same path.

Example:
  diskimg iso remaster debian.iso -o auto.iso --add preseed.cfg=mine.cfg";

/// Rebuild an ISO image with files added or removed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Write the new image to IMAGE; '-' is standard output
    #[arg(short, long, value_name = "IMAGE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Add FILE, or the entries of directory FILE, at PLACE; repeatable
    #[arg(short, long, value_name = "PLACE=FILE")]
    add: Vec<OsString>,
    /// Remove the file or directory PATH; repeatable
    #[arg(short, long, value_name = "PATH")]
    remove: Vec<OsString>,
    /// Volume label (default: unchanged)
    #[arg(short = 'V', long, value_name = "LABEL")]
    volume_id: Option<String>,
    /// Leave out PART if it cannot be kept: hfsplus, partitions or system-area; repeatable
    #[arg(long, value_name = "PART", hide_possible_values = true)]
    drop: Vec<Droppable>,
    /// Print only errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    iso_args: IsoArgs,
}

/// What to rebuild.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: IsoInput,
    /// `--remove`.
    pub(crate) removed: Vec<Vec<u8>>,
    /// `--add`.
    pub(crate) added: Vec<Graft>,
    /// `-V`.
    pub(crate) volume_id: Option<String>,
    /// `-o`.
    pub(crate) output: Destination,
    /// `--drop`.
    pub(crate) drop: Vec<Droppable>,
    /// `-q`.
    pub(crate) quiet: bool,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let input = self.iso_args.single_input("iso remaster", self.files)?;
        let output = Destination::from_arg(self.output, "iso remaster")?;
        Ok(Job {
            input,
            removed: self.remove.iter().map(|path| names::bytes(path)).collect::<Result<_, _>>()?,
            added: self.add.iter().map(|arg| Graft::parse(arg)).collect::<Result<_, _>>()?,
            volume_id: self.volume_id,
            output,
            drop: self.drop,
            quiet: self.quiet,
        })
    }
}
