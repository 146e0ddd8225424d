//! Arguments of `preflight`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input, OutputFormat};
use crate::failure::Failure;
use crate::remote::NetworkArgs;
use diskimg::preflight::Consumer;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Exit code: 0 accepted, 1 cannot examine, 2 rejected.

An image is rejected if any finding is an error. Names for --for: aws, azure, esxi, gcp, glance,
hyperv, ovirt, proxmox, virtualbox, vsphere, workstation.

Examples:
  diskimg preflight --for azure disk.vhd
  diskimg preflight --for aws --output=json https://example.org/disk.vmdk";

/// Check whether a cloud or hypervisor accepts an image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// The cloud or hypervisor that is to receive the image
    #[arg(long = "for", value_name = "NAME")]
    consumer: Option<String>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Output format (default: human)
    #[arg(long, value_enum, value_name = "human|json", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    output: OutputFormat,
    /// Print only errors; use the exit code
    #[arg(long_help = "Print only errors; report through the exit code")]
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image_args: ImageArgs,
    #[command(flatten)]
    network_args: NetworkArgs,
}

/// What to examine.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// `--for`.
    pub(crate) consumer: Consumer,
    /// `--output`.
    pub(crate) output: OutputFormat,
    /// `-q`.
    pub(crate) quiet: bool,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let policy = self.image_args.policy()?.with_network(self.network_args);
        let Some(consumer) = self.consumer else {
            return Err(Failure::usage("preflight", "Expecting --for NAME"));
        };
        let consumer = consumer.parse()?;
        let file = common::single_file("preflight", self.files)?;
        let input = Input::new(&file, self.format.as_deref(), &policy)?;
        Ok(Parsed::Job(Job { input, consumer, output: self.output, quiet: self.quiet }))
    }
}
