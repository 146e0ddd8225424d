//! `resize`: changes the size of a disk in place.

use crate::args::resize::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{self, Console};
use diskimg::Resize;

/// Resizes the image.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    output::require_streams(Some(&job.input.path), !job.quiet)?;
    let rules = Rules::new().allow_input(&job.input).allow_overwrite(&job.input.path);
    confine::restrict_files(&rules)?;
    Resize::new(job.size)
        .open_options(job.input.options_for(console.program()))
        .shrink(job.shrink)
        .preallocation(job.preallocation)
        .run(&job.input.path)?;
    if !job.quiet {
        console.print_after("Image resized.\n", "the image was resized")?;
    }
    Ok(0)
}
