//! `resize`: changes the size of a disk in place.

use crate::args::resize::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::Console;
use diskimg::Resize;

/// Resizes the image.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    // A backing file may be anywhere, as may its own backing files.
    confine::restrict_files(&Rules::new().allow_write(&job.input.path).allow_read_all())?;
    Resize::new(job.size)
        .open_options(job.input.options_for(console.program()))
        .shrink(job.shrink)
        .preallocation(job.preallocation)
        .run(&job.input.path)?;
    if !job.quiet {
        console.print("Image resized.\n")?;
    }
    Ok(0)
}
