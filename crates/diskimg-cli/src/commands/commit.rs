//! `commit`: writes what an image stores into its backing file.

use crate::args::commit::Job;
use crate::commands::files_of_chain;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::progress::Meter;
use crate::output::{self, Console};
use diskimg::Commit;

/// Percentage between two progress updates, as in qemu-img.
const STEP: f64 = 1.0;

/// Commits the image.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    output::require_streams(Some(&job.input.path), !job.progress.quiet)?;
    let options = job.input.options_for(console.program());
    let rules = || Rules::new().allow_cpu_count().allow_input(&job.input);
    let wide = rules().allow_modify(&job.input.path, job.input.external_files);
    confine::restrict_files(&wide)?;
    let files = files_of_chain(&options, &job.input.path, usize::MAX);
    let own = rules().allow_overwrite(&job.input.path);
    confine::restrict_files(&files.iter().fold(own, |rules, file| rules.allow_overwrite(file)))?;
    let meter = Meter::start(job.progress, STEP, console.colors());
    let report_progress = |progress| meter.report(progress);
    let mut commit = Commit::new()
        .open_options(options)
        .keep(job.keep)
        .caching(job.caching)
        .progress(&report_progress);
    if let Some(base) = &job.base {
        commit = commit.base(base);
    }
    if let Some(rate) = job.rate {
        commit = commit.rate_limit(rate);
    }
    let outcome = commit.run(&job.input.path);
    if outcome.is_ok() {
        meter.complete();
    }
    meter.end();
    outcome?;
    if !job.progress.quiet {
        console.print_after("Image committed.\n", "the image was committed")?;
    }
    Ok(0)
}
