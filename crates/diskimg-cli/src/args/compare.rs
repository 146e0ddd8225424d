//! Arguments of `compare`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input};
use crate::failure::Failure;
use crate::output::progress::{ProgressFormat, ProgressMode};
use crate::remote::NetworkArgs;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Exit code: 0 identical, 1 different, 2 cannot open, 3 cannot read allocation, 4 cannot read.

Example:
  diskimg compare disk.raw disk.qcow2";

/// Exit code if an image cannot be opened or the arguments are wrong; 1 would mean "different".
pub(crate) const CANNOT_OPEN: u8 = 2;

/// Compare the guest-visible contents of two images.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The images.
    #[arg(value_name = "A B", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Format of A (default: probed)
    #[arg(short = 'f', long, value_name = "FMT")]
    a_format: Option<String>,
    /// Format of B (default: probed)
    #[arg(short = 'F', long, value_name = "FMT")]
    b_format: Option<String>,
    /// Also compare size and allocation
    #[arg(short, long)]
    strict: bool,
    /// Accepted for compatibility; has no effect
    #[arg(short = 'T', long, value_name = "MODE")]
    cache: Option<String>,
    /// Print percentages, or JSON (=json)
    #[arg(long_help = "Print (12.34/100%), or lines of JSON to standard error (=json)")]
    #[arg(short, long, value_name = "FORMAT", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "text", hide_possible_values = true)]
    progress: Option<ProgressFormat>,
    /// Print only errors; use the exit code
    #[arg(long_help = "Print only errors and warnings; report through the exit code")]
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image_args: ImageArgs,
    #[command(flatten)]
    network_args: NetworkArgs,
}

/// A comparison.
#[derive(Debug)]
pub(crate) struct Job {
    /// The first image.
    pub(crate) a: Input,
    /// The second image.
    pub(crate) b: Input,
    /// `-s`.
    pub(crate) strict: bool,
    /// `-p`, `-q`.
    pub(crate) progress: ProgressMode,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        self.job().map(Parsed::Job).map_err(|e| e.with_code(CANNOT_OPEN))
    }

    fn job(self) -> Result<Job, Failure> {
        let policy = self.image_args.policy()?.with_network(self.network_args.clone());
        common::check_cache_mode("source cache", self.cache.as_deref())?;
        let [a, b] = <[OsString; 2]>::try_from(self.files)
            .map_err(|_| Failure::usage("compare", "Expecting two image file names"))?;
        Ok(Job {
            a: Input::new(&a, self.a_format.as_deref(), &policy)?,
            b: Input::new(&b, self.b_format.as_deref(), &policy)?,
            strict: self.strict,
            progress: ProgressMode {
                requested: self.progress,
                quiet: self.quiet,
                stdout_taken: false,
            },
        })
    }
}
