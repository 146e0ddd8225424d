//! `check`: what was args, and what it means.

use crate::args::Parsed;
use crate::args::common::{self, Form, Input, Reading};
use crate::failure::Failure;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Exit code: 0 consistent, 1 cannot check, 2 corrupt, 3 only space is lost,
63 the format has nothing to check.

Example:
  diskimg check disk.qcow2";

/// Verify that an image is consistent in itself.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Its format (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// human (default) or json
    #[arg(long, value_enum, value_name = "FORM", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    output: Form,
    /// Say nothing but findings: the exit code tells
    #[arg(short, long)]
    quiet: bool,
    /// Accepted: how the image is cached changes nothing
    #[arg(short = 'T', long, value_name = "MODE")]
    cache: Option<String>,
    #[arg(short, long, value_name = "WHAT", hide = true)]
    repair: Option<String>,
    #[command(flatten)]
    reading: Reading,
}

/// A check.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// In which form to report.
    pub(crate) form: Form,
    /// `-q`.
    pub(crate) quiet: bool,
}

impl Args {
    /// What it means.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let policy = self.reading.policy()?;
        if self.repair.is_some() {
            return Err(Failure::error(
                "repair (-r) is not supported yet (convert the image to a new one instead)",
            ));
        }
        common::cache_mode("source cache", self.cache.as_deref())?;
        let file = common::one_file("check", self.files)?;
        let mut input = Input::new(&file, self.format.as_deref(), &policy)?;
        input.options = input.options.metadata_only(true).with_extents(true);
        Ok(Parsed::Job(Job { input, form: self.output, quiet: self.quiet }))
    }
}
