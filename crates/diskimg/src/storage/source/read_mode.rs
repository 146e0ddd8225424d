//! How opened files are read.

#[cfg(feature = "mmap")]
use super::MappedSource;
use super::{FileSource, Source};
use std::io;
use std::sync::Arc;

/// How opened files are read: buffered (the default), with direct I/O, or mapped into memory.
///
/// Opaque, so that only the unsafe function [`ReadMode::mapped`] can select mapping.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ReadMode(Mode);

#[derive(Debug, Clone, Copy, Default)]
enum Mode {
    #[default]
    Buffered,
    Direct,
    #[cfg(feature = "mmap")]
    Mapped,
}

impl ReadMode {
    /// Returns the mode that uses direct I/O.
    pub(crate) const fn direct() -> Self {
        Self(Mode::Direct)
    }

    /// Returns the mode that maps files into memory.
    ///
    /// # Safety
    /// The requirements of [`MappedSource::new`] apply to every file that is opened in this mode.
    #[cfg(feature = "mmap")]
    #[allow(unsafe_code)]
    pub(crate) const unsafe fn mapped() -> Self {
        Self(Mode::Mapped)
    }

    /// Creates the source that reads `file` in this mode.
    pub(crate) fn source(self, file: FileSource) -> io::Result<Arc<dyn Source>> {
        match self.0 {
            Mode::Buffered => Ok(Arc::new(file)),
            Mode::Direct => Ok(Arc::new(file.direct_io()?)),
            #[cfg(feature = "mmap")]
            Mode::Mapped => {
                // SAFETY: the caller of `ReadMode::mapped` guarantees it for every file.
                #[allow(unsafe_code)]
                let mapped = unsafe { MappedSource::new(file) }?;
                Ok(Arc::new(mapped))
            }
        }
    }
}
