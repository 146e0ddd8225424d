//! Files that are modified in place.
//!
//! [`Storage`] is a file that is read, written and resized. [`Edits`] is a list of writes in an
//! order that keeps an image usable if the process is killed or power is lost at any point.

mod edits;
mod file;
mod memory;
pub(crate) mod pending;
mod reopened;
mod saving;

pub use edits::{Edit, Edits};
pub use file::FileStorage;
pub use memory::MemoryStorage;
pub(crate) use reopened::Reopened;
pub(crate) use saving::SavingStorage;

use crate::storage::sink::Sink;
use crate::storage::source::Source;
use std::io;

/// Access to host bytes by offset, for reading and writing in place.
///
/// [`Source::len`] is the length when the storage was opened; reads are valid up to the
/// [current length](Self::current_len).
pub trait Storage: Source + Sink {
    /// Returns the current length in bytes, which writes and [`Sink::set_len`] change.
    fn current_len(&self) -> u64;

    /// Allows the range to be deallocated. Its bytes are undefined afterwards.
    ///
    /// # Errors
    /// Returns the underlying error if deallocating fails. It is not an error if the storage cannot
    /// deallocate.
    fn discard_at(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Notes that a new file was put in the place of this one, under its name. The default does
    /// nothing.
    fn note_replaced(&self) {}

    /// Makes all earlier writes durable before any later one.
    ///
    /// # Errors
    /// As [`Sink::flush`].
    fn barrier(&self) -> io::Result<()> {
        self.flush()
    }
}
