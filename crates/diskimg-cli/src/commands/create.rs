//! `create`: creates an empty image.

use crate::args::create::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::progress::{Meter, ProgressMode};
use crate::output::{self, Console};
use diskimg::{Create, Created, Options, printable};
use std::fmt::Write;
use std::ops::ControlFlow;
use std::sync::OnceLock;

/// Percentage between two progress updates.
const STEP: f64 = 1.0;

/// Creates the image.
pub(super) fn run(job: Job, console: &Console) -> Result<u8, Failure> {
    output::require_streams(Some(&job.path), !job.quiet || job.dry_run)?;
    let rules = Rules::new().allow_cpu_count().allow_read(&job.parents);
    confine::restrict_files(&rules.allow_create(&job.path, &job.options, job.external_files))?;
    if job.dry_run {
        let plan = Create::new(job.format)
            .size(job.size)
            .options(job.options)
            .backing_options(job.backing_options)
            .unsafe_backing(job.unsafe_backing)
            .plan(&job.path)?;
        return super::convert::show_plan(&plan, None, false, None, console);
    }
    let mode = ProgressMode { requested: None, quiet: job.quiet, stdout_taken: false };
    let meter = Meter::start(mode, STEP, console.colors());
    let name = job.path.display().to_string();
    let (path, format) = (job.path.clone(), job.format);
    let failed = OnceLock::new();
    let announce = |created: &Created| {
        if !job.quiet {
            let line = announcement(&name, job.format.name(), &created.options);
            if let Err(failure) = console.print(&line) {
                let _ = failed.set(failure);
            }
        }
    };
    // Called after the announcement, before the output is created.
    let report_progress = |progress| match failed.get() {
        Some(_) => ControlFlow::Break(()),
        None => meter.report(progress),
    };
    let created = Create::new(job.format)
        .size(job.size)
        .options(job.options)
        .backing_options(job.backing_options)
        .unsafe_backing(job.unsafe_backing)
        .max_size(job.max_size)
        .on_start(&announce)
        .progress(&report_progress)
        .run(&job.path);
    meter.end();
    if let Some(failure) = failed.into_inner() {
        return Err(failure);
    }
    let created = created?;
    super::first_block::allocate(&path, format, console);
    console.note(&created.notes);
    Ok(0)
}

/// Returns the message that qemu-img prints: `Formatting 'a.vmdk', fmt=vmdk size=1048576
/// compat6=off hwversion=undefined`.
fn announcement(name: &str, format: &str, options: &Options) -> String {
    let mut line = format!("Formatting '{}', fmt={format}", printable(name));
    for (name, value) in options.iter() {
        // Commas in values are doubled, as in `-o`.
        let _ = write!(line, " {name}={}", printable(value).replace(',', ",,"));
    }
    line.push('\n');
    line
}
