//! `create`: a new, empty image.

use crate::args::create::Job;
use crate::failure::Failure;
use crate::output::Console;
use diskimg::{Create, Options};
use std::fmt::Write;

/// Creates it.
pub(super) fn run(job: Job, console: &Console) -> Result<u8, Failure> {
    let created = Create::new(job.format)
        .size(job.size)
        .options(job.options)
        .backing_references(job.references)
        .unsafe_backing(job.unsafe_backing)
        .run(&job.path)?;
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
