//! Arguments of `commit`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input};
use crate::failure::Failure;
use crate::output::progress::{ProgressFormat, ProgressMode};
use diskimg::Caching;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg commit -f qcow2 overlay.qcow2
  diskimg commit -f qcow2 -d -b base.raw top.qcow2

What FILE stores is written into its backing file, in place, and FILE is emptied. With -b, BASE gets
what FILE and all images between them store; these must not be used afterwards. BASE is made larger
if FILE is. If the command is interrupted, the disk has the same content, seen through FILE; run it
again. No other process may use FILE and BASE; -U applies to other files only.";

/// Write what an image stores into its backing file.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// The backing file to write, any of the chain; implies -d
    #[arg(short, long, value_name = "BASE", value_hint = clap::ValueHint::FilePath)]
    base: Option<String>,
    /// Do not empty FILE
    #[arg(short, long)]
    drop: bool,
    /// Write at most BYTES per second
    #[arg(short, long, value_name = "BYTES")]
    rate: Option<String>,
    /// Cache mode of BASE
    #[arg(long_help = "Cache mode of BASE: none, directsync (direct I/O)")]
    #[arg(short = 't', long, value_name = "MODE")]
    cache: Option<String>,
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

/// An image whose data is written into a backing file.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// `-b`.
    pub(crate) base: Option<String>,
    /// `-d`.
    pub(crate) keep: bool,
    /// `-r`.
    pub(crate) rate: Option<u64>,
    /// `-t`.
    pub(crate) caching: Caching,
    /// `-p`, `-q`.
    pub(crate) progress: ProgressMode,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let file = common::single_file("commit", self.files)?;
        let policy = self.image_args.policy()?;
        common::check_cache_mode("cache", self.cache.as_deref())?;
        let input = Input::new(&file, self.format.as_deref(), &policy)?.into_file()?;
        Ok(Parsed::Job(Job {
            input,
            base: self.base,
            keep: self.drop,
            rate: self.rate.as_deref().map(|r| common::size("rate limit", r)).transpose()?,
            caching: common::caching(self.cache.as_deref()),
            progress: ProgressMode {
                requested: self.progress,
                quiet: self.quiet,
                stdout_taken: false,
            },
        }))
    }
}
