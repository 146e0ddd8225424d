//! `iso extract`: files and directories out of an image.

use crate::args::iso::extract::Job;
use crate::commands::iso::{go_on, open};
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::interrupt;
use crate::output::Console;
use diskimg::iso::Extracted;
use diskimg::printable;
use std::io::Write;

/// Exit code when something could not be extracted.
const INCOMPLETE: u8 = 1;

/// Extracts.
pub(in crate::commands) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let image = open(&job.input, console)?;
    confine::bound_files(&Rules::nothing().filling(&job.directory))?;
    interrupt::watch();
    let mut out = console.stdout();
    let root = [Vec::new()];
    let paths = if job.paths.is_empty() { &root[..] } else { &job.paths };
    let mut failed = false;
    for path in paths {
        let done = image.extract_path(path, &job.directory, &job.options, &mut |path| {
            if job.verbose {
                // Whoever reads the names may have gone; the files are still wanted.
                let _ = writeln!(out, "{}", printable(&String::from_utf8_lossy(path)));
            }
            go_on()
        })?;
        let _ = out.flush();
        failed |= tell(&done, console);
    }
    Ok(if failed { INCOMPLETE } else { 0 })
}

/// Says what was not extracted; `true` if it should have been.
fn tell(done: &Extracted, console: &Console) -> bool {
    for (path, error) in &done.failures {
        console.complain(&format!("/{}: {error}", String::from_utf8_lossy(path)));
    }
    let told = done.failures.len() as u64;
    if done.failed > told {
        console.complain(&format!("{} more could not be extracted", done.failed - told));
    }
    if done.left_out > 0 {
        console.complain(&format!(
            "note: {} left out: devices (--devices) or links (--no-links)",
            done.left_out
        ));
    }
    done.failed > 0
}
