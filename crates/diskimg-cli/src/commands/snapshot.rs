//! `snapshot`: lists, creates, applies and deletes the snapshots in an image.

use crate::args::common::Input;
use crate::args::snapshot::{Action, Job};
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{self, Console, human};
use diskimg::formats::qcow2::Qcow2Mut;
use diskimg::info::Snapshot;
use diskimg::{ErrorKind, Result, SnapshotSelector};

/// Runs the action.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let (verb, snapshot) = match &job.action {
        Action::List => return list(&job.input, console),
        Action::Create(name) => ("create", name),
        Action::Apply(name) => ("apply", name),
        Action::Delete(name) => ("delete", name),
    };
    output::require_streams(Some(&job.input.path), false)?;
    let rules = Rules::new().allow_input(&job.input).allow_overwrite(&job.input.path);
    confine::restrict_files(&rules)?;
    let failed =
        |reason: &str| Failure::error(format!("Could not {verb} snapshot '{snapshot}': {reason}"));
    let options = job.input.options_for(console.program());
    let opened = Qcow2Mut::open_with(&job.input.path, options);
    let mut image = opened.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => failed(&crate::remedy::message(&error)),
        _ => Failure::from(error),
    })?;
    let exists = |which: &dyn Fn(&Snapshot) -> bool| Ok(image.snapshots()?.iter().any(which));
    let found = match &job.action {
        Action::Apply(name) => exists(&|s| s.id == *name || s.name == *name),
        Action::Delete(name) => exists(&|s| s.name == *name),
        Action::Create(_) | Action::List => Ok(true),
    };
    if !found.map_err(|error| failed(&crate::remedy::message(&error)))? {
        return Err(failed("snapshot not found"));
    }
    modify(&mut image, &job.action).map_err(|error| failed(&crate::remedy::message(&error)))?;
    Ok(0)
}

fn modify(image: &mut Qcow2Mut, action: &Action) -> Result<()> {
    match action {
        Action::Create(name) => image.create_snapshot(name).map(drop),
        Action::Apply(name) => image.apply_snapshot(&SnapshotSelector::IdOrName(name.clone())),
        Action::Delete(name) => {
            image.delete_snapshot(&SnapshotSelector::Exactly { id: None, name: Some(name.clone()) })
        }
        Action::List => Ok(()),
    }
}

/// Prints the list, and nothing if there are no snapshots.
fn list(input: &Input, console: &Console) -> Result<u8, Failure> {
    let open = || input.open(console.program());
    let image = confine::open(&Rules::new().allow_time_zone(), &[input], open)?;
    let snapshots = image.info(0)?.snapshots;
    if !snapshots.is_empty() {
        console.print(&human::snapshot_list(&snapshots))?;
    }
    Ok(0)
}
