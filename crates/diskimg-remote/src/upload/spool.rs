//! The sink: a temporary file, whose parts are uploaded when they are complete.

use super::Store;
use super::parts::Upload;
use diskimg::storage::sink::{FileSink, Sink};
use diskimg::storage::source::Source;
use std::io;
use std::sync::Arc;

/// Records what is written to the temporary file.
#[derive(Debug)]
pub(super) struct Spool<S: Store> {
    pub(super) file: FileSink,
    pub(super) upload: Arc<Upload<S>>,
}

impl<S: Store> Spool<S> {
    /// Writes, and records that a range has changed. It is recorded afterwards: a part that is being
    /// uploaded meanwhile is uploaded again.
    fn recorded<T>(
        &self,
        offset: u64,
        len: u64,
        write: impl FnOnce(&FileSink) -> io::Result<T>,
    ) -> io::Result<T> {
        self.upload.require_running()?;
        let done = write(&self.file)?;
        self.upload.wrote(offset..offset.saturating_add(len));
        Ok(done)
    }
}

impl<S: Store> Sink for Spool<S> {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.recorded(offset, buf.len() as u64, |file| file.write_all_at(buf, offset))
    }

    fn is_zeroed(&self) -> bool {
        true
    }

    fn fill_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        // An object has no holes.
        self.write_zeros_at(offset, len)
    }

    fn write_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.recorded(offset, len, |file| file.write_zeros_at(offset, len))
    }

    fn copy_from(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        self.recorded(offset, len, |file| file.copy_from(source, source_offset, offset, len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.upload.require_running()?;
        let old = self.upload.len()?;
        self.file.set_len(len)?;
        self.upload.changed(old.min(len)..old.max(len));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        // The temporary file needs no stable storage.
        self.upload.require_running()
    }
}
