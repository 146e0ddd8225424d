//! `iso cat`: prints files of an ISO image.

use crate::args::iso::cat::Job;
use crate::commands::iso::{in_path, open_confined, read_chunks, write_all};
use crate::confine::Rules;
use crate::failure::Failure;
use crate::output::{self, Console};

/// Prints the files.
pub(in crate::commands) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let image = open_confined(&Rules::new(), &job.input, console)?;
    let mut out = output::raw_stdout()?;
    for path in &job.paths {
        let node = image.lookup(path)?;
        read_chunks(&image, &node, &mut |bytes| write_all(&mut out, bytes))
            .map_err(|failure| in_path(failure, path))?;
    }
    Ok(0)
}
