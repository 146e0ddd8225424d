//! `info`: what an image is.

use crate::args::common::Form;
use crate::args::info::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};

/// Tells.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let image = job.input.open(console.program())?;
    confine::bound_files(&Rules::nothing().telling_time())?;
    if !job.chain {
        let info = image.info(0)?;
        match job.form {
            Form::Human => console.print(&human::info(&info))?,
            Form::Json => json::print(console, &info)?,
        }
        return Ok(0);
    }
    let chain =
        (0..image.layers().len()).map(|depth| image.info(depth)).collect::<Result<Vec<_>, _>>()?;
    match job.form {
        Form::Human => {
            let blocks: Vec<_> = chain.iter().map(human::info).collect();
            console.print(&blocks.join("\n"))?;
        }
        Form::Json => json::print(console, &chain)?,
    }
    Ok(0)
}
