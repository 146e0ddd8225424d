//! `bitmap`: changes the dirty bitmaps of an image.

use crate::args::bitmap::{Action, Job};
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{self, Console};
use crate::remedy::message;
use diskimg::formats::qcow2::{BitmapChanges, Qcow2Mut};
use diskimg::{Error, ErrorKind, Image, Result};

/// Carries out the actions.
pub(super) fn run(job: &Job, console: &Console) -> std::result::Result<u8, Failure> {
    output::require_streams(Some(&job.input.path), false)?;
    let rules = Rules::new().allow_input(&job.input).allow_overwrite(&job.input.path);
    let source = job.source.iter();
    confine::restrict_files(&source.fold(rules, |rules, source| rules.allow_input(source)))?;
    let options = job.input.options_for(console.program());
    let mut image = match Qcow2Mut::open_with(&job.input.path, options) {
        Ok(image) => image,
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return Err(job.failure(&job.actions[0], &error));
        }
        Err(error) => return Err(error.into()),
    };
    let source = job.source.as_ref().map(|source| source.open(console.program())).transpose()?;
    let mut changes = image.change_bitmaps()?;
    let carry_out = |action| job.carry_out(action, &mut changes, source.as_ref());
    let failed = job.actions.iter().map(carry_out).find_map(std::result::Result::err);
    // Those before it are stored.
    changes.store()?;
    match failed {
        Some(failure) => Err(failure),
        None => Ok(0),
    }
}

impl Job {
    fn carry_out(
        &self,
        action: &Action,
        changes: &mut BitmapChanges<'_>,
        source: Option<&Image>,
    ) -> std::result::Result<(), Failure> {
        let name = &*self.bitmap;
        let outcome: Result<()> = match action {
            Action::Add => changes.add(name, self.granularity),
            Action::Remove => changes.remove(name),
            Action::Clear => changes.clear(name),
            Action::Enable => changes.enable(name),
            Action::Disable => changes.disable(name),
            Action::Merge(other) => match source {
                Some(source) => changes.require_consistent(name).and_then(|()| {
                    let other = source.dirty_bitmap(other)?;
                    changes.merge_from(name, &other)
                }),
                None => changes.merge(name, other),
            },
        };
        outcome.map_err(|error| self.failure(action, &error))
    }

    /// Returns the failure of an action, in QEMU's words.
    fn failure(&self, action: &Action, error: &Error) -> Failure {
        let (verb, name) = (action.verb(), &*self.bitmap);
        let file = self.input.path.display().to_string();
        let text = message(error);
        // Messages name the file only where it is not obvious.
        let mut text = text.strip_prefix(&format!("{file}: ")).unwrap_or(&text).to_owned();
        let cannot_have = matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Limit);
        if *action == Action::Add && cannot_have {
            text = format!("Can't make bitmap '{name}' persistent in '{file}': {text}");
        }
        Failure::error(format!("Operation {verb} on bitmap {name} failed: {text}"))
    }
}

impl Action {
    fn verb(&self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Clear => "clear",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Merge(_) => "merge",
        }
    }
}
