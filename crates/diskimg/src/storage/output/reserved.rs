//! The temporary file of an output, created before it is needed.
//!
//! A process that will be confined, for example with seccomp(2), calls [`reserve_output`] first.
//! [`Output::create`](super::Output::create) of the same path then uses the file, which already has
//! the mode, owner and attributes of the one that it replaces: none need be set later.

use super::directory_of;
use super::links::Destination;
use super::output_file::OutputFile;
use std::fs::{File, FileTimes};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The output of this process.
struct Reserved {
    /// The path as it was given.
    name: PathBuf,
    /// To which file it leads. Resolved once: what is reserved is also what is written.
    found: Option<Destination>,
    /// `None` if it was used.
    reservation: Option<Reservation>,
}

/// How the output will be written.
pub(super) enum Reservation {
    /// To this temporary file, of which there is a second handle; or why it could not be created.
    Staged(io::Result<(OutputFile, File)>),
    /// To the existing file, which cannot be replaced for this reason.
    Overwritten(Destination, String),
    /// To a device, a pipe or an open file.
    Direct(Destination),
}

static RESERVED: Mutex<Option<Reserved>> = Mutex::new(None);

/// Creates the temporary file of an output that will be named `path` now, if it will have one. What
/// was reserved before is removed. If it cannot be created, creating the output fails later, with
/// the same error.
pub fn reserve_output(path: &Path) {
    release_output();
    let (found, reservation) = match Destination::of(path) {
        Ok(found) => {
            let reservation = reserve(&found).unwrap_or_else(|e| Reservation::Staged(Err(e)));
            (Some(found), reservation)
        }
        Err(e) => (None, Reservation::Staged(Err(e))),
    };
    *locked() = Some(Reserved { name: path.to_owned(), found, reservation: Some(reservation) });
}

/// Creates the temporary file, unless there will be none because an existing file or device will be
/// overwritten.
fn reserve(found: &Destination) -> io::Result<Reservation> {
    match found.metadata() {
        Ok(metadata) if metadata.is_file() && found.open_file.is_none() => {}
        Ok(_) => return Ok(Reservation::Direct(found.clone())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let directory = directory_of(&found.path);
    let modified = std::fs::metadata(directory).and_then(|found| found.modified());
    let staged = OutputFile::stage(found.path.clone(), found.path.clone());
    // The directory may be read for the output. Only its owner can set its time.
    if let (Ok(modified), Ok(directory)) = (modified, File::open(directory)) {
        let _ = directory.set_times(FileTimes::new().set_modified(modified));
    }
    let (mut part, second) = staged?;
    if let Some(overwritten) = &part.overwritten {
        return Ok(Reservation::Overwritten(found.clone(), overwritten.reason().to_owned()));
    }
    let Some(second) = second else { return Ok(Reservation::Direct(found.clone())) };
    part.take_attributes()?;
    Ok(Reservation::Staged(Ok((part, second))))
}

/// Returns the path of the reserved temporary file, and that of the output, if there is one that was
/// not used yet.
#[must_use]
pub fn reserved_output() -> Option<(PathBuf, PathBuf)> {
    let reserved = locked();
    let reserved = reserved.as_ref()?;
    let Some(Reservation::Staged(Ok((part, _)))) = &reserved.reservation else { return None };
    Some((part.temporary_path()?.to_owned(), reserved.found.as_ref()?.path.clone()))
}

/// Returns the file to which the path of an output leads: what [`reserve_output`] has found, if it
/// was called with this path.
///
/// # Errors
/// As [`Destination::of`].
pub fn output_destination(path: &Path) -> io::Result<Destination> {
    let reserved = locked();
    let found = reserved.as_ref().filter(|reserved| reserved.name == path);
    match found.and_then(|reserved| reserved.found.clone()) {
        Some(found) => Ok(found),
        None => Destination::of(path),
    }
}

/// Removes the reserved temporary file, if it was not used.
pub fn release_output() {
    *locked() = None;
}

/// Returns what was reserved for the output `path`.
pub(super) fn take(path: &Path) -> Option<Reservation> {
    let mut reserved = locked();
    reserved.as_mut().filter(|reserved| reserved.name == path)?.reservation.take()
}

fn locked() -> MutexGuard<'static, Option<Reserved>> {
    RESERVED.lock().unwrap_or_else(PoisonError::into_inner)
}
