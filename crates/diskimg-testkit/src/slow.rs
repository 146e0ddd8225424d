//! A source that behaves like remote storage: latency, limited bandwidth, transient failures.

use diskimg::Source;
use diskimg::storage::source::{IoHints, SourceError};
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The properties of the storage.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    /// Time from a request to the first byte of the answer.
    pub latency: Duration,
    /// Bytes per second of one answer.
    pub stream: u64,
    /// Bytes per second of all answers together.
    pub total: u64,
    /// One of this many requests fails with a lost connection, after half of its time. 0: none.
    pub fails: u64,
    /// What the source tells its readers.
    pub hints: IoHints,
}

impl Network {
    /// Returns an object store at this distance: 85 MB/s per request (as S3), 1.25 GB/s in total.
    pub fn object_store(latency: Duration) -> Self {
        let hints = IoHints::remote();
        Self { latency, stream: 85_000_000, total: 1_250_000_000, fails: 0, hints }
    }
}

/// Reads of another source through a [`Network`].
#[derive(Debug)]
pub struct SlowSource {
    inner: Arc<dyn Source>,
    network: Network,
    /// When the bytes requested so far have been transferred.
    busy_until: Mutex<Instant>,
    requests: AtomicU64,
    bytes: AtomicU64,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl SlowSource {
    pub fn new(inner: Arc<dyn Source>, network: Network) -> Self {
        Self {
            inner,
            network,
            busy_until: Mutex::new(Instant::now()),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        }
    }

    /// Returns the number of requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Returns the number of bytes requested so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Returns the largest number of requests that were in flight at a time.
    pub fn most_in_flight(&self) -> usize {
        self.most_in_flight.load(Ordering::SeqCst)
    }

    /// Waits as long as a request of `len` bytes takes.
    fn transfer(&self, len: usize) {
        let time =
            |bytes_per_second: u64| Duration::from_secs_f64(len as f64 / bytes_per_second as f64);
        let now = Instant::now();
        let shared = {
            let mut busy_until = self.busy_until.lock().unwrap();
            *busy_until = (*busy_until).max(now) + time(self.network.total);
            *busy_until
        };
        let end = (now + time(self.network.stream)).max(shared) + self.network.latency;
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
    }
}

impl Source for SlowSource {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        self.bytes.fetch_add(buf.len() as u64, Ordering::SeqCst);
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let fails = self.network.fails > 0 && number.is_multiple_of(self.network.fails);
        self.transfer(if fails { buf.len() / 2 } else { buf.len() });
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if fails {
            // What was received before the connection was lost.
            buf.fill(0xee);
            let lost = io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed");
            return Err(SourceError::Transient(lost));
        }
        self.inner.read_exact_at(buf, offset)
    }

    fn io(&self) -> IoHints {
        self.network.hints
    }
}
