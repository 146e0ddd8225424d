//! `dd`: copies a part of a disk to a new image.

use crate::args::dd::{Destination, Job};
use crate::commands::convert::create_on;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{self, Console, Program};
use diskimg::{Convert, Image, Options};
use std::ops::Range;

/// Length in bytes to which qemu-img rounds the size of a new disk.
const SECTOR: u64 = 512;

/// Copies the blocks.
pub(super) fn run(job: Job, console: &Console) -> Result<u8, Failure> {
    let rules = Rules::new().allow_cpu_count().allow_read(&job.input.parents);
    let rules = match &job.output {
        Destination::File(path) => {
            output::require_streams(Some(path), false)?;
            rules.allow_create(path, &job.options, job.external_files)
        }
        Destination::Server(server) => rules.allow_servers(&server.files()),
    };
    let program = console.program();
    let image = confine::open(&rules, &[&job.input], || job.input.open(program))?;
    let range = match program {
        Program::QemuImg => range_of_qemu(&job, image.size(), console),
        _ => range(&job, image.size())?,
    };
    let mut options = job.options;
    if program == Program::QemuImg {
        set_rounded_size(&mut options, range.end - range.start);
    }
    let convert = Convert::new(part(image, range)?).format(job.format).options(options);
    match &job.output {
        Destination::File(path) => {
            convert.run(path)?;
            super::first_block::allocate(path, job.format, console);
        }
        Destination::Server(server) => {
            convert.run_to(create_on(server, program, false)?)?;
        }
    }
    Ok(0)
}

/// Returns the range of the disk that is copied.
fn range(job: &Job, size: u64) -> Result<Range<u64>, Failure> {
    let start = job.skip.saturating_mul(job.block);
    if start > size {
        return Err(Failure::error(format!(
            "{}: cannot skip to specified offset: the disk has {size} bytes",
            job.input.shown()
        )));
    }
    let len = job.count.map_or(u64::MAX, |count| count.saturating_mul(job.block));
    Ok(start..start.saturating_add(len).min(size))
}

/// Returns the range that qemu-img copies: `count` limits its end, not its length. If nothing is
/// left, it warns and writes an empty disk.
fn range_of_qemu(job: &Job, size: u64, console: &Console) -> Range<u64> {
    let end = job.count.map_or(size, |count| count.saturating_mul(job.block).min(size));
    let start = job.skip.saturating_mul(job.block);
    if start > end || start == end && job.skip > 0 {
        let name = job.input.shown();
        console.stderr(&format!("qemu-img: {name}: cannot skip to specified offset"));
        return end..end;
    }
    start..end
}

/// Sets the size of the new disk as qemu-img does.
fn set_rounded_size(options: &mut Options, len: u64) {
    let rounded = len.checked_next_multiple_of(SECTOR);
    if let Some(rounded) = rounded.filter(|&rounded| rounded != len) {
        options.set("size", rounded.to_string());
    }
}

/// Returns a disk that consists of a part of another one. If it is the whole disk, this is the same
/// image, whose clusters can be copied as they are stored.
fn part(image: Image, range: Range<u64>) -> Result<Image, Failure> {
    if range == (0..image.size()) {
        return Ok(image);
    }
    Ok(image.part(range)?)
}
