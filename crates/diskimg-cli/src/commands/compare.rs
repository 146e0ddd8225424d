//! `compare`: what the guest sees in two images.

use crate::args::compare::{CANNOT_OPEN, Job};
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::Console;
use crate::output::progress::Meter;
use diskimg::{CompareStage, Comparison};

/// Exit code for images that differ.
const DIFFERENT: u8 = 1;
/// Exit code when it cannot be told where the bytes are.
const CANNOT_MAP: u8 = 3;
/// Exit code when bytes cannot be read.
const CANNOT_READ: u8 = 4;

/// Percent between two lines of progress, as qemu-img has it here.
const STEP: f64 = 2.0;

/// Compares.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let a = job.a.open(console.program()).map_err(|e| e.with_code(CANNOT_OPEN))?;
    let b = job.b.open(console.program()).map_err(|e| e.with_code(CANNOT_OPEN))?;
    confine::bound_files(&Rules::nothing().counting_processors())?;
    let meter = Meter::start(job.progress, STEP);
    let outcome = diskimg::compare(&a, &b, job.strict, None, Some(&|p| meter.report(p)));
    let code = match outcome {
        Ok(comparison) => {
            if matches!(comparison, Comparison::Identical { .. }) {
                meter.reach_end();
            }
            meter.clear();
            let (text, code) = verdict(&comparison, a.size(), b.size());
            let told = if job.progress.quiet { Ok(()) } else { console.print(&text) };
            told.map(|()| code)
        }
        Err(failed) => Err(Failure::from(failed.error).with_code(match failed.stage {
            CompareStage::Status => CANNOT_MAP,
            CompareStage::Read => CANNOT_READ,
        })),
    };
    meter.end();
    console.warn(a.warnings().chain(b.warnings()));
    code
}

/// What is said of images of these sizes. Of different sizes there is word
/// when all that both have is equal, as qemu-img looks at the rest only then.
fn verdict(comparison: &Comparison, a: u64, b: u64) -> (String, u8) {
    let warning = if a == b { "" } else { "Warning: Image size mismatch!\n" };
    match comparison {
        Comparison::Identical { .. } => (format!("{warning}Images are identical.\n"), 0),
        Comparison::ContentMismatch { offset } => {
            let warning = if *offset < a.min(b) { "" } else { warning };
            (format!("{warning}Content mismatch at offset {offset}!\n"), DIFFERENT)
        }
        Comparison::SizeMismatch => ("Strict mode: Image size mismatch!\n".to_owned(), DIFFERENT),
        Comparison::StatusMismatch { offset } => {
            (format!("Strict mode: Offset {offset} block status mismatch!\n"), DIFFERENT)
        }
    }
}
