//! `bench`: measures how long requests to a disk take.

use crate::args::bench::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{self, Console};
use diskimg::Bench;

/// Runs the measurement.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    output::require_streams(Some(&job.input.path), true)?;
    let too_large = |_| Failure::error("the requests are too large for this machine");
    let bench = Bench::new()
        .requests(job.count)
        .depth(usize::try_from(job.depth).map_err(too_large)?)
        .length(usize::try_from(job.length).map_err(too_large)?)
        .offset(job.offset)
        .step(job.step);
    let took = match job.pattern {
        Some(pattern) => {
            let path = &job.input.path;
            let rules = Rules::new().allow_input(&job.input);
            confine::restrict_files(&rules.allow_modify(path, job.input.external_files))?;
            announce(job, "write", console)?;
            let bench = match job.flush_interval {
                Some(interval) => bench.flush_interval(interval),
                None => bench,
            };
            let options = job.input.options_for(console.program());
            bench.open_options(options).pattern(pattern).write(path)?
        }
        None => {
            let open = || job.input.open(console.program());
            let image = confine::open(&Rules::new(), &[&job.input], open)?;
            announce(job, "read", console)?;
            bench.read(&image)?
        }
    };
    console.print(&format!("Run completed in {:.3} seconds.\n", took.as_secs_f64()))?;
    Ok(0)
}

/// Says what is measured, as qemu-img does.
fn announce(job: &Job, verb: &str, console: &Console) -> Result<(), Failure> {
    let Job { count, depth, offset, length, step, .. } = job;
    let mut text = format!(
        "Sending {count} {verb} requests, {length} bytes each, {depth} in parallel (starting at \
         offset {offset}, step size {step})\n"
    );
    if let Some(interval) = job.flush_interval {
        text += &format!("Sending flush every {interval} requests\n");
    }
    console.print(&text)
}
