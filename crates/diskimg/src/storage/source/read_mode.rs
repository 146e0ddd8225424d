//! How the bytes of opened files are got at.

use super::{FileSource, MappedSource, Source};
use std::io;
use std::sync::Arc;

/// How the bytes of opened files are got at. It is handed along with what else
/// decides how an image's files are opened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ReadMode(Way);

#[derive(Debug, Clone, Copy, Default)]
enum Way {
    #[default]
    Read,
    /// Past the page cache.
    Direct,
    /// Only by [`ReadMode::mapped`].
    Mapped,
}

impl ReadMode {
    /// By reading past the page cache.
    pub(crate) const fn direct() -> Self {
        Self(Way::Direct)
    }

    /// By mapping.
    ///
    /// # Safety
    /// As [`MappedSource::new`], for every file that is opened by this word.
    #[allow(unsafe_code)]
    pub(crate) const unsafe fn mapped() -> Self {
        Self(Way::Mapped)
    }

    /// The source over `file`, whose name was judged already.
    pub(crate) fn to(self, file: FileSource) -> io::Result<Arc<dyn Source>> {
        match self.0 {
            Way::Read => Ok(Arc::new(file)),
            Way::Direct => Ok(Arc::new(file.past_the_cache()?)),
            Way::Mapped => {
                // SAFETY: whoever called `ReadMode::mapped` answers for every file.
                #[allow(unsafe_code)]
                let mapped = unsafe { MappedSource::new(file) }?;
                Ok(Arc::new(mapped))
            }
        }
    }
}
