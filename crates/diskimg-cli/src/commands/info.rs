//! `info`: what an image is.

use crate::args::common::Form;
use crate::args::info::Job;
use crate::failure::Failure;
use crate::output::{Console, human, json};
use diskimg::Image;
use diskimg::info::Info;

/// QEMU's unit of length.
const SECTOR: u64 = 512;

/// Tells.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let image = job.input.open()?;
    if !job.chain {
        let info = facts(&image, 0)?;
        match job.form {
            Form::Human => console.print(&human::info(&info))?,
            Form::Json => json::print(console, &info)?,
        }
        return Ok(0);
    }
    let chain = (0..image.layers().len())
        .map(|depth| facts(&image, depth))
        .collect::<Result<Vec<_>, _>>()?;
    match job.form {
        Form::Human => {
            let blocks: Vec<_> = chain.iter().map(human::info).collect();
            console.print(&blocks.join("\n"))?;
        }
        Form::Json => json::print(console, &chain)?,
    }
    Ok(0)
}

/// What is known of one link. Its files are as long as QEMU sees them, which
/// counts in sectors.
fn facts(image: &Image, depth: usize) -> Result<Info, Failure> {
    let mut info = image.info(depth)?;
    for child in &mut info.children {
        child.info.virtual_size = child.info.virtual_size.next_multiple_of(SECTOR);
    }
    Ok(info)
}
