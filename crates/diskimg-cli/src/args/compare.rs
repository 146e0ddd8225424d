//! `compare`: what was args, and what it means.

use crate::args::Parsed;
use crate::args::common::{self, Input, Reading};
use crate::failure::Failure;
use crate::output::progress::ProgressMode;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Exit code: 0 identical, 1 different, 2 cannot open, 3 cannot map, 4 cannot read.

Example:
  diskimg compare disk.raw disk.qcow2";

/// Exit code when it did not come to a comparison: 1 would say "different".
pub(crate) const CANNOT_OPEN: u8 = 2;

/// Compare what the guest sees in two images.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The images
    #[arg(value_name = "A B", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Format of A (default: probed)
    #[arg(short = 'f', long, value_name = "FMT")]
    a_format: Option<String>,
    /// Format of B (default: probed)
    #[arg(short = 'F', long, value_name = "FMT")]
    b_format: Option<String>,
    /// Differ on size and on what is allocated, too
    #[arg(short, long)]
    strict: bool,
    /// Accepted: how images are cached changes nothing
    #[arg(short = 'T', long, value_name = "MODE")]
    cache: Option<String>,
    /// Print progress to standard output, as (12.34/100%)
    #[arg(short, long)]
    progress: bool,
    /// Say nothing: the exit code tells
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    reading: Reading,
}

/// A comparison.
#[derive(Debug)]
pub(crate) struct Job {
    /// One image.
    pub(crate) a: Input,
    /// The other.
    pub(crate) b: Input,
    /// `-s`.
    pub(crate) strict: bool,
    /// `-p`, `-q`.
    pub(crate) progress: ProgressMode,
}

impl Args {
    /// What it means.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        self.job().map(Parsed::Job).map_err(|e| e.with_code(CANNOT_OPEN))
    }

    fn job(self) -> Result<Job, Failure> {
        let policy = self.reading.policy()?;
        common::cache_mode("source cache", self.cache.as_deref())?;
        let [a, b] = <[OsString; 2]>::try_from(self.files)
            .map_err(|_| Failure::usage("compare", "Expecting two image file names"))?;
        Ok(Job {
            a: Input::new(&a, self.a_format.as_deref(), &policy)?,
            b: Input::new(&b, self.b_format.as_deref(), &policy)?,
            strict: self.strict,
            progress: ProgressMode { asked: self.progress, quiet: self.quiet, stdout_taken: false },
        })
    }
}
