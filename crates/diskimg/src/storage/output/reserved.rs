//! The temporary file of an output, created before it is needed.
//!
//! A process that will be confined, for example with seccomp(2), calls [`reserve_output`] first.
//! [`Output::create`](super::Output::create) of the same path then uses the file, which already has
//! the mode, owner and attributes of the one that it replaces: none need be set later.

use super::output_file::{Destination, OutputFile, destination};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What was reserved for the output at a path, whose symbolic links are resolved if they can be.
type Reserved = (PathBuf, io::Result<(OutputFile, File)>);

/// The output of this process, and a second handle of its temporary file; or why it could not be
/// created.
static RESERVED: Mutex<Option<Reserved>> = Mutex::new(None);

/// Creates the temporary file of an output that will be named `path` now, if it will have one. What
/// was reserved before is removed. If it cannot be created, creating the output fails later, with
/// the same error.
pub fn reserve_output(path: &Path) {
    release_output();
    let reserved = match destination(path) {
        Ok(Destination { descriptor: Some(_), .. }) => return,
        Ok(Destination { path, .. }) => {
            let staged = stage(&path).transpose();
            staged.map(|staged| (path, staged))
        }
        Err(e) => Some((path.to_owned(), Err(e))),
    };
    *locked() = reserved;
}

/// Creates the temporary file, unless there will be none because an existing file or device will be
/// overwritten.
fn stage(path: &Path) -> io::Result<Option<(OutputFile, File)>> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let (mut part, second) = OutputFile::stage(path.to_owned(), path.to_owned())?;
    let Some(second) = second else { return Ok(None) };
    part.take_attributes()?;
    Ok(Some((part, second)))
}

/// Returns the path of the reserved temporary file, and that of the output, if there is one that was
/// not used yet.
#[must_use]
pub fn reserved_output() -> Option<(PathBuf, PathBuf)> {
    let reserved = locked();
    let (path, Ok((part, _))) = reserved.as_ref()? else { return None };
    Some((part.temporary_path()?.to_owned(), path.clone()))
}

/// Removes the reserved temporary file, if it was not used.
pub fn release_output() {
    *locked() = None;
}

/// Returns what was reserved for the output `path`, whose symbolic links are resolved, or why they
/// cannot be.
pub(super) fn take(path: &Path) -> Option<io::Result<(OutputFile, File)>> {
    locked().take_if(|(reserved, _)| reserved == path).map(|(_, outcome)| outcome)
}

fn locked() -> MutexGuard<'static, Option<Reserved>> {
    RESERVED.lock().unwrap_or_else(PoisonError::into_inner)
}
