//! Sources, sinks and storage that fail at a chosen operation.

use diskimg::Source;
use diskimg::storage::edit::{MemoryStorage, Storage};
use diskimg::storage::sink::{MemorySink, Sink};
use diskimg::storage::source::{HostFileId, Segment, SourceError};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One operation fails with EIO; later ones succeed.
    EioOnce,
    /// One operation and all later ones fail with EIO.
    EioForever,
    /// One operation of a sink fails with ENOSPC.
    NoSpace,
    /// One operation of a source fails with an unexpected end of file.
    ShortRead,
    /// From one operation on, the source is [half](truncated_len) as long.
    Truncated,
    /// One operation of a source fails because the connection was lost, with an error that looks
    /// like an unexpected end of file.
    LostConnection,
}

impl Fault {
    pub const ALL: [Self; 6] = [
        Self::EioOnce,
        Self::EioForever,
        Self::NoSpace,
        Self::ShortRead,
        Self::Truncated,
        Self::LostConnection,
    ];

    /// Returns the error that a failing operation returns.
    fn error(self) -> io::Error {
        match self {
            Self::EioOnce | Self::EioForever => io::Error::from_raw_os_error(5),
            Self::NoSpace => io::Error::from_raw_os_error(28),
            Self::ShortRead | Self::Truncated => {
                SourceError::OutOfRange { offset: 0, len: 1, source_len: 0 }.into()
            }
            Self::LostConnection => {
                let closed = io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed");
                SourceError::Transient(closed).into()
            }
        }
    }

    /// Returns true if the fault can occur on this side.
    fn applies_to(self, side: Side) -> bool {
        match self {
            Self::EioOnce | Self::EioForever => true,
            Self::NoSpace => side == Side::Sink,
            Self::ShortRead | Self::Truncated | Self::LostConnection => side == Side::Source,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Sink,
}

/// Counts the operations of all storage that shares it and decides which of them fail.
#[derive(Debug)]
pub struct FaultPlan {
    fault: Fault,
    /// Number of the first operation that fails, counted from 0 over those that the fault applies
    /// to.
    at: u64,
    count: AtomicU64,
    /// Operations are counted and may fail.
    armed: AtomicBool,
    /// The operations that failed, in order.
    failed: Mutex<Vec<(Side, &'static str)>>,
}

impl FaultPlan {
    /// Returns a plan in which operation number `at` fails.
    pub fn new(fault: Fault, at: u64) -> Arc<Self> {
        Arc::new(Self {
            fault,
            at,
            count: AtomicU64::new(0),
            armed: AtomicBool::new(true),
            failed: Mutex::default(),
        })
    }

    /// Returns a plan that counts operations; none fails.
    pub fn count_only(fault: Fault) -> Arc<Self> {
        Self::new(fault, u64::MAX)
    }

    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// Enables or disables counting and failing.
    pub fn arm(&self, armed: bool) {
        self.armed.store(armed, Ordering::SeqCst);
    }

    /// Returns the number of operations so far that the fault applies to.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Returns the operations that failed, in order.
    pub fn failed(&self) -> Vec<(Side, &'static str)> {
        self.failed.lock().unwrap().clone()
    }

    /// Counts an operation; returns an error if the plan lets it fail.
    fn begin(&self, side: Side, operation: &'static str) -> io::Result<()> {
        if !self.fault.applies_to(side) || !self.armed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let n = self.count.fetch_add(1, Ordering::SeqCst);
        let fails = match self.fault {
            Fault::EioForever => n >= self.at,
            // Only reads beyond the new end fail; the source detects them itself.
            Fault::Truncated => {
                if n == self.at {
                    self.failed.lock().unwrap().push((side, operation));
                }
                false
            }
            _ => n == self.at,
        };
        if !fails {
            return Ok(());
        }
        self.failed.lock().unwrap().push((side, operation));
        Err(self.fault.error())
    }

    fn has_truncated(&self) -> bool {
        self.fault == Fault::Truncated && self.count() > self.at
    }
}

/// Returns the length of a truncated source, in whole clusters: the last cluster of a qcow2 file
/// may be incomplete, so that bytes missing within a cluster are read as zeros.
pub fn truncated_len(len: u64) -> u64 {
    const CLUSTER: u64 = 128 << 10;
    let half = len / 2;
    if half < CLUSTER { half } else { half / CLUSTER * CLUSTER }
}

/// A source that fails according to its plan.
#[derive(Debug)]
pub struct FaultySource {
    pub inner: Arc<dyn Source>,
    pub faults: Arc<FaultPlan>,
    /// `as_file` returns the underlying file, so that its blocks can be shared.
    pub exposes_file: bool,
}

impl Source for FaultySource {
    fn len(&self) -> u64 {
        let len = self.inner.len();
        if self.faults.has_truncated() { truncated_len(len) } else { len }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.faults.begin(Side::Source, "read")?;
        let (len, source_len) = (buf.len() as u64, self.len());
        if offset + len > source_len {
            return Err(SourceError::OutOfRange { offset, len, source_len });
        }
        self.inner.read_exact_at(buf, offset)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        self.faults.begin(Side::Source, "segment")?;
        let len = self.len();
        if offset >= len {
            return Err(SourceError::OutOfRange { offset, len: 1, source_len: len });
        }
        let segment = self.inner.segment_at(offset)?;
        Ok(Segment { end: segment.end.min(len), ..segment })
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        self.inner.as_file().filter(|_| self.exposes_file)
    }

    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        self.faults.begin(Side::Source, "allocated")?;
        self.inner.allocated_bytes()
    }

    fn identity(&self) -> Option<HostFileId> {
        self.inner.identity()
    }
}

/// A sink in memory that fails according to its plan. A failing operation has no effect.
#[derive(Debug)]
pub struct FaultySink {
    pub inner: MemorySink,
    pub faults: Arc<FaultPlan>,
    /// Blocks of the source's file can be shared.
    pub can_share: bool,
}

impl FaultySink {
    fn begin(&self, operation: &'static str) -> io::Result<()> {
        self.faults.begin(Side::Sink, operation)
    }
}

impl Sink for FaultySink {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.begin("write")?;
        self.inner.write_all_at(buf, offset)
    }

    fn is_zeroed(&self) -> bool {
        true
    }

    fn write_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.begin("write_zeros")?;
        self.inner.write_zeros_at(offset, len)
    }

    fn preallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.begin("preallocate")?;
        if self.inner.to_source().len() < offset + len {
            self.inner.set_len(offset + len)?;
        }
        Ok(())
    }

    fn shareable_block(&self, _: &dyn Source) -> io::Result<Option<u64>> {
        self.begin("shareable_block")?;
        Ok(self.can_share.then_some(4096))
    }

    fn share(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        self.begin("share")?;
        let mut bytes = vec![0; len as usize];
        source.read_exact_at(&mut bytes, source_offset)?;
        self.inner.write_all_at(&bytes, offset)?;
        Ok(true)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.begin("set_len")?;
        self.inner.set_len(len)
    }

    fn flush(&self) -> io::Result<()> {
        self.begin("flush")
    }
}

/// Storage in memory, whose writes fail according to their plan. A failing operation has no effect.
#[derive(Debug)]
pub struct FaultyStorage {
    pub inner: MemoryStorage,
    pub faults: Arc<FaultPlan>,
}

impl Source for FaultyStorage {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.inner.read_exact_at(buf, offset)
    }
}

impl Sink for FaultyStorage {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.faults.begin(Side::Sink, "write")?;
        self.inner.write_all_at(buf, offset)
    }

    fn is_zeroed(&self) -> bool {
        false
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.faults.begin(Side::Sink, "set_len")?;
        self.inner.set_len(len)
    }

    fn flush(&self) -> io::Result<()> {
        self.faults.begin(Side::Sink, "flush")
    }
}

impl Storage for FaultyStorage {
    fn current_len(&self) -> u64 {
        self.inner.current_len()
    }

    fn discard_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.faults.begin(Side::Sink, "discard")?;
        self.inner.discard_at(offset, len)
    }
}
