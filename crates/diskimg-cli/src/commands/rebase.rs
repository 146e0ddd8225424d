//! `rebase`: changes the backing file of an image.

use crate::args::rebase::Job;
use crate::commands::files_of_chain;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::progress::Meter;
use crate::output::{self, Console};
use diskimg::Rebase;
use diskimg::open::local_path;
use std::path::Path;

/// Percentage between two progress updates, as in qemu-img.
const STEP: f64 = 2.0;

/// Changes the backing file.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    output::require_streams(Some(&job.input.path), job.progress.requested.is_some())?;
    let options = job.input.options_for(console.program());
    confine::restrict_files(&rules(job))?;
    if !job.header_only {
        // The data file of the image is written, too.
        let files = files_of_chain(&options, &job.input.path, 1);
        let own = files.iter().fold(read_rules(job), |rules, file| rules.allow_overwrite(file));
        confine::restrict_files(&own)?;
    }
    let meter = Meter::start(job.progress, STEP, console.colors());
    let report_progress = |progress| meter.report(progress);
    let outcome = Rebase::new(job.backing.clone())
        .open_options(options)
        .backing_options(job.backing_options.clone())
        .header_only(job.header_only)
        .compress(job.compress)
        .caching(job.caching)
        .progress(&report_progress)
        .run(&job.input.path);
    if outcome.is_ok() {
        meter.complete();
    }
    meter.end();
    outcome?;
    Ok(0)
}

/// Returns the files that may be read, and the image itself.
fn read_rules(job: &Job) -> Rules {
    let rules = Rules::new().allow_cpu_count().allow_input(&job.input);
    let rules = rules.allow_overwrite(&job.input.path);
    let (Some(backing), false) = (&job.backing, job.header_only) else { return rules };
    let name = local_path(Path::new(&backing.name)).unwrap_or_else(|_| (&*backing.name).into());
    let directory = job.input.path.parent().unwrap_or(Path::new(""));
    let path = directory.join(name);
    rules.allow_read([&path]).allow_references(&path, job.input.external_files)
}

/// Returns the files that may be opened before it is known which ones the image has.
fn rules(job: &Job) -> Rules {
    match job.header_only {
        true => read_rules(job),
        false => read_rules(job).allow_modify(&job.input.path, job.input.external_files),
    }
}
