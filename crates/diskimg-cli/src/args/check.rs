//! Arguments of `check`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input, OutputFormat};
use crate::failure::Failure;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Exit code: 0 consistent, 1 check not completed, 2 corrupt, 3 leaked clusters or warnings
only, 63 the format does not support checks.

Example:
  diskimg check disk.qcow2";

/// Check an image for consistency.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Output format (default: human)
    #[arg(long, value_enum, value_name = "human|json", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    output: OutputFormat,
    /// Print only findings, no summary
    #[arg(short, long)]
    quiet: bool,
    /// Accepted for compatibility; has no effect
    #[arg(short = 'T', long, value_name = "MODE")]
    cache: Option<String>,
    #[arg(short, long, value_name = "WHAT", hide = true)]
    repair: Option<String>,
    #[command(flatten)]
    image_args: ImageArgs,
}

/// A check.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// `--output`.
    pub(crate) output: OutputFormat,
    /// `-q`.
    pub(crate) quiet: bool,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let policy = self.image_args.policy()?;
        if self.repair.is_some() {
            return Err(Failure::error(
                "repair (-r) is not supported (convert the image to a new one instead)",
            ));
        }
        common::check_cache_mode("source cache", self.cache.as_deref())?;
        let file = common::single_file("check", self.files)?;
        let mut input = Input::new(&file, self.format.as_deref(), &policy)?;
        // A backing file is not needed, but a description may contain one, as for qemu-img.
        let described = input.is_described();
        input.options = input.options.metadata_only(true).with_extents(true).with_chain(described);
        Ok(Parsed::Job(Job { input, output: self.output, quiet: self.quiet }))
    }
}
