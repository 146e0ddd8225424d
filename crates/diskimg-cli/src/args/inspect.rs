//! `inspect`: what was args, and what it means.

use crate::args::Parsed;
use crate::args::common::{self, Form};
use crate::failure::Failure;
use diskimg::InspectOptions;
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Exit code: 0 safe, 1 cannot be looked at, 2 unsafe.

One file is opened, a bounded amount of it is read, and nothing that it names is followed. An
image is unsafe if any finding says 'refuse': see SECURITY.md for all of them.

Examples:
  diskimg inspect --claimed qcow2 --max-virtual-size 1T upload.img
  diskimg inspect --output=json - < upload.img
  diskimg inspect --allow backing-file --allow extended-l2 overlay.qcow2";

/// Tell whether an untrusted image is safe to let in.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image; '-' is standard input
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// The format that it is said to be: another is refused
    #[arg(short = 'f', long, value_name = "FMT", alias = "format")]
    claimed: Option<String>,
    /// Refuse a larger file
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// Refuse a larger disk, or one of unknown size
    #[arg(long, value_name = "SIZE")]
    max_virtual_size: Option<String>,
    /// Refuse a disk that is more than N times as large as its file
    #[arg(long, value_name = "N")]
    max_ratio: Option<String>,
    /// Warn of a finding instead of refusing; repeatable
    #[arg(long, value_name = "CODE")]
    allow: Vec<String>,
    #[command(flatten)]
    limits: common::LimitWords,
    /// human (default) or json
    #[arg(long, value_enum, value_name = "FORM", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    output: Form,
    /// Say nothing: the exit code tells
    #[arg(short, long)]
    quiet: bool,
}

/// What to look at.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) path: PathBuf,
    /// What it may be.
    pub(crate) options: InspectOptions,
    /// In which form to report.
    pub(crate) form: Form,
    /// `-q`.
    pub(crate) quiet: bool,
}

impl Args {
    /// What it means.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let size =
            |text: Option<String>| text.map(|text| common::size("maximum size", &text)).transpose();
        let ratio = self.max_ratio.map(|text| {
            let number = text.parse().ok().filter(|&n: &u64| n > 0);
            number.ok_or_else(|| {
                Failure::error(format!("Invalid ratio specified: '{text}' (a whole number)"))
            })
        });
        let mut options = InspectOptions::new()
            .max_size(size(self.max_size)?)
            .max_virtual_size(size(self.max_virtual_size)?)
            .max_ratio(ratio.transpose()?)
            .limits(self.limits.parse()?);
        if let Some(claimed) = &self.claimed {
            options = options.claimed(claimed)?;
        }
        for code in &self.allow {
            options = options.allow(code.parse()?);
        }
        let path = common::one_file("inspect", self.files)?.into();
        Ok(Parsed::Job(Job { path, options, form: self.output, quiet: self.quiet }))
    }
}
