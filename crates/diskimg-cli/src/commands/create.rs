//! `create`: a new, empty image.

use crate::args::create::Job;
use crate::failure::Failure;
use crate::output::Console;
use diskimg::{Create, Created};
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
        console.print(&announcement(&name, job.format.name(), &created))?;
    }
    Ok(0)
}

/// qemu-img's line: `Formatting 'a.qcow2', fmt=qcow2 cluster_size=65536 size=1048576`.
fn announcement(name: &str, format: &str, created: &Created) -> String {
    let mut line = format!("Formatting '{name}', fmt={format}");
    let size = created.size.to_string();
    let backing = created.backing.as_ref();
    let fixed = [
        ("size", Some(size.as_str())),
        ("backing_file", backing.map(|b| b.name.as_str())),
        ("backing_fmt", backing.and_then(|b| b.format.as_deref())),
    ];
    let fixed = fixed.into_iter().filter_map(|(name, value)| Some((name, value?)));
    for (name, value) in created.options.iter().chain(fixed) {
        // Values may hold commas, which options double.
        let _ = write!(line, " {name}={}", value.replace(',', ",,"));
    }
    line.push('\n');
    line
}
