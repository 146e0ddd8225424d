//! The verbs about what is in an ISO image.

pub(super) mod build;
pub(super) mod cat;
pub(super) mod diff;
pub(super) mod extract;
pub(super) mod ls;
pub(super) mod remaster;
pub(super) mod show;
mod texts;
pub(super) mod verify;

use crate::args::iso::IsoInput;
use crate::failure::Failure;
use crate::interrupt;
use crate::output::Console;
use diskimg::Error;
use diskimg::iso::{IsoImage, Node};
use std::io::Write;
use std::sync::Arc;

/// Bytes read at a time.
const CHUNK: u64 = 1 << 20;

/// Opens the ISO image in a file of any format.
fn open(job: &IsoInput, console: &Console) -> Result<IsoImage, Failure> {
    let image = job.input.open(console.program())?;
    let opened = IsoImage::open(Arc::new(image), &job.options);
    Ok(opened.map_err(|e| e.in_file(&job.input.path))?)
}

/// An error once the user has asked to stop.
fn go_on() -> diskimg::Result<()> {
    if interrupt::requested() { Err(Error::cancelled()) } else { Ok(()) }
}

/// Gives the contents of a file, a chunk after the other, to `take`.
fn read_through(
    image: &IsoImage,
    node: &Node,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let source = image.contents(node)?;
    let mut chunk = vec![0; source.len().min(CHUNK) as usize];
    let mut at = 0;
    while at < source.len() {
        let buf = &mut chunk[..(source.len() - at).min(CHUNK) as usize];
        source.read_exact_at(buf, at).map_err(|e| Error::io("cannot read the file", e))?;
        take(buf)?;
        at += buf.len() as u64;
    }
    Ok(())
}

/// Says of which file in the image an error is.
fn in_path(failure: Failure, path: &[u8]) -> Failure {
    match failure {
        Failure::Error { message, code } => {
            let path = String::from_utf8_lossy(path);
            Failure::Error { message: format!("/{}: {message}", path.trim_matches('/')), code }
        }
        other => other,
    }
}

/// Writes to standard output.
fn put(out: &mut impl Write, bytes: &[u8]) -> Result<(), Failure> {
    Ok(out.write_all(bytes)?)
}
