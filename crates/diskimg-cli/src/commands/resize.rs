//! `resize`: changes the size of a disk in place.

use crate::args::resize::Job;
use crate::commands::files_of_chain;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{self, Console};
use diskimg::Resize;

/// Resizes the image.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    output::require_streams(Some(&job.input.path), !job.quiet)?;
    let options = job.input.options_for(console.program());
    let input = || Rules::new().allow_input(&job.input);
    let rules = input().allow_modify(&job.input.path, job.input.external_files);
    let rules = match job.may_have_parts {
        true => rules.allow_parts(&job.input.path),
        false => rules,
    };
    confine::restrict_files(&rules)?;
    // The data file of the image or its extents are resized, too.
    let files = files_of_chain(&options, &job.input.path, 1);
    let rules = files.iter().fold(input(), |rules, file| rules.allow_overwrite(file));
    // Extents are created and removed, and a descriptor is replaced.
    let rules = match job.may_have_parts && files.len() > 1 {
        true => rules.allow_parts(&job.input.path),
        false => rules,
    };
    confine::restrict_files(&rules.allow_overwrite(&job.input.path))?;
    Resize::new(job.size)
        .open_options(options)
        .shrink(job.shrink)
        .preallocation(job.preallocation)
        .fix_gpt(job.fix_gpt)
        .run(&job.input.path)?;
    if !job.quiet {
        console.print_after("Image resized.\n", "the image was resized")?;
    }
    Ok(0)
}
