//! `create`: a new, empty image.

use crate::args::create::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::Console;
use crate::output::progress::{Meter, ProgressMode};
use diskimg::{Create, Options};
use std::fmt::Write;

/// Percent between two lines of progress, which qemu-img has none of here: it
/// is for people only.
const STEP: f64 = 1.0;

/// Creates it.
pub(super) fn run(job: Job, console: &Console) -> Result<u8, Failure> {
    confine::bound_files(&Rules::nothing().counting_processors().making(&job.path, &job.options))?;
    let wish = ProgressMode { asked: false, quiet: job.quiet, stdout_taken: false };
    let meter = Meter::start(wish, STEP);
    let tell = |progress| meter.report(progress);
    let created = Create::new(job.format)
        .size(job.size)
        .options(job.options)
        .backing_external_files(job.external_files)
        .backing_limits(job.limits)
        .unsafe_backing(job.unsafe_backing)
        .progress(&tell)
        .run(&job.path);
    meter.end();
    let created = created?;
    if !job.quiet {
        let name = job.path.display().to_string();
        console.print(&announcement(&name, job.format.name(), &created.options))?;
    }
    Ok(0)
}

/// qemu-img's line: `Formatting 'a.vmdk', fmt=vmdk size=1048576 compat6=off hwversion=undefined`.
fn announcement(name: &str, format: &str, options: &Options) -> String {
    let mut line = format!("Formatting '{name}', fmt={format}");
    for (name, value) in options.iter() {
        // Values may hold commas, which options double.
        let _ = write!(line, " {name}={}", value.replace(',', ",,"));
    }
    line.push('\n');
    line
}
