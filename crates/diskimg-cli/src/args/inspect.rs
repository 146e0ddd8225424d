//! Arguments of `inspect`.

use crate::args::Parsed;
use crate::args::common::{self, OutputFormat};
use crate::failure::Failure;
use crate::remote::{self, NetworkArgs, Server};
use diskimg::InspectOptions;
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Exit code: 0 safe, 1 cannot inspect, 2 unsafe.

Only FILE itself is opened, and a bounded part of it is read; a pipe is copied to a temporary
file first. An image is unsafe if any finding is an error; SECURITY.md lists all findings.

Examples:
  diskimg inspect --claimed qcow2 --max-virtual-size 1T upload.img
  diskimg inspect --output=json - < upload.img
  diskimg inspect --allow backing-file --allow extended-l2 overlay.qcow2";

/// Check whether an untrusted image is safe to accept.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image, or '-' for standard input.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Unsafe if the format is not FMT
    #[arg(long_help = "Report an image as unsafe if its format is not FMT")]
    #[arg(short = 'f', long, value_name = "FMT", alias = "format")]
    claimed: Option<String>,
    /// Maximum size of the file
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// Maximum virtual size, which must be known
    #[arg(long_help = "Maximum virtual size; an image whose virtual size is unknown is unsafe")]
    #[arg(long, value_name = "SIZE")]
    max_virtual_size: Option<String>,
    /// Maximum ratio of virtual size to file size
    #[arg(
        long_help = "Maximum ratio of the virtual size to the file size; an unknown virtual size is unsafe"
    )]
    #[arg(long, value_name = "N")]
    max_ratio: Option<String>,
    /// Accept the finding CODE; repeatable
    #[arg(long_help = "Treat the finding CODE as a warning; repeatable")]
    #[arg(long, value_name = "CODE")]
    allow: Vec<String>,
    #[command(flatten)]
    limits: common::LimitArgs,
    #[command(flatten)]
    network: NetworkArgs,
    /// Output format (default: human)
    #[arg(long, value_enum, value_name = "human|json", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    output: OutputFormat,
    /// Print only errors; use the exit code
    #[arg(long_help = "Print only errors; report through the exit code")]
    #[arg(short, long)]
    quiet: bool,
}

/// What to inspect.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) path: PathBuf,
    /// If the image is named by a URL: the URL, and how the server is accessed.
    pub(crate) server: Option<Server>,
    /// What to accept.
    pub(crate) options: InspectOptions,
    /// `--output`.
    pub(crate) output: OutputFormat,
    /// `-q`.
    pub(crate) quiet: bool,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let size =
            |text: Option<String>| text.map(|text| common::size("maximum size", &text)).transpose();
        let ratio = self.max_ratio.map(|text| {
            let number = text.parse().ok().filter(|&n: &u64| n > 0);
            number.ok_or_else(|| {
                Failure::error(format!(
                    "Invalid ratio specified: '{text}' (expected a positive integer)"
                ))
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
        let path: PathBuf = common::single_file("inspect", self.files)?.into();
        let network = self.network;
        remote::url(&path).iter().for_each(|url| remote::prepare(url.scheme()));
        let server = remote::url(&path).map(|url| Server { url, network });
        Ok(Parsed::Job(Job { path, server, options, output: self.output, quiet: self.quiet }))
    }
}
