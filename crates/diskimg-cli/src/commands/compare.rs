//! `compare`: compares the guest-visible contents of two images.

use crate::args::compare::{CANNOT_OPEN, Job};
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::Console;
use crate::output::progress::Meter;
use diskimg::{Compare, CompareStage, Comparison};

/// Exit code for images that differ.
const DIFFERENT: u8 = 1;
/// Exit code if the block status of an image cannot be determined.
const CANNOT_MAP: u8 = 3;
/// Exit code if an image cannot be read.
const CANNOT_READ: u8 = 4;

/// Percentage between two progress updates, as in qemu-img.
const STEP: f64 = 2.0;

/// Runs the comparison.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let open = || {
        let a = job.a.open(console.program()).map_err(|e| e.with_code(CANNOT_OPEN))?;
        let b = job.b.try_open(console.program()).map_err(|e| {
            let e = job.b.with_advice(e, console.program());
            Failure::from_error(&e, crate::remedy::second_image_message).with_code(CANNOT_OPEN)
        })?;
        Ok((a, b))
    };
    let rules = Rules::new().allow_cpu_count();
    let (a, b) = confine::open(&rules, &[&job.a, &job.b], open)?;
    let meter = Meter::start(job.progress, STEP, console.colors());
    let report = |progress| meter.report(progress);
    let outcome = Compare::new(&a, &b).strict(job.strict).progress(&report).run();
    let code = match outcome {
        Ok(comparison) => {
            if matches!(comparison, Comparison::Identical { .. }) {
                meter.reach_end();
            }
            meter.clear();
            let (text, code) = verdict(&comparison, a.size(), b.size());
            let printed = if job.progress.quiet { Ok(()) } else { console.print(&text) };
            printed.map(|()| code).map_err(|e| e.with_code(CANNOT_OPEN))
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

/// Returns the message and exit code for images of these sizes. As in qemu-img, the size mismatch
/// is reported only if the common part is identical, since the rest is compared only then.
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
