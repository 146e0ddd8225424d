//! `iso extract`: extracts files and directories from an ISO image.

use crate::args::iso::extract::Job;
use crate::commands::iso::{check_interrupted, open_confined};
use crate::confine::Rules;
use crate::failure::Failure;
use crate::interrupt;
use crate::output::Console;
use diskimg::iso::{self, Extracted};
use diskimg::{ErrorKind, printable};
use std::io::{self, Write};
use std::path::PathBuf;

/// Exit code if some files could not be extracted.
const INCOMPLETE: u8 = 1;

/// Runs the extraction.
pub(in crate::commands) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    create_destination(job);
    let rules = Rules::new().allow_extract(&job.directory, job.options.devices);
    let image = open_confined(&rules, &job.input, console)?;
    interrupt::watch();
    let mut out = console.stdout();
    let root = [Vec::new()];
    let paths = if job.paths.is_empty() { &root[..] } else { &job.paths };
    let mut failed = false;
    let mut printed = Ok(());
    // The limit applies to all paths together.
    let mut options = job.options.clone();
    for path in paths {
        let done = image.extract_path(path, &job.directory, &options, &mut |path| {
            if job.verbose {
                // Extraction continues if the names cannot be printed.
                let line = writeln!(out, "{}", printable(&String::from_utf8_lossy(path)));
                record(&mut printed, line);
            }
            check_interrupted()
        });
        let done = done.inspect_err(|error| {
            if error.kind() == ErrorKind::Cancelled {
                let directory = job.directory.display();
                console.message(&format!("interrupted: what was extracted stays in {directory}"));
            }
        })?;
        record(&mut printed, out.flush());
        options.max_bytes = options.max_bytes.saturating_sub(done.bytes);
        failed |= print_failures(&done, console);
    }
    printed?;
    Ok(if failed { INCOMPLETE } else { 0 })
}

/// Keeps the first error of printing, except that the reader of the names has closed the pipe.
fn record(printed: &mut io::Result<()>, outcome: io::Result<()>) {
    let is_error = outcome.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::BrokenPipe);
    if printed.is_ok() && is_error {
        *printed = outcome;
    }
}

/// Creates the destination if the image's files exist, so that only it need be accessible. Ignores
/// errors, as the extraction will report them.
fn create_destination(job: &Job) {
    let exists = |name: &PathBuf| name.as_os_str() == "-" || name.exists();
    if job.input.input.file_names().iter().all(exists) {
        let _ = iso::create_destination(&job.directory);
    }
}

/// Prints what was not extracted. Returns `true` if there were failures.
fn print_failures(done: &Extracted, console: &Console) -> bool {
    for (path, error) in &done.failures {
        let message = crate::remedy::message(error);
        console.message(&format!("/{}: {message}", String::from_utf8_lossy(path)));
    }
    let printed = done.failures.len() as u64;
    if done.failed > printed {
        console.message(&format!("{} more files could not be extracted", done.failed - printed));
    }
    if done.left_out > 0 {
        console.message(&format!(
            "note: {} skipped: devices (see --devices) or symbolic links (--no-links)",
            done.left_out
        ));
    }
    done.failed > 0
}
