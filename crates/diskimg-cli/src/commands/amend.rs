//! `amend`: changes the options of an image in place.

use crate::args::amend::{Job, options_help};
use crate::commands::files_of_chain;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::progress::Meter;
use crate::output::{self, Console};
use diskimg::{Amend, Options};

/// Percentage between two progress updates, as in qemu-img.
const STEP: f64 = 1.0;

/// Changes the options.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let Some(options) = &job.options else { return list(job, console) };
    output::require_streams(Some(&job.input.path), job.progress.requested.is_some())?;
    let open_options = job.input.options_for(console.program());
    let input = || Rules::new().allow_input(&job.input);
    match options.get("size") {
        None => confine::restrict_files(&input().allow_overwrite(&job.input.path))?,
        Some(_) => {
            let wide = input().allow_modify(&job.input.path, job.input.external_files);
            confine::restrict_files(&wide)?;
            // The data file of the image is resized, too.
            let files = files_of_chain(&open_options, &job.input.path, 1);
            let rules = files.iter().fold(input(), |rules, file| rules.allow_overwrite(file));
            confine::restrict_files(&rules.allow_overwrite(&job.input.path))?;
        }
    }
    let meter = Meter::start(job.progress, STEP, console.colors());
    let report_progress = |progress| meter.report(progress);
    let outcome = Amend::new(Options::clone(options))
        .open_options(open_options)
        .progress(&report_progress)
        .run(&job.input.path);
    if outcome.is_ok() {
        meter.finish();
    }
    meter.end();
    let removed = outcome?.removed_bitmaps;
    if removed > 0 && !job.progress.quiet {
        let message = format!("{removed} bitmaps were removed, which version 2 does not have");
        console.warn([message]);
    }
    Ok(0)
}

/// Prints the options of the format of the image.
fn list(job: &Job, console: &Console) -> Result<u8, Failure> {
    let open = || job.input.open(console.program());
    let image = confine::open(&Rules::new(), &[&job.input], open)?;
    console.print(&options_help(image.format())?)?;
    Ok(0)
}
