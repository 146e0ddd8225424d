//! `info`: shows the properties of an image.

use crate::args::common::OutputFormat;
use crate::args::info::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};

/// Prints the information.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let rules = Rules::new().allow_time_zone();
    let image = confine::open(&rules, &[&job.input], || job.input.open(console.program()))?;
    if !job.chain {
        let info = image.info(0)?;
        match job.output {
            OutputFormat::Human => console.print(&human::info(&info))?,
            OutputFormat::Json => json::print(console, &info)?,
        }
        return Ok(0);
    }
    let chain =
        (0..image.layers().len()).map(|depth| image.info(depth)).collect::<Result<Vec<_>, _>>()?;
    match job.output {
        OutputFormat::Human => {
            let blocks: Vec<_> = chain.iter().map(human::info).collect();
            console.print(&blocks.join("\n"))?;
        }
        OutputFormat::Json => json::print(console, &chain)?,
    }
    Ok(0)
}
