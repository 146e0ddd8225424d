//! The `iso` commands.

pub(super) mod build;
pub(super) mod cat;
pub(super) mod diff;
pub(super) mod extract;
pub(super) mod ls;
pub(super) mod remaster;
pub(super) mod show;
pub(super) mod texts;
pub(super) mod verify;

use crate::args::iso::IsoInput;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::interrupt;
use crate::output::Console;
use diskimg::Error;
use diskimg::iso::{IsoImage, Node};
use std::io::Write;
use std::sync::Arc;

/// Number of bytes read at a time.
const CHUNK: u64 = 1 << 20;

/// Opens the ISO image in an image file of any format, and warns if it is truncated. Then access to
/// all files is denied, except those that `rules` allow.
fn open_confined(rules: &Rules, job: &IsoInput, console: &Console) -> Result<IsoImage, Failure> {
    confine::open(rules, &[&job.input], || open(job, console))
}

/// Opens the ISO image in an image file of any format, and warns if it is truncated.
fn open(job: &IsoInput, console: &Console) -> Result<IsoImage, Failure> {
    let image = open_quietly(job, console)?;
    let name = job.input.path.display();
    console.warn(image.truncated().map(|finding| format!("{name}: {finding}")));
    Ok(image)
}

/// Opens the ISO image in an image file of any format.
fn open_quietly(job: &IsoInput, console: &Console) -> Result<IsoImage, Failure> {
    let image = job.input.open(console.program())?;
    let opened = IsoImage::open(Arc::new(image), &job.options);
    Ok(opened.map_err(|e| e.in_file(&job.input.path))?)
}

/// Returns an error after a signal.
pub(super) fn check_interrupted() -> diskimg::Result<()> {
    if interrupt::requested() { Err(Error::cancelled()) } else { Ok(()) }
}

/// Passes the contents of a file to `consume`, in chunks.
pub(super) fn read_chunks(
    image: &IsoImage,
    node: &Node,
    consume: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let source = image.contents(node)?;
    let mut chunk = vec![0; source.len().min(CHUNK) as usize];
    let mut at = 0;
    while at < source.len() {
        let buf = &mut chunk[..(source.len() - at).min(CHUNK) as usize];
        source.read_exact_at(buf, at).map_err(|e| Error::io("cannot read the file", e))?;
        consume(buf)?;
        at += buf.len() as u64;
    }
    Ok(())
}

/// Prefixes an error with the path of a file in the image.
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
fn write_all(out: &mut impl Write, bytes: &[u8]) -> Result<(), Failure> {
    Ok(out.write_all(bytes)?)
}
