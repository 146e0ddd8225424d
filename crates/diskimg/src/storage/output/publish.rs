//! The interface for places where images are written.

use super::Durability;
use super::error::{OutputError, Result};
use crate::storage::caching::Caching;
use crate::storage::hints::AllocationHints;
use crate::storage::sink::Sink;
use crate::storage::source::{HostFileId, Source};
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Returns which fraction of what was written has been transferred, from 0 to 1; see
/// [`Publish::transferred`].
pub type Transferred = Arc<dyn Fn() -> f64 + Send + Sync>;

/// A place where an image is written and then published, that is, becomes visible to readers: a
/// file is renamed, an upload is completed, a device needs nothing.
///
/// The engine writes all bytes to the sinks, then calls [`flush`](Self::flush) and
/// [`publish`](Self::publish) once each. If an error occurs before that, or the operation is
/// cancelled, it drops the value without publishing it, which must leave nothing behind.
pub trait Publish: Send + Sync + Debug {
    /// Returns the sink of the main file.
    fn sink(&self) -> Arc<dyn Sink>;

    /// Returns the path that the main file has or will have, which some formats record; `None` if
    /// it has no name.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Returns true if the image can have files besides the main one.
    fn supports_companions(&self) -> bool {
        false
    }

    /// Creates an additional file of the image, whose `name` is derived from the main file's, next
    /// to it. It is published with the main file, or not at all.
    ///
    /// # Errors
    /// Returns an error if the file cannot be created or would replace a file that must not be
    /// replaced. The default returns [`io::ErrorKind::Unsupported`].
    fn companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        let message = "an image of several files cannot be written here";
        let error = io::Error::new(io::ErrorKind::Unsupported, message);
        Err(OutputError::new(Some(name.to_owned()), error))
    }

    /// As [`companion`](Self::companion), with a name given by the user, which may be in another
    /// directory.
    ///
    /// # Errors
    /// As [`companion`](Self::companion).
    fn named_companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        self.companion(name)
    }

    /// Returns the path of the file of one of the sinks, for errors.
    fn path_of(&self, sink: &Arc<dyn Sink>) -> Option<&Path> {
        let _ = sink;
        None
    }

    /// Sets how all files use the page cache. Called before anything is written. The default does
    /// nothing.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] if a file system does not support it.
    fn set_caching(&mut self, caching: Caching) -> Result<()> {
        let _ = caching;
        Ok(())
    }

    /// Tells the file system how to allocate the space of all files. Called before anything is
    /// written. The default does nothing.
    fn set_allocation_hints(&mut self, hints: AllocationHints) {
        let _ = hints;
    }

    /// Announces how many bytes will be written at most, so that the place can decide before that
    /// how it stores them. Called at most once, before anything is written. The default does
    /// nothing.
    ///
    /// # Errors
    /// Returns the underlying error if the place cannot be prepared.
    fn expect_len(&mut self, len: u64) -> Result<()> {
        let _ = len;
        Ok(())
    }

    /// Returns what users should know about how the image is written, such as that an existing file
    /// cannot be replaced and is overwritten.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns what was lost if the operation fails now: a sentence about an existing file whose
    /// old content has been overwritten. `None` if existing files are unchanged.
    fn loss(&self) -> Option<String> {
        None
    }

    /// Prevents companions from replacing any of `files`, and
    /// [`remove_leftovers`](Self::remove_leftovers) from removing them. `why` is the error message.
    /// Does not check the main file; that is the caller's responsibility.
    fn protect(&mut self, files: &[HostFileId], why: &'static str) {
        let _ = (files, why);
    }

    /// Removes what killed processes have left of earlier attempts to write the same output, which
    /// frees its space. Called after [`protect`](Self::protect), and perhaps again. The default
    /// does nothing.
    fn remove_leftovers(&mut self) {}

    /// Checks that [`read_back`](Self::read_back) will be possible.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] if what was written cannot be read. This is the
    /// default.
    fn require_readable(&self) -> Result<()> {
        let message = "what is written here cannot be read before it is published";
        Err(OutputError::new(None, io::Error::new(io::ErrorKind::Unsupported, message)))
    }

    /// Opens all files for reading, after they were flushed and before they are published, and
    /// returns them with the paths that they have or will have, the main file first.
    ///
    /// # Errors
    /// As [`require_readable`](Self::require_readable), and the underlying error if opening fails.
    fn read_back(&self) -> Result<Vec<(PathBuf, Arc<dyn Source>)>> {
        self.require_readable()?;
        Ok(Vec::new())
    }

    /// Completes the transfer of all data, which may take long. With [`Durability::Flushed`], the
    /// data is on stable storage afterwards. Nothing becomes visible.
    ///
    /// # Errors
    /// Returns the underlying error, with the file that it concerns.
    fn flush(&self, durability: Durability) -> Result<()>;

    /// As [`flush`](Self::flush), but calls `stopped` several times a second while it waits for
    /// others, such as a server. The default does not call it.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Interrupted`] if `stopped` returns true, and the errors of
    /// [`flush`](Self::flush).
    fn flush_unless(
        &self,
        durability: Durability,
        stopped: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        let _ = stopped;
        self.flush(durability)
    }

    /// For a place that transfers data later than it is written: returns a function that returns
    /// which fraction of it has been transferred, from 0 to 1, for progress. Such a place should also
    /// have [`flush_unless`](Self::flush_unless). The default returns `None`.
    fn transferred(&self) -> Option<Transferred> {
        None
    }

    /// Makes all files visible under their names, replacing older ones.
    ///
    /// # Errors
    /// Returns the underlying error, with the file that it concerns. Old files are kept or restored
    /// then.
    fn publish(self: Box<Self>, durability: Durability) -> Result<()>;
}
