//! `create`: what was args, and what it means.

use crate::args::Parsed;
use crate::args::common::{self, Reading};
use crate::failure::Failure;
use diskimg::{ExternalFiles, Format, Limits, Options};
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  diskimg create -f qcow2 disk.qcow2 10G
  diskimg create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2

SIZE is in bytes, or with k, M, G, T, P or E. '-o help' lists the options of
the format.";

/// Create a new, empty image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The new image, and the size of its disk
    #[arg(value_name = "FILE [SIZE]", value_hint = clap::ValueHint::FilePath)]
    words: Vec<OsString>,
    /// Its format (default: raw)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Options of the format: NAME=VALUE,…; repeatable
    #[arg(short, long, value_name = "OPTS")]
    options: Vec<String>,
    /// The image it builds on
    #[arg(short, long, value_name = "FILE")]
    backing: Option<String>,
    /// Format of the backing file
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,
    /// Do not look at the backing file; SIZE must be given
    #[arg(short = 'u', long)]
    backing_unsafe: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    reading: Reading,
}

/// A new image.
#[derive(Debug)]
pub(crate) struct Job {
    /// Its name, as given: it is printed.
    pub(crate) path: PathBuf,
    /// Its format.
    pub(crate) format: Format,
    /// Its size, if given.
    pub(crate) size: Option<u64>,
    /// `-o`, `-b` and `-F`.
    pub(crate) options: Options,
    /// Which files the backing file may name.
    pub(crate) external_files: ExternalFiles,
    /// What its images may ask for.
    pub(crate) limits: Limits,
    /// Do not look at the backing file.
    pub(crate) unsafe_backing: bool,
    /// Say nothing.
    pub(crate) quiet: bool,
}

impl Args {
    /// What it means.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let policy = self.reading.policy()?;
        let format = common::format(self.format.as_deref().unwrap_or("raw"))?;
        let Some(mut options) = common::create_options(&self.options)? else {
            return Ok(Parsed::Show(common::options_help(format, !self.words.is_empty())));
        };
        common::add_backing(&mut options, self.backing, self.backing_format)?;
        let mut words = self.words.into_iter();
        let (Some(path), size, None) = (words.next(), words.next(), words.next()) else {
            return Err(Failure::usage("create", "Expecting FILE and, at most, SIZE"));
        };
        common::device_if_asked(self.format.as_deref(), path.as_ref())?;
        let size = size.map(|s| common::size("image size", &s.to_string_lossy())).transpose()?;
        Ok(Parsed::Job(Job {
            path: path.into(),
            format,
            size,
            options,
            external_files: policy.external_files,
            limits: policy.limits,
            unsafe_backing: self.backing_unsafe,
            quiet: self.quiet,
        }))
    }
}
