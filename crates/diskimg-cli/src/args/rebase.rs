//! Arguments of `rebase`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input};
use crate::failure::Failure;
use crate::output::progress::{ProgressFormat, ProgressMode};
use diskimg::{Backing, Caching, OpenOptions};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg rebase -f qcow2 -b new-base.qcow2 -F qcow2 overlay.qcow2
  diskimg rebase -f qcow2 -b '' overlay.qcow2

The disk keeps its content: what the old and the new backing file show differently is written into
FILE, in place. With an empty name, FILE has no backing file afterwards. A relative BASE is relative
to the directory of FILE. If the command is interrupted, the disk has the same content, on the old
or the new backing file. No other process may use FILE; -U applies to backing files only.";

/// Change the backing file of an image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// The new backing file; '': none
    #[arg(short, long, value_name = "BASE", value_hint = clap::ValueHint::FilePath)]
    backing: Option<String>,
    /// Format of BASE
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,
    /// Change only the name: the disk has another content unless both files have the same
    #[arg(short = 'u', long)]
    backing_unsafe: bool,
    /// Compress what is written
    #[arg(short, long)]
    compress: bool,
    /// Cache mode of FILE
    #[arg(long_help = "FILE's cache mode: none, directsync (direct I/O)")]
    #[arg(short = 't', long, value_name = "MODE")]
    cache: Option<String>,
    /// Cache mode of BASE
    #[arg(long_help = "Cache mode of BASE: as for -t")]
    #[arg(short = 'T', long, value_name = "MODE")]
    backing_cache: Option<String>,
    /// Print percentages, or JSON (=json)
    #[arg(long_help = "Print (12.34/100%), or lines of JSON to standard error (=json)")]
    #[arg(short, long, value_name = "FORMAT", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "text", hide_possible_values = true)]
    progress: Option<ProgressFormat>,
    /// Print only errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image_args: ImageArgs,
}

/// An image and its new backing file.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// `-b` and `-F`.
    pub(crate) backing: Option<Backing>,
    /// How the new backing file is opened.
    pub(crate) backing_options: OpenOptions,
    /// `-u`.
    pub(crate) header_only: bool,
    /// `-c`.
    pub(crate) compress: bool,
    /// `-t`.
    pub(crate) caching: Caching,
    /// `-p`, `-q`.
    pub(crate) progress: ProgressMode,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let file = common::single_file("rebase", self.files)?;
        if self.backing.is_none() && !self.backing_unsafe {
            let message = "Must specify backing file (-b) or use unsafe mode (-u)";
            return Err(Failure::usage("rebase", message));
        }
        let policy = self.image_args.policy()?;
        common::check_cache_mode("cache", self.cache.as_deref())?;
        common::check_cache_mode("source cache", self.backing_cache.as_deref())?;
        let input = Input::new(&file, self.format.as_deref(), &policy)?.into_file()?;
        let format = self.backing_format.map(|name| {
            let format = common::format(&name)?;
            // QEMU's drivers for devices are recorded as they are.
            Ok::<_, Failure>(match name.starts_with("host_") {
                true => name,
                false => format.name().to_owned(),
            })
        });
        let format = format.transpose()?;
        let backing = self.backing.filter(|name| !name.is_empty()).map(|name| {
            let backing = Backing::new(name);
            match format {
                Some(format) => backing.with_format(format),
                None => backing,
            }
        });
        Ok(Parsed::Job(Job {
            input,
            backing,
            backing_options: policy
                .options()
                .caching(common::caching(self.backing_cache.as_deref())),
            header_only: self.backing_unsafe,
            compress: self.compress,
            caching: common::caching(self.cache.as_deref()),
            progress: ProgressMode {
                requested: self.progress,
                quiet: self.quiet,
                stdout_taken: false,
            },
        }))
    }
}
