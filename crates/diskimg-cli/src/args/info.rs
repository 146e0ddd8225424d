//! Arguments of `info`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input, OutputFormat};
use crate::failure::Failure;
use crate::output::Program;
use crate::remote::NetworkArgs;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg info disk.qcow2
  diskimg info appliance.ova
  diskimg info *.qcow2
  diskimg info --output=json --backing-chain overlay.qcow2";

/// Show an image's format, size, backing file and snapshots.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The images.
    #[arg(value_name = "FILE...", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Output format (default: human)
    #[arg(long, value_enum, value_name = "human|json", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    output: OutputFormat,
    /// Also show all backing files
    #[arg(short, long)]
    backing_chain: bool,
    #[command(flatten)]
    image_args: ImageArgs,
    #[command(flatten)]
    network_args: NetworkArgs,
}

/// What to show.
#[derive(Debug)]
pub(crate) struct Job {
    /// The images; at least one.
    pub(crate) inputs: Vec<Input>,
    /// `--output`.
    pub(crate) output: OutputFormat,
    /// `--backing-chain`.
    pub(crate) chain: bool,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self, program: Program) -> Result<Parsed<Job>, Failure> {
        let policy = self.image_args.policy()?.with_network(self.network_args.clone());
        let input = |file: &OsString| {
            let mut input = Input::new(file, self.format.as_deref(), &policy)?;
            // Only --backing-chain needs the backing files opened.
            input.options =
                input.options.metadata_only(true).with_extents(true).with_chain(self.backing_chain);
            Ok(input)
        };
        let inputs = match self.files.as_slice() {
            several @ [_, _, ..] if program != Program::QemuImg => {
                several.iter().map(input).collect::<Result<_, Failure>>()?
            }
            _ => vec![input(&common::single_file("info", self.files.clone())?)?],
        };
        Ok(Parsed::Job(Job { inputs, output: self.output, chain: self.backing_chain }))
    }
}
