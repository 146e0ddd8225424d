//! Arguments of `check`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input, OutputFormat};
use crate::failure::Failure;
use crate::remote::NetworkArgs;
use diskimg::check::RepairScope;
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Exit code: 0 consistent, 1 check not completed, 2 corrupt, 3 leaked clusters or warnings
only, 63 the format does not support checks, or repairs with -r. With -r, it is that of a second
check, after the repair.

Examples:
  diskimg check disk.qcow2
  diskimg check -r all disk.qcow2

A repair changes no guest data. Damage that it could repair only by a choice between guest data is
left.";

/// Check an image for consistency.
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
    /// Print only findings, no summary
    #[arg(short, long)]
    quiet: bool,
    /// Accepted for compatibility; has no effect
    #[arg(short = 'T', long, value_name = "MODE")]
    cache: Option<String>,
    /// Repair an image in place: leaks only, or all damage
    #[arg(short, long, value_name = "leaks|all")]
    repair: Option<String>,
    /// With -r: save what is overwritten to this new file
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    backup: Option<OsString>,
    #[command(flatten)]
    image_args: ImageArgs,
    #[command(flatten)]
    network_args: NetworkArgs,
}

/// A check.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// `--output`.
    pub(crate) output: OutputFormat,
    /// `-q`.
    pub(crate) quiet: bool,
    /// `-r`.
    pub(crate) repair: Option<RepairScope>,
    /// `--backup`.
    pub(crate) backup: Option<PathBuf>,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let policy = self.image_args.policy()?.with_network(self.network_args.clone());
        let repair = self.repair.as_deref().map(scope).transpose()?;
        common::check_cache_mode("source cache", self.cache.as_deref())?;
        let file = common::single_file("check", self.files)?;
        let mut input = Input::new(&file, self.format.as_deref(), &policy)?;
        // A backing file is not needed, but a description may contain one, as for qemu-img.
        let described = input.is_described();
        input.options = input.options.metadata_only(true).with_extents(true).with_chain(described);
        if repair.is_some() {
            input = input.into_file()?;
        } else if self.backup.is_some() {
            return Err(Failure::usage("check", "--backup needs -r"));
        }
        Ok(Parsed::Job(Job {
            input,
            output: self.output,
            quiet: self.quiet,
            repair,
            backup: self.backup.map(PathBuf::from),
        }))
    }
}

/// Parses the argument of `-r`.
fn scope(word: &str) -> Result<RepairScope, Failure> {
    word.parse().map_err(|_| {
        let message = format!("--repair (-r) expects 'leaks' or 'all' not '{word}'");
        Failure::usage("check", message)
    })
}
