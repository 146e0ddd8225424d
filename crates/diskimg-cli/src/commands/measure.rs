//! `measure`: how much space an image would take in another format.

use crate::args::common::Form;
use crate::args::measure::{Job, Subject};
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};

/// Measures.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let measure = match &job.subject {
        Subject::Size(size) => diskimg::measure_size(job.format, &job.options, *size)?,
        Subject::Image(input) => {
            let image = input.open(console.program())?;
            confine::bound_files(&Rules::nothing())?;
            let measure = diskimg::measure(job.format, &job.options, &image)?;
            console.warn(image.warnings());
            measure
        }
    };
    match job.form {
        Form::Json => json::print(console, &measure)?,
        Form::Human => console.print(&human::measure(&measure))?,
    }
    Ok(0)
}
