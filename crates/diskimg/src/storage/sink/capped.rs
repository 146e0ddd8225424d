//! Sinks that together accept a limited number of bytes.

use super::Sink;
use crate::storage::caching::Caching;
use crate::storage::hints::AllocationHints;
use crate::storage::lock;
use crate::storage::source::Source;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The number of bytes that several sinks may still accept.
pub(crate) struct Cap {
    left: AtomicU64,
    exceeded: Box<dyn Fn() -> io::Error + Send + Sync>,
}

impl Cap {
    /// Creates a cap of `max` bytes. Writes beyond it fail with the error that `exceeded` returns.
    pub(crate) fn new(
        max: u64,
        exceeded: impl Fn() -> io::Error + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(max), exceeded: Box::new(exceeded) })
    }

    fn take(&self, len: u64) -> io::Result<()> {
        let taken = |left: u64| left.checked_sub(len);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken) {
            Ok(_) => Ok(()),
            Err(_) => Err((self.exceeded)()),
        }
    }

    /// Takes `len` bytes for an attempt that returns false if nothing was written.
    fn attempt(&self, len: u64, write: impl FnOnce() -> io::Result<bool>) -> io::Result<bool> {
        self.take(len)?;
        let is_written = write()?;
        if !is_written {
            self.left.fetch_add(len, Ordering::Relaxed);
        }
        Ok(is_written)
    }
}

impl fmt::Debug for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cap({} bytes left)", self.left.load(Ordering::Relaxed))
    }
}

/// A sink whose written bytes count towards a [`Cap`]: data, explicit zeros, and reserved space,
/// but no holes. If it is sequential, every byte up to its end counts.
#[derive(Debug)]
pub(crate) struct CappedSink {
    inner: Arc<dyn Sink>,
    cap: Arc<Cap>,
    usage: Mutex<Usage>,
}

/// What a sink has accepted, in bytes.
#[derive(Debug, Default)]
struct Usage {
    /// Written; or the end of what was written, if the sink is sequential.
    written: u64,
    /// Reserved. Data is written into reserved space, or space is reserved for written data, so
    /// that only the larger number counts.
    reserved: u64,
}

impl Usage {
    fn counted(&self) -> u64 {
        self.written.max(self.reserved)
    }
}

impl CappedSink {
    pub(crate) fn new(inner: Arc<dyn Sink>, cap: Arc<Cap>) -> Self {
        Self { inner, cap, usage: Mutex::default() }
    }

    /// Returns the sink to which it writes.
    pub(crate) fn inner(&self) -> &Arc<dyn Sink> {
        &self.inner
    }

    /// Changes the usage by `change`, if the cap allows it.
    fn count(&self, change: impl FnOnce(&mut Usage)) -> io::Result<()> {
        let mut usage = lock(&self.usage);
        let before = usage.counted();
        change(&mut usage);
        self.cap.take(usage.counted() - before)
    }

    fn take(&self, offset: u64, len: u64) -> io::Result<()> {
        let is_sequential = self.inner.is_sequential();
        self.count(|usage| {
            usage.written = match is_sequential {
                true => usage.written.max(offset.saturating_add(len)),
                false => usage.written.saturating_add(len),
            };
        })
    }
}

impl Sink for CappedSink {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.take(offset, buf.len() as u64)?;
        self.inner.write_all_at(buf, offset)
    }

    fn is_sequential(&self) -> bool {
        self.inner.is_sequential()
    }

    fn is_zeroed(&self) -> bool {
        self.inner.is_zeroed()
    }

    fn has_fixed_len(&self) -> bool {
        self.inner.has_fixed_len()
    }

    fn fill_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.take(offset, len)?;
        self.inner.fill_zeros_at(offset, len)
    }

    fn write_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.inner.is_sequential() {
            self.take(offset, len)?;
        }
        self.inner.write_zeros_at(offset, len)
    }

    fn preallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.count(|usage| usage.reserved = usage.reserved.saturating_add(len))?;
        self.inner.preallocate(offset, len)
    }

    fn shareable_block(&self, source: &dyn Source) -> io::Result<Option<u64>> {
        self.inner.shareable_block(source)
    }

    fn share(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        self.cap.attempt(len, || self.inner.share(source, source_offset, offset, len))
    }

    fn copy_from(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        self.cap.attempt(len, || self.inner.copy_from(source, source_offset, offset, len))
    }

    fn set_caching(&self, caching: Caching) -> io::Result<()> {
        self.inner.set_caching(caching)
    }

    fn set_allocation_hints(&self, hints: AllocationHints) {
        self.inner.set_allocation_hints(hints);
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.inner.is_sequential() {
            self.take(len, 0)?;
        }
        self.inner.set_len(len)
    }

    fn start_flush(&self) {
        self.inner.start_flush();
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sink::{MemorySink, PipeSink};

    fn cap(max: u64) -> Arc<Cap> {
        Cap::new(max, || io::Error::other("enough"))
    }

    #[test]
    fn several_sinks_share_a_cap_and_holes_are_free() {
        let cap = cap(10);
        let sinks = [(); 2].map(|()| CappedSink::new(Arc::new(MemorySink::new()), cap.clone()));
        sinks[0].write_all_at(&[1; 4], 1 << 20).expect("fits");
        sinks[1].set_len(1 << 20).expect("a hole");
        sinks[1].fill_zeros_at(7, 6).expect("fits exactly");
        let error = sinks[0].write_all_at(&[1], 0).expect_err("too much");
        assert_eq!(error.to_string(), "enough");
        sinks[0].write_all_at(&[], 0).expect("nothing");
    }

    #[test]
    fn every_byte_of_a_pipe_counts() {
        let pipe = || CappedSink::new(Arc::new(PipeSink::new(io::sink())), cap(10));
        let sink = pipe();
        sink.write_all_at(&[1; 2], 8).expect("fits exactly");
        sink.set_len(10).expect("unchanged");
        sink.set_len(11).expect_err("too long");
        pipe().write_all_at(&[1; 2], 9).expect_err("too long");
    }

    #[test]
    fn data_in_reserved_space_counts_once() {
        let file = || {
            let file = tempfile::tempfile().expect("creates");
            let file = crate::storage::sink::FileSink::new(file, true).expect("opens");
            CappedSink::new(Arc::new(file), cap(8192))
        };
        let sink = file();
        if sink.preallocate(0, 4096).is_ok() {
            sink.write_all_at(&[1; 4096], 0).expect("is counted");
            sink.write_all_at(&[1; 4096], 4096).expect("fits exactly");
            sink.preallocate(4096, 4096).expect("is counted");
            sink.preallocate(8192, 1).expect_err("too much");
            file().preallocate(0, 8193).expect_err("too much");
        }
    }

    #[test]
    fn what_was_not_shared_does_not_count() {
        let sink = CappedSink::new(Arc::new(MemorySink::new()), cap(10));
        let source = crate::storage::source::MemorySource::new(vec![0; 10]);
        assert!(!sink.share(&source, 0, 0, 10).expect("not supported"));
        assert!(!sink.copy_from(&source, 0, 0, 10).expect("not supported"));
        sink.write_all_at(&[1; 10], 0).expect("fits");
        sink.share(&source, 0, 0, 1).expect_err("too much");
    }
}
