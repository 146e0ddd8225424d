//! Arguments of `snapshot`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input};
use crate::failure::Failure;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  diskimg snapshot -c before-update disk.qcow2
  diskimg snapshot -l disk.qcow2
  diskimg snapshot -a before-update disk.qcow2

-a looks for the ID first and then for the name, -d for the name only. If the command is
interrupted, the image is as before or as afterwards. No other process may use the image.";

/// List, create, apply or delete the snapshots in a qcow2 image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// List the snapshots (default)
    #[arg(short, long, overrides_with = "list")]
    list: bool,
    /// Create a snapshot of the disk
    #[arg(short, long, value_name = "NAME", action = clap::ArgAction::Append)]
    create: Vec<String>,
    /// Return the disk to a snapshot, which remains
    #[arg(short, long, value_name = "SNAPSHOT", action = clap::ArgAction::Append)]
    apply: Vec<String>,
    /// Delete a snapshot
    #[arg(short, long, value_name = "NAME", action = clap::ArgAction::Append)]
    delete: Vec<String>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Print only errors and the list
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image_args: ImageArgs,
}

/// What to do with the snapshots of an image.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// `-l`, `-c`, `-a`, `-d`.
    pub(crate) action: Action,
}

/// One of the actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// `-l`.
    List,
    /// `-c` with a name.
    Create(String),
    /// `-a` with an ID or a name.
    Apply(String),
    /// `-d` with a name.
    Delete(String),
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let mut actions = self
            .list
            .then_some(Action::List)
            .into_iter()
            .chain(self.create.into_iter().map(Action::Create))
            .chain(self.apply.into_iter().map(Action::Apply))
            .chain(self.delete.into_iter().map(Action::Delete));
        let action = actions.next().unwrap_or(Action::List);
        if actions.next().is_some() {
            return Err(Failure::usage("snapshot", "Cannot mix '-l', '-a', '-c', '-d'"));
        }
        let policy = self.image_args.policy()?;
        let file = common::single_file("snapshot", self.files)?;
        let mut input = Input::new(&file, self.format.as_deref(), &policy)?;
        if action == Action::List {
            input.options = input.options.metadata_only(true);
            return Ok(Parsed::Job(Job { input, action }));
        }
        input = input.into_file()?;
        if self.image_args.is_shared() {
            return Err(Failure::error(format!(
                "Could not open '{}': force-share=on can only be used with read-only images",
                input.path.display()
            )));
        }
        Ok(Parsed::Job(Job { input, action }))
    }
}
