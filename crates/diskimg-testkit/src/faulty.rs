//! A source and a sink that fail when they are told to.

use diskimg::Source;
use diskimg::storage::sink::{MemorySink, Sink};
use diskimg::storage::source::{HostFileId, Segment};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One operation fails, the next ones do not.
    Eio,
    /// From one operation on all fail.
    Dies,
    /// One operation of a sink finds no space.
    Full,
    /// One read of a source ends early.
    Short,
    /// From one read on the source has [half](shrunk) its length.
    Shrinks,
}

impl Fault {
    pub const ALL: [Self; 5] = [Self::Eio, Self::Dies, Self::Full, Self::Short, Self::Shrinks];

    /// What the system says then.
    fn error(self) -> io::Error {
        match self {
            Self::Eio | Self::Dies => io::Error::from_raw_os_error(5),
            Self::Full => io::Error::from_raw_os_error(28),
            Self::Short | Self::Shrinks => io::ErrorKind::UnexpectedEof.into(),
        }
    }

    fn concerns(self, side: Side) -> bool {
        match self {
            Self::Eio | Self::Dies => true,
            Self::Full => side == Side::Sink,
            Self::Short | Self::Shrinks => side == Side::Source,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Sink,
}

/// Counts the operations of all storage that has it, and says which fail.
#[derive(Debug)]
pub struct Trouble {
    fault: Fault,
    /// The first operation that fails, counted from 0 over those that the fault concerns.
    at: u64,
    count: AtomicU64,
    /// Whether anything counts yet.
    armed: AtomicBool,
    /// The operations that failed.
    failed: Mutex<Vec<(Side, &'static str)>>,
}

impl Trouble {
    pub fn new(fault: Fault, at: u64) -> Arc<Self> {
        Arc::new(Self {
            fault,
            at,
            count: AtomicU64::new(0),
            armed: AtomicBool::new(true),
            failed: Mutex::default(),
        })
    }

    /// Nothing fails: operations are counted.
    pub fn none(fault: Fault) -> Arc<Self> {
        Self::new(fault, u64::MAX)
    }

    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// From now on nothing fails, or everything may.
    pub fn arm(&self, yes: bool) {
        self.armed.store(yes, Ordering::SeqCst);
    }

    /// How many operations there were that the fault concerns.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// What failed, first things first.
    pub fn failed(&self) -> Vec<(Side, &'static str)> {
        self.failed.lock().unwrap().clone()
    }

    fn meet(&self, side: Side, operation: &'static str) -> io::Result<()> {
        if !self.fault.concerns(side) || !self.armed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let n = self.count.fetch_add(1, Ordering::SeqCst);
        let fails = match self.fault {
            Fault::Dies => n >= self.at,
            // What is shorter shows only to who asks behind its end.
            Fault::Shrinks => {
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

    fn has_shrunk(&self) -> bool {
        self.fault == Fault::Shrinks && self.count() > self.at
    }
}

/// What is left of a source that shrinks. Whole clusters: a writer of qcow2 need not fill the last
/// one, so that what is cut within a cluster is taken for zeros.
pub fn shrunk(len: u64) -> u64 {
    const CLUSTER: u64 = 128 << 10;
    let half = len / 2;
    if half < CLUSTER { half } else { half / CLUSTER * CLUSTER }
}

/// A source that fails.
#[derive(Debug)]
pub struct FaultySource {
    pub inner: Arc<dyn Source>,
    pub trouble: Arc<Trouble>,
    /// Whether it lends its file, for blocks to be shared.
    pub lends: bool,
}

impl Source for FaultySource {
    fn len(&self) -> u64 {
        let len = self.inner.len();
        if self.trouble.has_shrunk() { shrunk(len) } else { len }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.trouble.meet(Side::Source, "read")?;
        if offset + buf.len() as u64 > self.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.inner.read_exact_at(buf, offset)
    }

    fn segment_at(&self, offset: u64) -> io::Result<Segment> {
        self.trouble.meet(Side::Source, "segment")?;
        let len = self.len();
        if offset >= len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let segment = self.inner.segment_at(offset)?;
        Ok(Segment { end: segment.end.min(len), ..segment })
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        self.inner.as_file().filter(|_| self.lends)
    }

    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        self.trouble.meet(Side::Source, "allocated")?;
        self.inner.allocated_bytes()
    }

    fn identity(&self) -> Option<HostFileId> {
        self.inner.identity()
    }
}

/// A sink in memory that fails. What is written when it fails is not there.
#[derive(Debug)]
pub struct FaultySink {
    pub inner: MemorySink,
    pub trouble: Arc<Trouble>,
    /// Whether it takes blocks from sources that lend their files.
    pub shares: bool,
}

impl FaultySink {
    fn meet(&self, operation: &'static str) -> io::Result<()> {
        self.trouble.meet(Side::Sink, operation)
    }
}

impl Sink for FaultySink {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.meet("write")?;
        self.inner.write_all_at(buf, offset)
    }

    fn is_zeroed(&self) -> bool {
        true
    }

    fn write_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.meet("write_zeros")?;
        self.inner.write_zeros_at(offset, len)
    }

    fn preallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.meet("preallocate")?;
        if self.inner.to_source().len() < offset + len {
            self.inner.set_len(offset + len)?;
        }
        Ok(())
    }

    fn shareable_block(&self, _: &dyn Source) -> io::Result<Option<u64>> {
        self.meet("shareable_block")?;
        Ok(self.shares.then_some(4096))
    }

    fn share(
        &self,
        source: &dyn Source,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        self.meet("share")?;
        let mut bytes = vec![0; len as usize];
        source.read_exact_at(&mut bytes, source_offset)?;
        self.inner.write_all_at(&bytes, offset)?;
        Ok(true)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.meet("set_len")?;
        self.inner.set_len(len)
    }

    fn flush(&self) -> io::Result<()> {
        self.meet("flush")
    }
}
