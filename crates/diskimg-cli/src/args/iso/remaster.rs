//! `iso remaster`: what was args, and what it means.

use super::{IsoInput, Opening};
use crate::args::names;
use crate::args::recipe::{Destination, Graft};
use crate::failure::Failure;
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
All of FILE is kept: its tree, its label, how it starts a machine. What is
removed goes first; what is added replaces what has its path.

Example:
  diskimg iso remaster debian.iso -o auto.iso --add preseed.cfg=mine.cfg";

/// Make an ISO image anew, with other files.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// The new image; - is standard output
    #[arg(short, long, value_name = "IMAGE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Put this file, or what is in this directory, there; repeatable
    #[arg(short, long, value_name = "PLACE=FILE")]
    add: Vec<OsString>,
    /// Leave out this file or directory; repeatable
    #[arg(short, long, value_name = "PATH")]
    remove: Vec<OsString>,
    /// Its label (default: as it is)
    #[arg(short = 'V', long, value_name = "LABEL")]
    volume_id: Option<String>,
    /// Say nothing of names that had to be changed
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    opening: Opening,
}

/// What to make anew.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: IsoInput,
    /// What to take out of it.
    pub(crate) removed: Vec<Vec<u8>>,
    /// What to put into it.
    pub(crate) added: Vec<Graft>,
    /// Its label, if it gets another.
    pub(crate) volume_id: Option<String>,
    /// Where the new one goes.
    pub(crate) output: Destination,
    /// `-q`.
    pub(crate) quiet: bool,
}

impl Args {
    /// What it means.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let input = self.opening.only("iso remaster", self.files)?;
        let output = Destination::args(self.output, "iso remaster")?;
        Ok(Job {
            input,
            removed: self.remove.iter().map(|path| names::bytes(path)).collect::<Result<_, _>>()?,
            added: self.add.iter().map(|word| Graft::parse(word)).collect::<Result<_, _>>()?,
            volume_id: self.volume_id,
            output,
            quiet: self.quiet,
        })
    }
}
