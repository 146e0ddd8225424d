//! `info`: what was args, and what it means.

use crate::args::Parsed;
use crate::args::common::{self, Form, Input, Reading};
use crate::failure::Failure;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg info disk.qcow2
  diskimg info appliance.ova
  diskimg info --output=json --backing-chain overlay.qcow2";

/// Tell what an image is: format, sizes, backing file, snapshots.
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
    /// The images it builds on, too
    #[arg(short, long)]
    backing_chain: bool,
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
    /// Of all its backing files, too.
    pub(crate) chain: bool,
}

impl Args {
    /// What it means.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let policy = self.reading.policy()?;
        let file = common::one_file("info", self.files)?;
        let mut input = Input::new(&file, self.format.as_deref(), &policy)?;
        // Facts need no other file opened; only the chain is made of them.
        input.options =
            input.options.metadata_only(true).with_extents(true).with_chain(self.backing_chain);
        Ok(Parsed::Job(Job { input, form: self.output, chain: self.backing_chain }))
    }
}
