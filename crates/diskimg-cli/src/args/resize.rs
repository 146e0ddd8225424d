//! Arguments of `resize`.

use crate::args::Parsed;
use crate::args::common::{ImageArgs, Input};
use crate::failure::Failure;
use diskimg::{Format, NewSize, Preallocation};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg resize disk.qcow2 20G
  diskimg resize -f raw disk.raw +512M
  diskimg resize -f vmdk --fix-gpt disk.vmdk 20G

SIZE is in bytes and may have a suffix k, M, G, T, P or E. With + or -, it is relative to the
current size. Added bytes read as zeros; file systems are not changed, nor are partition tables
without --fix-gpt. The image is modified in place: if the command is interrupted, the disk has its
old or its new size, and all its data. No other process may use the image; -U applies to its
backing files only.";

/// Change the size of a disk.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<OsString>,
    /// Its new virtual size, which may begin with a hyphen.
    #[arg(value_name = "SIZE", allow_hyphen_values = true)]
    size: Option<OsString>,
    /// Too many operands.
    #[arg(hide = true)]
    rest: Vec<OsString>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Allow SIZE to be smaller, which deletes the data beyond
    #[arg(long)]
    shrink: bool,
    /// Move the backup of a GUID partition table to the new end
    #[arg(
        long_help = "Move the backup of a GUID partition table to the new end of the disk; with size \
                     +0, only that"
    )]
    #[arg(long)]
    fix_gpt: bool,
    /// Raw, qcow2, VMDK: allocate added bytes: off, metadata, falloc, full
    #[arg(
        long_help = "Allocate space for added bytes of raw, qcow2 and flat VMDK images: off (default), \
                     falloc, full; in qcow2 images also metadata"
    )]
    #[arg(long, value_name = "MODE")]
    preallocation: Option<String>,
    /// Print only errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image_args: ImageArgs,
}

/// An image and its new size.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// SIZE.
    pub(crate) size: NewSize,
    /// `--shrink`.
    pub(crate) shrink: bool,
    /// `--fix-gpt`.
    pub(crate) fix_gpt: bool,
    /// The format is named, and may consist of several files that are created or removed.
    pub(crate) may_have_parts: bool,
    /// `--preallocation`.
    pub(crate) preallocation: Preallocation,
    /// `-q`.
    pub(crate) quiet: bool,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let policy = self.image_args.policy()?;
        let (Some(file), Some(size), true) = (self.file, self.size, self.rest.is_empty()) else {
            return Err(Failure::usage("resize", "Expecting image file name and size"));
        };
        let input = Input::new(&file, self.format.as_deref(), &policy)?.into_file()?;
        let may_have_parts = input.format == Some(Format::Vmdk);
        Ok(Parsed::Job(Job {
            input,
            size: size.to_string_lossy().parse()?,
            shrink: self.shrink,
            fix_gpt: self.fix_gpt,
            may_have_parts,
            preallocation: match self.preallocation.as_deref() {
                Some(mode) => mode.parse()?,
                None => Preallocation::Off,
            },
            quiet: self.quiet,
        }))
    }
}
