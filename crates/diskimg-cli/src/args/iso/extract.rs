//! `iso extract`: what was args, and what it means.

use super::{IsoInput, Opening};
use crate::args::{common, names};
use crate::failure::Failure;
use diskimg::iso::ExtractOptions;
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
PATH is a file, or a directory: what is in it goes into DIR. Nothing is written
outside of DIR, whatever names and links the image has. Times and permissions
are the image's; set-id and sticky bits, owners and devices only when asked for.

Example:
  diskimg iso extract -C boot debian.iso /boot";

/// Extract files and directories.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image, and what to extract from it (default: all)
    #[arg(value_name = "FILE [PATH...]", value_hint = clap::ValueHint::FilePath)]
    words: Vec<OsString>,
    /// Where to; made if it is not there (default: here)
    #[arg(short = 'C', long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    directory: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    overwrite: bool,
    /// Times and permissions as new files have them
    #[arg(long)]
    no_preserve: bool,
    /// Set-id and sticky bits, too
    #[arg(long, conflicts_with = "no_preserve")]
    preserve: bool,
    /// Owners and groups, too: needs root
    #[arg(long)]
    owner: bool,
    /// Devices, named pipes and sockets, too: needs root
    #[arg(long)]
    devices: bool,
    /// No symbolic links
    #[arg(long)]
    no_links: bool,
    /// At most so many bytes in all (default: 256G)
    #[arg(long, value_name = "SIZE")]
    max_bytes: Option<String>,
    /// Tell what is extracted
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    opening: Opening,
}

/// What to extract.
#[derive(Debug)]
pub(crate) struct Job {
    /// From which image.
    pub(crate) input: IsoInput,
    /// Paths in it; none: all.
    pub(crate) paths: Vec<Vec<u8>>,
    /// Into which directory.
    pub(crate) directory: PathBuf,
    /// How.
    pub(crate) options: ExtractOptions,
    /// `-v`.
    pub(crate) verbose: bool,
}

impl Args {
    /// What it means.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let (input, rest) = self.opening.first("iso extract", self.words)?;
        let mut options = ExtractOptions::default();
        options.overwrite = self.overwrite;
        options.modes = !self.no_preserve;
        options.times = !self.no_preserve;
        options.special_modes = self.preserve;
        options.owners = self.owner;
        options.devices = self.devices;
        options.symlinks = !self.no_links;
        if let Some(text) = &self.max_bytes {
            options.most_bytes = common::size("number of bytes", text)?;
        }
        Ok(Job {
            input,
            paths: rest.iter().map(|word| names::bytes(word)).collect::<Result<_, _>>()?,
            directory: self.directory.unwrap_or_else(|| ".".into()),
            options,
            verbose: self.verbose,
        })
    }
}
