//! Writing of objects to stores.
//!
//! ```text
//!   format ─► Spool ─► temporary file ─► parts: uploaded as soon as they are complete
//!                         │                     part 1 when all is written: headers are in it
//!                         └─ a part that changes afterwards is uploaded again
//!   publish: Store::put of what fits into one part, or else Store::complete
//!   drop:    Store::abort
//! ```
//!
//! A part that is uploaded again replaces the first one. The object appears, or replaces an older
//! one, when the upload is completed, and not before.

pub(crate) mod hash;
mod layout;
mod parts;
mod spool;

pub(crate) use layout::Limits;
pub(crate) use parts::Upload;

use crate::http::transport::Attempt;
use diskimg::storage::output::{Durability, OutputError, Publish, Result, Transferred};
use diskimg::storage::sink::{FileSink, Sink};
use diskimg::storage::source::{FileSource, RetryPolicy, Source, temporary_file};
use layout::Layout;
use spool::Spool;
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where an object is written to: what differs between kinds of stores. The bytes are those of
/// [`Upload::reader`].
pub(crate) trait Store: Debug + Send + Sync + Sized + 'static {
    /// What the store confirmed of a part.
    type Receipt: Debug + Clone + Send;

    /// Prepares for parts, unless that was done. Several threads may call this.
    ///
    /// # Errors
    /// Returns the error of the requests, which are repeated if that may help.
    fn begin(&self, upload: &Upload<Self>) -> io::Result<()>;

    /// Returns true if parts may have been sent that were neither completed nor aborted. Waits for a
    /// [`begin`](Self::begin) of another thread.
    fn has_begun(&self) -> bool;

    /// Sends a part once; it replaces an older part of the same index. Parts are counted from 0.
    fn put_part(
        &self,
        upload: &Upload<Self>,
        index: usize,
        range: &Range<u64>,
    ) -> Attempt<Self::Receipt>;

    /// Makes the object of these parts visible, and verifies it.
    ///
    /// # Errors
    /// Returns an error unless the store says that the object is the one that was written.
    fn complete(&self, upload: &Upload<Self>, parts: &[Self::Receipt]) -> io::Result<()>;

    /// Sends an object that fits into one part, and verifies it.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    fn put(&self, upload: &Upload<Self>) -> io::Result<()>;

    /// Removes the parts if the object was not completed. No more are sent.
    fn abort(&self, upload: &Upload<Self>);
}

/// An object that is being written.
#[derive(Debug)]
pub(crate) struct NewObject<S: Store> {
    sink: Arc<Spool<S>>,
    upload: Arc<Upload<S>>,
    /// The URL, for messages.
    name: PathBuf,
}

impl<S: Store> NewObject<S> {
    /// Creates the temporary file.
    ///
    /// # Errors
    /// Returns the underlying error if it cannot be created.
    pub(crate) fn create(
        store: S,
        limits: Limits,
        retry: RetryPolicy,
        name: String,
    ) -> io::Result<Self> {
        let file = temporary_file()?;
        let reader = file.try_clone()?;
        let upload = Arc::new(Upload::new(store, retry, Layout::new(0, limits), reader));
        let sink = Spool { file: FileSink::new(file, true)?, upload: Arc::clone(&upload) };
        Ok(Self { sink: Arc::new(sink), upload, name: name.into() })
    }

    pub(crate) fn upload(&self) -> &Upload<S> {
        &self.upload
    }

    fn error(&self, error: io::Error) -> OutputError {
        OutputError::new(Some(self.name.clone()), error)
    }
}

impl<S: Store> Publish for NewObject<S> {
    fn sink(&self) -> Arc<dyn Sink> {
        self.sink.clone()
    }

    fn path_of(&self, _: &Arc<dyn Sink>) -> Option<&Path> {
        Some(&self.name)
    }

    fn expect_len(&mut self, len: u64) -> Result<()> {
        self.upload.expect_len(len);
        Ok(())
    }

    fn require_readable(&self) -> Result<()> {
        Ok(())
    }

    /// Opens the temporary file: what is uploaded is verified by its checksums.
    fn read_back(&self) -> Result<Vec<(PathBuf, Arc<dyn Source>)>> {
        let file = self.upload.file().try_clone().and_then(FileSource::from_file);
        let file = file.map_err(|e| self.error(e))?;
        Ok(vec![(self.name.clone(), Arc::new(file))])
    }

    fn flush(&self, durability: Durability) -> Result<()> {
        self.flush_unless(durability, &mut || false)
    }

    fn flush_unless(&self, _: Durability, stopped: &mut dyn FnMut() -> bool) -> Result<()> {
        self.upload.finish_parts(stopped).map_err(|e| self.error(e))
    }

    fn transferred(&self) -> Option<Transferred> {
        let upload = Arc::clone(&self.upload);
        Some(Arc::new(move || upload.fraction_sent()))
    }

    fn publish(self: Box<Self>, _: Durability) -> Result<()> {
        self.upload.publish().map_err(|e| self.error(e))
    }
}

impl<S: Store> Drop for NewObject<S> {
    fn drop(&mut self) {
        self.upload.stop();
    }
}
