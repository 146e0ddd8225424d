//! A node that fails where its options say: QEMU's `blkdebug`, for tests of programs that read
//! damaged storage.

use super::options::{Child, NodeOptions};
use crate::error::{Error, Result};
use crate::storage::locking::Lock;
use crate::storage::source::{HostFileId, Segment, Source, SourceError};
use std::fmt::Write;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Length of a sector in bytes.
const SECTOR: u64 = 512;

/// Error number of an I/O error, the default.
const EIO: i32 = 5;

/// The key of the faults.
const KEY: &str = "inject-error";

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Read,
    /// Finding out what is a hole.
    BlockStatus,
}

/// An error that is returned instead of a result.
#[derive(Debug)]
struct Fault {
    operation: Operation,
    /// The operation fails if it includes the first byte of this sector; `None`: always.
    sector: Option<u64>,
    errno: i32,
    /// Only the first operation fails.
    once: bool,
    has_occurred: AtomicBool,
}

impl Fault {
    /// Removes the options of a fault.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if one has no valid value,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for faults of what is never done here.
    fn take(mut node: NodeOptions, index: usize) -> Result<Self> {
        match node.take("event")?.as_deref() {
            Some("none") => {}
            event => {
                let event = event.unwrap_or_default();
                let message = format!("the event '{event}' of blkdebug is not supported");
                return Err(Error::unsupported(message).hint("the event 'none' is"));
            }
        }
        let operation = match node.take("iotype")?.as_deref() {
            Some("read") => Operation::Read,
            Some("block-status") => Operation::BlockStatus,
            other => {
                let other = other.unwrap_or_default();
                let message = format!("the iotype '{other}' of blkdebug is not supported");
                return Err(Error::unsupported(message).hint("'read' and 'block-status' are"));
            }
        };
        let sector = match node.take("sector")?.as_deref() {
            None | Some("-1") => None,
            Some(text) => Some(number(text, "sector")?),
        };
        let errno = node.take("errno")?.map(|text| number(&text, "errno")).transpose()?;
        let once = node.take_switch("once")?.unwrap_or(false);
        if let Some(key) = node.first_key() {
            return Err(Error::invalid(format!(
                "Block protocol 'blkdebug' doesn't support the option '{KEY}.{index}.{key}'"
            )));
        }
        let has_occurred = AtomicBool::new(false);
        Ok(Self { operation, sector, errno: errno.unwrap_or(EIO), once, has_occurred })
    }

    /// Returns true if an operation on `range` includes what fails.
    fn is_in(&self, range: &Range<u64>) -> bool {
        self.sector
            .and_then(|sector| sector.checked_mul(SECTOR))
            .map_or_else(|| self.sector.is_none() && !range.is_empty(), |at| range.contains(&at))
    }
}

fn number<T: std::str::FromStr>(text: &str, key: &str) -> Result<T> {
    text.parse().map_err(|_| Error::invalid(format!("Parameter '{key}' expects a number")))
}

/// A source that fails where it is told to.
#[derive(Debug)]
pub(super) struct FaultySource {
    inner: Arc<dyn Source>,
    faults: Vec<Fault>,
}

impl FaultySource {
    /// Creates a source of what `inner` contains, with the faults of a node's options, which are
    /// removed.
    ///
    /// # Errors
    /// As [`Fault::take`].
    pub(super) fn new(inner: Arc<dyn Source>, node: &mut NodeOptions) -> Result<Self> {
        let mut faults = Vec::new();
        if let Some(child) = node.take_child(KEY) {
            let Child::Node(mut list) = child else {
                return Err(Error::invalid(format!("Parameter '{KEY}' expects a list")));
            };
            while let Some(Child::Node(fault)) = list.take_child(&faults.len().to_string()) {
                faults.push(Fault::take(fault, faults.len())?);
            }
            if let Some(key) = list.first_key() {
                return Err(Error::invalid(format!("Parameter '{KEY}.{key}' is unexpected")));
            }
        }
        Ok(Self { inner, faults })
    }

    /// Returns the node as a JSON object, over an image that is a JSON object.
    pub(super) fn node(&self, image: &str) -> String {
        let mut json = format!("{{\"driver\": \"blkdebug\", \"{KEY}\": [");
        for (index, fault) in self.faults.iter().enumerate() {
            let iotype = match fault.operation {
                Operation::Read => "read",
                Operation::BlockStatus => "block-status",
            };
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(
                json,
                "{comma}{{\"event\": \"none\", \"iotype\": \"{iotype}\", \"errno\": {}, \
                 \"once\": {}",
                fault.errno, fault.once
            );
            if let Some(sector) = fault.sector {
                let _ = write!(json, ", \"sector\": {sector}");
            }
            json.push('}');
        }
        json + "], \"image\": " + image + "}"
    }

    /// Returns the error of an operation on `range`, if it fails.
    fn fault(
        &self,
        operation: Operation,
        range: &Range<u64>,
    ) -> std::result::Result<(), SourceError> {
        for fault in self.faults.iter().filter(|fault| fault.operation == operation) {
            if fault.is_in(range)
                && !(fault.has_occurred.swap(true, Ordering::Relaxed) && fault.once)
            {
                return Err(io::Error::from_raw_os_error(fault.errno).into());
            }
        }
        Ok(())
    }
}

/// Without [`as_file`](Source::as_file) and [`as_slice`](Source::as_slice), by which it would be
/// read directly.
impl Source for FaultySource {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::result::Result<(), SourceError> {
        self.fault(Operation::Read, &(offset..offset.saturating_add(buf.len() as u64)))?;
        self.inner.read_exact_at(buf, offset)
    }

    fn segment_at(&self, offset: u64) -> std::result::Result<Segment, SourceError> {
        self.fault(Operation::BlockStatus, &(offset..offset.saturating_add(1)))?;
        let mut segment = self.inner.segment_at(offset)?;
        // The segment ends where finding out about what follows fails.
        let rest = offset + 1..segment.end;
        let of_status = |fault: &&Fault| fault.operation == Operation::BlockStatus;
        let later = self.faults.iter().filter(of_status).filter(|fault| fault.is_in(&rest));
        if let Some(first) = later.filter_map(|fault| fault.sector).min() {
            segment.end = first * SECTOR;
        }
        Ok(segment)
    }

    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.allocated_bytes()
    }

    fn lock(&self, lock: Lock) -> io::Result<()> {
        self.inner.lock(lock)
    }

    fn identity(&self) -> Option<HostFileId> {
        self.inner.identity()
    }

    fn identities(&self) -> Vec<HostFileId> {
        self.inner.identities()
    }
}
