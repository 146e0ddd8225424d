//! Arguments of `iso info` and `iso boot`.

use super::{IsoArgs, IsoInput, OutputArgs};
use crate::args::common::OutputFormat;
use crate::failure::Failure;
use std::ffi::OsString;

/// Show an ISO image's label, namespaces, boot entries and sessions.
#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    #[command(flatten)]
    output_args: OutputArgs,
    #[command(flatten)]
    iso_args: IsoArgs,
}

/// Show how an ISO image boots: boot catalog, MBR, GPT, Apple partition map.
#[derive(Debug, clap::Args)]
pub(crate) struct Boot {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    #[command(flatten)]
    output_args: OutputArgs,
    #[command(flatten)]
    iso_args: IsoArgs,
}

/// What to show.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: IsoInput,
    /// `--output`.
    pub(crate) output: OutputFormat,
    /// True for `iso boot`.
    pub(crate) boot_only: bool,
}

impl Info {
    /// Validates the arguments.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let input = self.iso_args.single_input("iso info", self.files)?;
        Ok(Job { input, output: self.output_args.output, boot_only: false })
    }
}

impl Boot {
    /// Validates the arguments.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let input = self.iso_args.single_input("iso boot", self.files)?;
        Ok(Job { input, output: self.output_args.output, boot_only: true })
    }
}
