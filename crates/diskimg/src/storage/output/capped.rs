//! An output whose files together take a limited number of bytes.

use super::Durability;
use super::error::Result;
use super::publish::{Publish, Transferred};
use crate::storage::caching::Caching;
use crate::storage::hints::AllocationHints;
use crate::storage::lock;
use crate::storage::sink::{Cap, CappedSink, Sink};
use crate::storage::source::{HostFileId, Source};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A place whose sinks count towards a [`Cap`].
#[derive(Debug)]
pub(super) struct Capped {
    inner: Box<dyn Publish>,
    cap: Arc<Cap>,
    /// The sinks handed out.
    sinks: Mutex<Vec<Arc<CappedSink>>>,
}

impl Capped {
    pub(super) fn new(inner: Box<dyn Publish>, cap: Arc<Cap>) -> Self {
        Self { inner, cap, sinks: Mutex::default() }
    }

    /// Returns the capped sink that writes to `inner`, the same for every call.
    fn capped(&self, inner: Arc<dyn Sink>) -> Arc<dyn Sink> {
        let mut sinks = lock(&self.sinks);
        if let Some(known) = sinks.iter().find(|sink| Arc::ptr_eq(sink.inner(), &inner)) {
            return known.clone();
        }
        let sink = Arc::new(CappedSink::new(inner, Arc::clone(&self.cap)));
        sinks.push(Arc::clone(&sink));
        sink
    }
}

impl Publish for Capped {
    fn sink(&self) -> Arc<dyn Sink> {
        self.capped(self.inner.sink())
    }

    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }

    fn supports_companions(&self) -> bool {
        self.inner.supports_companions()
    }

    fn companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        let sink = self.inner.companion(name)?;
        Ok(self.capped(sink))
    }

    fn named_companion(&mut self, name: &Path) -> Result<Arc<dyn Sink>> {
        let sink = self.inner.named_companion(name)?;
        Ok(self.capped(sink))
    }

    fn path_of(&self, sink: &Arc<dyn Sink>) -> Option<&Path> {
        let address = Arc::as_ptr(sink).cast::<()>();
        let sinks = lock(&self.sinks);
        let known = sinks.iter().find(|known| Arc::as_ptr(known).cast::<()>() == address)?;
        let inner = Arc::clone(known.inner());
        drop(sinks);
        self.inner.path_of(&inner)
    }

    fn set_caching(&mut self, caching: Caching) -> Result<()> {
        self.inner.set_caching(caching)
    }

    fn set_allocation_hints(&mut self, hints: AllocationHints) {
        self.inner.set_allocation_hints(hints);
    }

    fn remove_leftovers(&mut self) {
        self.inner.remove_leftovers();
    }

    fn expect_len(&mut self, len: u64) -> Result<()> {
        self.inner.expect_len(len)
    }

    fn notes(&self) -> Vec<String> {
        self.inner.notes()
    }

    fn loss(&self) -> Option<String> {
        self.inner.loss()
    }

    fn protect(&mut self, files: &[HostFileId], why: &'static str) {
        self.inner.protect(files, why);
    }

    fn require_readable(&self) -> Result<()> {
        self.inner.require_readable()
    }

    fn read_back(&self) -> Result<Vec<(PathBuf, Arc<dyn Source>)>> {
        self.inner.read_back()
    }

    fn flush(&self, durability: Durability) -> Result<()> {
        self.inner.flush(durability)
    }

    fn flush_unless(
        &self,
        durability: Durability,
        stopped: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        self.inner.flush_unless(durability, stopped)
    }

    fn transferred(&self) -> Option<Transferred> {
        self.inner.transferred()
    }

    fn publish(self: Box<Self>, durability: Durability) -> Result<()> {
        self.inner.publish(durability)
    }
}
