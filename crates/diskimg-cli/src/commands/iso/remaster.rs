//! `iso remaster`: rebuilds an ISO image with files added or removed.

use crate::args::iso::remaster::Job;
use crate::args::recipe::Destination;
use crate::commands::iso::{build, open_confined};
use crate::failure::Failure;
use crate::output::Console;
use diskimg::iso::RemasterOptions;

/// Rebuilds the image.
pub(in crate::commands) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    build::refuse_terminal(&job.output)?;
    if let Destination::File(output) = &job.output
        && build::is_same_file(&job.input.input.path, output)
    {
        build::require_one_name(output)?;
    }
    let rules = build::rules(&job.output, !job.added.is_empty());
    let rules = rules.allow_read(job.added.iter().map(|graft| &graft.path));
    let image = open_confined(&rules, &job.input, console)?;
    let mut remaster = RemasterOptions::default();
    remaster.drop.clone_from(&job.drop);
    let mut builder = image.remaster_with(&remaster)?;
    let options = builder.options_mut();
    options.latest = build::source_date_epoch()?;
    if let Some(label) = &job.volume_id {
        options.volume_id.clone_from(label);
    }
    for path in &job.removed {
        if !builder.remove(&build::normalize(path)) {
            let path = String::from_utf8_lossy(path);
            return Err(Failure::error(format!("--remove {path}: the image has no such file")));
        }
    }
    for graft in &job.added {
        build::add(&mut builder, graft, true)?;
    }
    let plan = builder.plan()?;
    if !job.quiet {
        console.warn(plan.warnings());
    }
    build::write(&plan, &job.output, job.quiet, console)?;
    Ok(0)
}
