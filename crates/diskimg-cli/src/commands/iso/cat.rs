//! `iso cat`: prints files of an ISO image.

use crate::args::iso::cat::Job;
use crate::commands::iso::{in_path, open_confined, read_chunks, write_all};
use crate::confine::Rules;
use crate::failure::Failure;
use crate::output::{self, Console};
use diskimg::Error;
use diskimg::{iso::IsoImage, storage::source::HostFileId};
use std::fs::File;

/// Prints the files.
pub(in crate::commands) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let image = open_confined(&Rules::new(), &job.input, console)?;
    let mut out = output::raw_stdout()?;
    refuse_own_image(&image, &out)?;
    let nodes: Vec<_> =
        job.paths.iter().map(|path| image.lookup(path)).collect::<Result<_, _>>()?;
    let total = nodes.iter().fold(0, |sum: u64, node| sum.saturating_add(node.size));
    if let Some(max) = job.max_bytes.filter(|&max| total > max) {
        let message = format!("the files have {total} bytes, but at most {max} may be printed");
        return Err(Error::limit(message).hint("--max-bytes raises the limit").into());
    }
    for (path, node) in job.paths.iter().zip(&nodes) {
        read_chunks(&image, node, &mut |bytes| write_all(&mut out, bytes))
            .map_err(|failure| in_path(failure, path))?;
    }
    Ok(0)
}

/// Verifies that standard output is not the image itself, which would be overwritten.
fn refuse_own_image(image: &IsoImage, out: &File) -> Result<(), Failure> {
    let Some(out) = HostFileId::of(out) else { return Ok(()) };
    match image.source().identities().iter().any(|file| file.shares_data_with(out)) {
        true => Err(Failure::error("standard output is the image that is read")),
        false => Ok(()),
    }
}
