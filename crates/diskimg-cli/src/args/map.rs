//! Arguments of `map`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input, OutputFormat};
use crate::args::recipe::Destination;
use crate::failure::Failure;
use crate::output::Program;
use crate::remote::NetworkArgs;
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  diskimg map disk.qcow2
  diskimg map --output=json -s 1G -l 64M disk.qcow2
  diskimg map --html disk.html disk.qcow2";

/// Show where an image's data is stored.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Output format (default: human)
    #[arg(long, value_enum, value_name = "human|json", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    output: OutputFormat,
    /// Write a page with a map of the image to PAGE ('-': standard output)
    #[arg(long, value_name = "PAGE", value_hint = clap::ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// Start at this guest offset
    #[arg(short, long, value_name = "OFFSET")]
    start_offset: Option<String>,
    /// Stop after this many bytes
    #[arg(short = 'l', long, value_name = "LENGTH")]
    max_length: Option<String>,
    #[command(flatten)]
    image_args: ImageArgs,
    #[command(flatten)]
    network_args: NetworkArgs,
}

/// What to show.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// `--output`.
    pub(crate) output: OutputFormat,
    /// `--html`.
    pub(crate) html: Option<Destination>,
    /// Guest offset of the first byte.
    pub(crate) start: u64,
    /// Maximum number of bytes; `None` is up to the end.
    pub(crate) length: Option<u64>,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self, program: Program) -> Result<Parsed<Job>, Failure> {
        let html = self.html()?;
        if html.is_some() && program == Program::QemuImg {
            return Err(Failure::usage("map", "unrecognized option '--html'"));
        }
        let policy = self.image_args.policy()?.with_network(self.network_args.clone());
        let size = |what, text: Option<&str>| text.map(|t| common::size(what, t)).transpose();
        let start = size("start offset", self.start_offset.as_deref())?;
        let length = size("max length", self.max_length.as_deref())?;
        let file = common::single_file("map", self.files)?;
        let input = Input::new(&file, self.format.as_deref(), &policy)?;
        let (output, start) = (self.output, start.unwrap_or(0));
        Ok(Parsed::Job(Job { input, output, html, start, length }))
    }

    /// Returns where to write the page.
    fn html(&self) -> Result<Option<Destination>, Failure> {
        let Some(path) = &self.html else { return Ok(None) };
        if self.start_offset.is_some() || self.max_length.is_some() {
            return Err(Failure::usage("map", "--html shows the whole disk, without -s and -l"));
        }
        if self.output != OutputFormat::Human {
            return Err(Failure::usage("map", "--html and --output are mutually exclusive"));
        }
        Destination::from_arg(Some(path.clone()), "map").map(Some)
    }
}
