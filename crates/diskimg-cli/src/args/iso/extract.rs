//! Arguments of `iso extract`.

use super::{IsoArgs, IsoInput};
use crate::args::{common, names};
use crate::failure::Failure;
use diskimg::iso::ExtractOptions;
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
PATH is a file, or a directory whose entries are extracted into DIR. Nothing is written outside
DIR, whatever names and links the image contains. By default, times and permissions are restored;
set-ID and sticky bits, owners and devices are not.

Example:
  diskimg iso extract -C boot debian.iso /boot";

/// Extract files and directories from an ISO image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image, and paths in it (default: all files).
    #[arg(value_name = "FILE [PATH...]", value_hint = clap::ValueHint::FilePath)]
    operands: Vec<OsString>,
    /// Extract into DIR; create it if needed (default: .)
    #[arg(short = 'C', long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    directory: Option<PathBuf>,
    /// Overwrite existing files
    #[arg(long)]
    overwrite: bool,
    /// Do not restore times and permissions
    #[arg(long)]
    no_preserve: bool,
    /// Also restore set-ID and sticky bits
    #[arg(long, conflicts_with = "no_preserve")]
    preserve: bool,
    /// Also restore owners and groups; requires root
    #[arg(long)]
    owner: bool,
    /// Also create devices (requires root), named pipes and sockets
    #[arg(long)]
    devices: bool,
    /// Skip symbolic links
    #[arg(long)]
    no_links: bool,
    /// Fail if the files have more than SIZE bytes in total (default: 256G)
    #[arg(long, value_name = "SIZE")]
    max_bytes: Option<String>,
    /// Print the path of each file and directory before it is extracted
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    iso_args: IsoArgs,
}

/// What to extract.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: IsoInput,
    /// Paths in the image; empty for all files.
    pub(crate) paths: Vec<Vec<u8>>,
    /// `-C`.
    pub(crate) directory: PathBuf,
    /// Options of the extraction.
    pub(crate) options: ExtractOptions,
    /// `-v`.
    pub(crate) verbose: bool,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let (input, paths) = self.iso_args.input_and_paths("iso extract", self.operands)?;
        let mut options = ExtractOptions::default();
        options.overwrite = self.overwrite;
        options.modes = !self.no_preserve;
        options.times = !self.no_preserve;
        options.special_modes = self.preserve;
        options.owners = self.owner;
        options.devices = self.devices;
        options.symlinks = !self.no_links;
        if let Some(text) = &self.max_bytes {
            options.max_bytes = common::size("number of bytes", text)?;
        }
        Ok(Job {
            input,
            paths: paths.iter().map(|path| names::bytes(path)).collect::<Result<_, _>>()?,
            directory: self.directory.unwrap_or_else(|| ".".into()),
            options,
            verbose: self.verbose,
        })
    }
}
