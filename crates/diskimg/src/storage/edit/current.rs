//! Storage as a source of its current length.

use super::Storage;
use crate::storage::source::{HostFileId, Segment, Source, SourceError};
use std::path::Path;
use std::sync::Arc;

/// Storage as a [`Source`] whose length is the current one. It must not become shorter.
#[derive(Debug)]
pub(crate) struct CurrentSource(pub(crate) Arc<dyn Storage>);

impl Source for CurrentSource {
    fn len(&self) -> u64 {
        self.0.current_len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.0.read_exact_at(buf, offset)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        self.0.segment_at(offset)
    }

    fn path(&self) -> Option<&Path> {
        self.0.path()
    }

    fn is_device(&self) -> bool {
        self.0.is_device()
    }

    fn identity(&self) -> Option<HostFileId> {
        self.0.identity()
    }
}
