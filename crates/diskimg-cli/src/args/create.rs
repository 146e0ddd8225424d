//! Arguments of `create`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs};
use crate::failure::Failure;
use crate::output::Program;
use diskimg::{ExternalFiles, Format, OpenOptions, Options};
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  diskimg create -f qcow2 disk.qcow2 10G
  diskimg create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2

SIZE is in bytes and may have a suffix k, M, G, T, P or E. '-o help' lists the options of the
format. Without SIZE, the size is that of the backing file. -U applies to the backing file.";

/// Create an empty image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The new image and its virtual size.
    #[arg(value_name = "FILE [SIZE]", value_hint = clap::ValueHint::FilePath)]
    operands: Vec<OsString>,
    /// Format of FILE (default: by extension)
    #[arg(long_help = "Format of FILE (default: from its extension, else raw)")]
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Options of the format ('help': a list)
    #[arg(long_help = "Set options of the format, which 'help' lists; repeatable")]
    #[arg(short, long, value_name = "NAME=VALUE,...")]
    options: Vec<String>,
    /// Use BASE as the backing file
    #[arg(short, long, value_name = "BASE")]
    backing: Option<String>,
    /// Format of the backing file
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,
    /// Do not open the backing file; requires SIZE
    #[arg(short = 'u', long)]
    backing_unsafe: bool,
    /// Write at most SIZE bytes, with reserved space
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// Check all, say what would be written
    #[arg(long_help = "Check everything, say what would be written, and change nothing")]
    #[arg(long)]
    dry_run: bool,
    /// Print only errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image_args: ImageArgs,
}

/// A new image.
#[derive(Debug)]
pub(crate) struct Job {
    /// The file name as given, for messages.
    pub(crate) path: PathBuf,
    /// `-f`.
    pub(crate) format: Format,
    /// Virtual size in bytes, if given.
    pub(crate) size: Option<u64>,
    /// `-o`, `-b` and `-F`.
    pub(crate) options: Options,
    /// How the backing file is opened.
    pub(crate) backing_options: OpenOptions,
    /// Files that the backing file may refer to.
    pub(crate) external_files: ExternalFiles,
    /// Files that may be parents.
    pub(crate) parents: Vec<PathBuf>,
    /// `-u`.
    pub(crate) unsafe_backing: bool,
    /// `--max-size`.
    pub(crate) max_size: Option<u64>,
    /// `--dry-run`.
    pub(crate) dry_run: bool,
    /// `-q`.
    pub(crate) quiet: bool,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self, program: Program) -> Result<Parsed<Job>, Failure> {
        self.image_args.require_file_names()?;
        let policy = self.image_args.policy()?;
        let format = common::new_format(self.format.as_deref(), self.operands.first(), program)?;
        let Some(mut options) = common::create_options(&self.options)? else {
            return Ok(Parsed::Show(common::options_help(format, !self.operands.is_empty())));
        };
        common::suggest_option(&options, format)?;
        common::set_qemu_defaults(&mut options, format, program);
        common::add_backing(&mut options, self.backing, self.backing_format)?;
        let mut operands = self.operands.into_iter();
        let (Some(path), size, None) = (operands.next(), operands.next(), operands.next()) else {
            return Err(Failure::usage("create", "Expecting FILE and at most one SIZE"));
        };
        common::require_no_url(path.as_ref())?;
        common::require_device(self.format.as_deref(), path.as_ref())?;
        let size = size.map(|s| common::size("image size", &s.to_string_lossy())).transpose()?;
        if size.is_some() && options.get("size").is_some() {
            return Err(Failure::error("The image size must be specified only once"));
        }
        Ok(Parsed::Job(Job {
            path: path.into(),
            format,
            size,
            options,
            backing_options: policy.options(),
            external_files: policy.external_files,
            parents: policy.parents,
            unsafe_backing: self.backing_unsafe,
            max_size: self
                .max_size
                .as_deref()
                .map(|s| common::size("--max-size", s))
                .transpose()?,
            dry_run: self.dry_run,
            quiet: self.quiet,
        }))
    }
}
