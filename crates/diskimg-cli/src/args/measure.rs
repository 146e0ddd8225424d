//! `measure`: what was args, and what it means.

use crate::args::Parsed;
use crate::args::common::{self, Form, Input, Reading};
use crate::failure::Failure;
use diskimg::{Format, Options};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg measure -O qcow2 disk.raw
  diskimg measure -O qcow2 --size 10G";

/// Tell how much space an image would take in another format.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Instead of FILE: an empty disk of this size
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// The format it would be in (default: raw)
    #[arg(short = 'O', long, value_name = "FMT", alias = "output-format")]
    target_format: Option<String>,
    /// Options of that format: NAME=VALUE,…; repeatable
    #[arg(short, long, value_name = "OPTS")]
    options: Vec<String>,
    /// This internal snapshot of FILE
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// human (default) or json
    #[arg(long, value_enum, value_name = "FORM", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    output: Form,
    #[command(flatten)]
    reading: Reading,
}

/// What to measure.
#[derive(Debug)]
pub(crate) struct Job {
    /// An image or a size.
    pub(crate) subject: Subject,
    /// The format it would be in.
    pub(crate) format: Format,
    /// That format's options.
    pub(crate) options: Options,
    /// In which form to report.
    pub(crate) form: Form,
}

/// What is measured.
#[derive(Debug)]
pub(crate) enum Subject {
    /// This image.
    Image(Input),
    /// An empty disk of this many bytes.
    Size(u64),
}

impl Args {
    /// What it means.
    pub(crate) fn parse(mut self) -> Result<Parsed<Job>, Failure> {
        let policy = self.reading.policy()?;
        let format = common::format(self.target_format.as_deref().unwrap_or("raw"))?;
        let Some(options) = common::create_options(&self.options)? else {
            return Ok(Parsed::Show(common::options_help(format, !self.files.is_empty())));
        };
        let subject = match (&self.size, self.files.pop()) {
            (Some(size), None) => Subject::Size(common::size("image size", size)?),
            (None, Some(file)) if self.files.is_empty() => {
                let mut input = Input::new(&file, self.format.as_deref(), &policy)?;
                let snapshot = common::snapshot(self.snapshot.as_deref())?;
                input.options = input.options.snapshot(snapshot);
                Subject::Image(input)
            }
            (Some(_), Some(_)) => {
                return Err(Failure::error("--size N cannot be used together with a filename."));
            }
            (None, _) => {
                return Err(Failure::error("Either --size N or one filename must be specified."));
            }
        };
        Ok(Parsed::Job(Job { subject, format, options, form: self.output }))
    }
}
