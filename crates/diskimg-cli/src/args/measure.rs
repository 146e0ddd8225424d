//! Arguments of `measure`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input, OutputFormat};
use crate::failure::Failure;
use crate::output::Program;
use crate::remote::NetworkArgs;
use diskimg::{Format, Options};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg measure -O qcow2 disk.raw
  diskimg measure -O qcow2 --size 10G";

/// Calculate the size of a new image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Measure an empty image of SIZE bytes
    #[arg(long_help = "Measure an empty image of SIZE bytes instead of FILE")]
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Format of the new image (default: raw)
    #[arg(long_help = "Format of the new image (default: raw)")]
    #[arg(short = 'O', long, value_name = "FMT", alias = "output-format")]
    target_format: Option<String>,
    /// Options of the format ('help': a list)
    #[arg(long_help = "Set options of the new image, which 'help' lists; repeatable")]
    #[arg(short, long, value_name = "NAME=VALUE,...")]
    options: Vec<String>,
    /// Measure this snapshot of FILE
    #[arg(long_help = "Measure this internal snapshot of FILE")]
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Output format (default: human)
    #[arg(long, value_enum, value_name = "human|json", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    output: OutputFormat,
    #[command(flatten)]
    image_args: ImageArgs,
    #[command(flatten)]
    network_args: NetworkArgs,
}

/// What to measure.
#[derive(Debug)]
pub(crate) struct Job {
    /// An image or a size.
    pub(crate) subject: Subject,
    /// `-O`.
    pub(crate) format: Format,
    /// `-o`.
    pub(crate) options: Options,
    /// `--output`.
    pub(crate) output: OutputFormat,
}

/// What is measured.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one value")]
pub(crate) enum Subject {
    /// An image.
    Image(Input),
    /// An empty image of this many bytes.
    Size(u64),
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(mut self, program: Program) -> Result<Parsed<Job>, Failure> {
        let policy = self.image_args.policy()?.with_network(self.network_args.clone());
        let format = common::format(self.target_format.as_deref().unwrap_or("raw"))?;
        let Some(mut options) = common::create_options(&self.options)? else {
            return Ok(Parsed::Show(common::options_help(format, !self.files.is_empty())));
        };
        common::suggest_option(&options, format)?;
        common::set_qemu_defaults(&mut options, format, program);
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
        Ok(Parsed::Job(Job { subject, format, options, output: self.output }))
    }
}
