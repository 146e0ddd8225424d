//! Arguments of `amend`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input};
use crate::failure::Failure;
use crate::output::progress::{ProgressFormat, ProgressMode};
use diskimg::{Format, Options};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg amend -f qcow2 -o compat=0.10 disk.qcow2
  diskimg amend -f qcow2 -o refcount_bits=64,lazy_refcounts=on disk.qcow2

Options that are not given stay as they are; '-o help' lists those that can be changed. The disk and
the snapshots keep their content, except that a smaller size deletes the data beyond. compat=0.10
removes bitmaps. If the command is interrupted, the image has the old or the new options; the size
is changed separately. No other process may use FILE; -U applies to backing files only.";

/// Change the options of an existing image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Options to change ('help': a list)
    #[arg(long_help = "Options to change, of those that 'help' lists; repeatable")]
    #[arg(short, long, value_name = "NAME=VALUE,...")]
    options: Vec<String>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Cache mode of FILE
    #[arg(long_help = "Cache mode of FILE; accepted, without effect")]
    #[arg(short = 't', long, value_name = "MODE")]
    cache: Option<String>,
    /// Accepted, without effect
    #[arg(long, hide = true)]
    force: bool,
    /// Print percentages, or JSON (=json)
    #[arg(long_help = "Print (12.34/100%), or lines of JSON to standard error (=json)")]
    #[arg(short, long, value_name = "FORMAT", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "text", hide_possible_values = true)]
    progress: Option<ProgressFormat>,
    /// Print only errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image_args: ImageArgs,
}

/// An image and the options that are changed.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// `-o`; `None` for a list of the options of the image's format.
    pub(crate) options: Option<Options>,
    /// `-p`, `-q`.
    pub(crate) progress: ProgressMode,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        if self.options.is_empty() {
            return Err(Failure::usage("amend", "Must specify options (-o)"));
        }
        let options = common::create_options(&self.options)?;
        if let (None, Some(format)) = (&options, &self.format) {
            return options_help(common::format(format)?).map(Parsed::Show);
        }
        let file = match self.files.len() {
            1 => common::single_file("amend", self.files)?,
            _ => return Err(Failure::usage("amend", "Expecting one image file name")),
        };
        let policy = self.image_args.policy()?;
        common::check_cache_mode("cache", self.cache.as_deref())?;
        let input = Input::new(&file, self.format.as_deref(), &policy)?.into_file()?;
        Ok(Parsed::Job(Job {
            input,
            options,
            progress: ProgressMode {
                requested: self.progress,
                quiet: self.quiet,
                stdout_taken: false,
            },
        }))
    }
}

/// Returns the output of `-o help`.
///
/// # Errors
/// If the options of images of this format cannot be changed.
pub(crate) fn options_help(format: Format) -> Result<String, Failure> {
    let Some(specs) = format.amend_options() else {
        let message = format!("Format driver '{format}' does not support option amendment");
        return Err(Failure::error(message));
    };
    Ok(common::options_list(&format!("Amend options for '{format}':\n"), specs))
}
