//! `measure`: calculates the space an image needs in another format.

use crate::args::common::OutputFormat;
use crate::args::measure::{Job, Subject};
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};

/// Prints the measurement.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let measure = match &job.subject {
        Subject::Size(size) => diskimg::measure_size(job.format, &job.options, *size)?,
        Subject::Image(input) => {
            let open = || input.open(console.program());
            let image = confine::open(&Rules::new(), &[input], open)?;
            let measure = diskimg::measure(job.format, &job.options, &image)?;
            console.warn(image.warnings());
            measure
        }
    };
    match job.output {
        OutputFormat::Json => json::print(console, &measure)?,
        OutputFormat::Human => console.print(&human::measure(&measure))?,
    }
    Ok(0)
}
