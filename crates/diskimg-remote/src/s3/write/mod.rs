//! Writing of objects.
//!
//! ```text
//!   format ─► Spool ─► temporary file ─► parts: uploaded as soon as they are complete
//!                         │                     part 1 when all is written: headers are in it
//!                         └─ a part that changes afterwards is uploaded again
//!   publish: PutObject of what fits into one part, or else CompleteMultipartUpload, and HeadObject
//!   drop:    AbortMultipartUpload
//! ```
//!
//! A part that is uploaded again replaces the first one. The object appears, or replaces an older
//! one, when the upload is completed, and not before.

mod complete;
mod digest;
mod layout;
mod resume;
mod spool;
mod upload;

use super::object::Object;
use diskimg::storage::output::{Durability, OutputError, Publish, Result};
use diskimg::storage::sink::{FileSink, Sink};
use diskimg::storage::source::{FileSource, RetryPolicy, Source, temporary_file};
use layout::Layout;
use resume::Resume;
pub(super) use resume::check as check_resume;
use spool::Spool;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use upload::Upload;

/// An object that is being written.
#[derive(Debug)]
pub(super) struct NewObject {
    sink: Arc<Spool>,
    upload: Arc<Upload>,
    /// The URL, for messages.
    name: PathBuf,
}

impl NewObject {
    /// Creates the temporary file. With `create_only`, the object must not exist. `resume` is a file
    /// that records the upload.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::AlreadyExists`] if it does, [`io::ErrorKind::InvalidInput`] if the
    /// file records another upload, and the underlying error if it cannot be read or the temporary
    /// file cannot be created.
    pub(super) fn create(
        object: Object,
        retry: RetryPolicy,
        create_only: bool,
        resume: Option<&Path>,
        name: String,
    ) -> io::Result<Self> {
        let resume =
            resume.map(|path| Resume::load(path, resume::destination(&object))).transpose()?;
        let file = temporary_file()?;
        let reader = file.try_clone()?;
        let upload = Arc::new(Upload::new(object, retry, create_only, resume, reader));
        if create_only {
            upload.require_absent()?;
        }
        let sink = Spool { file: FileSink::new(file, true)?, upload: Arc::clone(&upload) };
        Ok(Self { sink: Arc::new(sink), upload, name: name.into() })
    }

    fn error(&self, error: io::Error) -> OutputError {
        OutputError::new(Some(self.name.clone()), error)
    }
}

impl Publish for NewObject {
    fn sink(&self) -> Arc<dyn Sink> {
        self.sink.clone()
    }

    fn path_of(&self, _: &Arc<dyn Sink>) -> Option<&Path> {
        Some(&self.name)
    }

    fn expect_len(&mut self, len: u64) -> Result<()> {
        self.upload.set_layout(Layout::new(len));
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

    fn publish(self: Box<Self>, _: Durability) -> Result<()> {
        self.upload.publish().map_err(|e| self.error(e))
    }
}

impl Drop for NewObject {
    fn drop(&mut self) {
        self.upload.stop();
    }
}
