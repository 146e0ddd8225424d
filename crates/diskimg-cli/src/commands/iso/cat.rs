//! `iso cat`: files' contents to standard output.

use crate::args::iso::cat::Job;
use crate::commands::iso::{in_path, open, put, read_through};
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{self, Console};

/// Writes them.
pub(in crate::commands) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let image = open(&job.input, console)?;
    confine::bound_files(&Rules::nothing())?;
    let mut out = output::raw_stdout()?;
    for path in &job.paths {
        let node = image.lookup(path)?;
        read_through(&image, &node, &mut |bytes| put(&mut out, bytes))
            .map_err(|failure| in_path(failure, path))?;
    }
    Ok(0)
}
