//! `map`: what was args, and what it means.

use crate::args::Parsed;
use crate::args::common::{self, Form, Input, Reading};
use crate::failure::Failure;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg map disk.qcow2
  diskimg map --output=json -s 1G -l 64M disk.qcow2";

/// Tell where the guest's bytes are kept.
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
    /// Start at this guest offset
    #[arg(short, long, value_name = "OFFSET")]
    start_offset: Option<String>,
    /// Stop after this many bytes
    #[arg(short = 'l', long, value_name = "LENGTH")]
    max_length: Option<String>,
    #[command(flatten)]
    reading: Reading,
}

/// What to tell.
#[derive(Debug)]
pub(crate) struct Job {
    /// Of which image.
    pub(crate) input: Input,
    /// In which form.
    pub(crate) form: Form,
    /// From which guest offset on.
    pub(crate) start: u64,
    /// At most how many bytes.
    pub(crate) length: Option<u64>,
}

impl Args {
    /// What it means.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let policy = self.reading.policy()?;
        let size = |what, text: Option<&str>| text.map(|t| common::size(what, t)).transpose();
        let start = size("start offset", self.start_offset.as_deref())?;
        let length = size("max length", self.max_length.as_deref())?;
        let file = common::one_file("map", self.files)?;
        let input = Input::new(&file, self.format.as_deref(), &policy)?;
        Ok(Parsed::Job(Job { input, form: self.output, start: start.unwrap_or(0), length }))
    }
}
