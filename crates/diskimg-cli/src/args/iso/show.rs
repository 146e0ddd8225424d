//! `iso info` and `iso boot`: what was args, and what it means.

use super::{IsoInput, Opening, OutputArgs};
use crate::args::common::Form;
use crate::failure::Failure;
use std::ffi::OsString;

/// Tell what an ISO image says of itself: label, trees, boot entries, sessions.
#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    /// The image
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    #[command(flatten)]
    telling: OutputArgs,
    #[command(flatten)]
    opening: Opening,
}

/// Show how it starts a machine: boot catalog, MBR, GPT, Apple's map.
#[derive(Debug, clap::Args)]
pub(crate) struct Boot {
    /// The image
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    #[command(flatten)]
    telling: OutputArgs,
    #[command(flatten)]
    opening: Opening,
}

/// What to tell.
#[derive(Debug)]
pub(crate) struct Job {
    /// Of which image.
    pub(crate) input: IsoInput,
    /// In which form.
    pub(crate) form: Form,
    /// Of how it starts a machine, and nothing else.
    pub(crate) boot_only: bool,
}

impl Info {
    /// What it means.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let input = self.opening.only("iso info", self.files)?;
        Ok(Job { input, form: self.telling.output, boot_only: false })
    }
}

impl Boot {
    /// What it means.
    pub(crate) fn job(self) -> Result<Job, Failure> {
        let input = self.opening.only("iso boot", self.files)?;
        Ok(Job { input, form: self.telling.output, boot_only: true })
    }
}
