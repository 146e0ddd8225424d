//! Conversions from storage that answers slowly and fails now and then: the output is that of a
//! local file, and many requests are in flight.

use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::{
    Cached, FileSource, IoHints, MemorySource, RetryPolicy, Retrying, SourceError,
};
use diskimg::{Convert, ErrorKind, Format, Image, OpenOptions, Output, Result, Source};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::slow::{Network, SlowSource};
use diskimg_testkit::tool::run;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

fn fast_retries() -> RetryPolicy {
    let mut policy = RetryPolicy::default();
    policy.first_delay = Duration::from_millis(1);
    policy.max_delay = Duration::from_millis(4);
    policy
}

fn network(fails: u64) -> Network {
    let mut hints = IoHints::remote();
    hints.optimal = 256 << 10;
    Network { fails, hints, ..Network::object_store(Duration::from_millis(2)) }
}

/// Composes the source as a protocol would.
fn remote(inner: Arc<dyn Source>, network: Network) -> (Arc<SlowSource>, Arc<dyn Source>) {
    let slow = Arc::new(SlowSource::new(inner, network));
    let retrying = Retrying::with_policy(Arc::clone(&slow) as _, fast_retries());
    (slow, Arc::new(Cached::new(Arc::new(retrying))))
}

fn open(source: Arc<dyn Source>, format: Format) -> Image {
    OpenOptions::new().format(format).open_source(source, "remote").expect("opens")
}

fn convert(image: Image, to: Format, compress: bool) -> Result<Vec<u8>> {
    let sink = Arc::new(MemorySink::new());
    let output = Output::to_sink(Arc::clone(&sink) as _);
    Convert::new(image).format(to).compress(compress).threads(2).run_to(output)?;
    let written = sink.to_source();
    let mut bytes = vec![0; written.len() as usize];
    written.read_exact_at(&mut bytes, 0).expect("reads");
    Ok(bytes)
}

/// Images that qemu-img made: of each format, with scattered data.
fn images(dir: &Path) -> Vec<(PathBuf, Format)> {
    let runs = (0..60).map(|i| Run {
        at: i * 731_211,
        len: 50_000 + i * 9_000,
        fill: if i % 3 == 0 { Fill::Noise(i) } else { Fill::Words(i) },
    });
    let raw = dir.join("disk.raw");
    Disk { size: 48 << 20, runs: runs.collect() }.write(&raw);
    let make = |name: &str, arguments: &[&str]| {
        let path = dir.join(name);
        let ends = [raw.to_str().expect("UTF-8"), path.to_str().expect("UTF-8")];
        run("qemu-img", [&["convert", "-f", "raw"], arguments, &ends].concat());
        path
    };
    let qcow2 = |name, arguments: &[&str]| {
        (make(name, &[&["-O", "qcow2"], arguments].concat()), Format::Qcow2)
    };
    let vmdk = |name, subformat: &str| {
        (make(name, &["-O", "vmdk", "-o", &format!("subformat={subformat}")]), Format::Vmdk)
    };
    vec![
        (raw.clone(), Format::Raw),
        qcow2("stored.qcow2", &[]),
        qcow2("zlib.qcow2", &["-c"]),
        qcow2("zstd.qcow2", &["-c", "-o", "compression_type=zstd"]),
        qcow2("small.qcow2", &["-o", "cluster_size=4k"]),
        vmdk("sparse.vmdk", "monolithicSparse"),
        vmdk("stream.vmdk", "streamOptimized"),
    ]
}

#[test]
fn the_output_is_that_of_a_local_file_although_connections_are_lost() {
    let dir = tempfile::tempdir().expect("tempdir");
    for (path, format) in images(dir.path()) {
        for (to, compress) in [(Format::Raw, false), (Format::Qcow2, true)] {
            let what = format!("{} -> {to}", path.display());
            let file = || Arc::new(FileSource::open(&path).expect("opens"));
            let local = convert(open(file(), format), to, compress).expect("converts");
            let (slow, source) = remote(file(), network(5));
            let converted = convert(open(source, format), to, compress);
            let converted = converted.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(converted == local, "{what}");
            // The plan reads the first bytes of each grain of a stream, and the cache all of it.
            let most = slow.most_in_flight();
            assert!(most > 3 || path.ends_with("stream.vmdk"), "{what}: {most}");
        }
    }
}

#[test]
fn data_is_read_once_and_with_long_requests() {
    let dir = tempfile::tempdir().expect("tempdir");
    for (path, format) in images(dir.path()) {
        let file = Arc::new(FileSource::open(&path).expect("opens"));
        let len = file.len();
        let (slow, source) = remote(file, network(0));
        convert(open(source, format), Format::Raw, false).expect("converts");
        // Tables are read with the data around them.
        let (bytes, requests) = (slow.bytes(), slow.requests());
        assert!(bytes < len + (8 << 20), "{}: {bytes} of {len} bytes", path.display());
        assert!(requests < 800, "{}: {requests} requests", path.display());
    }
}

#[test]
fn a_source_that_remains_unreachable_is_a_transient_error_and_nothing_is_salvaged() {
    let disk = Disk { size: 8 << 20, runs: vec![Run { at: 0, len: 8 << 20, fill: Fill::Byte(7) }] };
    let whole: Arc<dyn Source> = Arc::new(MemorySource::new(disk.bytes()));
    let (_, source) = remote(whole, Network { fails: 1, ..network(0) });
    for salvage in [false, true] {
        let image = open(Arc::clone(&source), Format::Raw);
        let sink = Arc::new(MemorySink::new());
        let convert = Convert::new(image).salvage(salvage).threads(2);
        let error = convert.run_to(Output::to_sink(sink)).expect_err("unreachable");
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        assert_eq!(
            format!("{error:#}"),
            "remote: at offset 0x0: cannot read guest data: connection closed (attempts: 10)"
        );
    }
}

#[test]
fn only_transient_errors_are_retried() {
    let bytes: Arc<dyn Source> = Arc::new(MemorySource::new(vec![1; 4096]));
    let slow = Arc::new(SlowSource::new(bytes, network(0)));
    let retrying = Retrying::with_policy(Arc::clone(&slow) as _, fast_retries());
    let error = retrying.read_exact_at(&mut [0; 2], 4095).expect_err("beyond the end");
    assert!(matches!(error, SourceError::OutOfRange { .. }));
    assert_eq!(slow.requests(), 1);
}

#[test]
fn several_readers_of_a_block_share_one_request() {
    let bytes: Vec<u8> = (0..3u32 << 18).flat_map(u32::to_le_bytes).collect();
    let inner: Arc<dyn Source> = Arc::new(MemorySource::new(bytes.clone()));
    let slow = Arc::new(SlowSource::new(inner, network(0)));
    let cached = Cached::new(Arc::clone(&slow) as _);
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let (cached, bytes) = (&cached, &bytes);
            scope.spawn(move || {
                for step in 0..40 {
                    let at = (step * 2_503 + thread * 11) % 60_000;
                    let mut buf = [0; 300];
                    cached.read_exact_at(&mut buf, at as u64).expect("reads");
                    assert_eq!(buf, bytes[at..at + 300]);
                }
            });
        }
    });
    assert_eq!(slow.requests(), 1);
}

#[test]
fn a_cache_that_is_full_returns_the_right_bytes() {
    let bytes: Vec<u8> = (0..12u32 << 20).flat_map(u32::to_le_bytes).collect();
    let inner: Arc<dyn Source> = Arc::new(MemorySource::new(bytes.clone()));
    let mut hints = IoHints::remote();
    hints.in_flight = 3;
    let network = Network { latency: Duration::ZERO, hints, ..network(7) };
    let retrying = Retrying::with_policy(
        Arc::new(SlowSource::new(inner, Network { stream: u64::MAX, total: u64::MAX, ..network })),
        fast_retries(),
    );
    let cached = Cached::with_capacity(Arc::new(retrying), 16 << 20);
    let mut at = 7;
    for step in 0..400 {
        at = (at * 48_271 + step) % (bytes.len() - 200_000);
        if step % 9 == 0 {
            let ahead = at as u64 / 2..at as u64 / 2 + 3_000_000;
            cached.prefetch(&[ahead, 5..9, 40_000_000..40_000_001]);
        }
        let mut buf = vec![0; [1, 300, 70_000, 190_000][step % 4]];
        cached.read_exact_at(&mut buf, at as u64).expect("reads");
        assert!(buf == bytes[at..at + buf.len()], "at {at}");
        let mut two = [vec![0; 100], vec![0; 70_000]];
        let [a, b] = &mut two;
        let ranges = &mut [(at as u64 / 3, &mut a[..]), (at as u64, &mut b[..])];
        cached.read_ranges(ranges).expect("reads");
        assert!(two[0] == bytes[at / 3..at / 3 + 100] && two[1] == bytes[at..at + 70_000]);
    }
}

/// Bytes in memory that are read like remote ones, with much stack. Counts what is in flight.
#[derive(Debug)]
struct Counted {
    head: Vec<u8>,
    len: u64,
    panics: AtomicBool,
    now: AtomicU64,
    most: AtomicU64,
    total: AtomicU64,
}

impl Counted {
    fn new(head: Vec<u8>, len: u64) -> Arc<Self> {
        let [now, most, total] = [0; 3].map(AtomicU64::new);
        Arc::new(Self { head, len, panics: AtomicBool::new(false), now, most, total })
    }
}

/// Uses 4 KiB of stack for each level.
#[inline(never)]
fn use_stack(levels: usize) -> usize {
    let frame = std::hint::black_box([levels as u8; 4096]);
    if levels == 0 { 0 } else { use_stack(levels - 1) + usize::from(frame[levels]) }
}

impl Source for Counted {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        assert!(!self.panics.load(Ordering::SeqCst), "a bug of a protocol");
        std::hint::black_box(use_stack(100));
        buf.fill(9);
        if let Some(head) = self.head.get(offset as usize..) {
            let len = buf.len().min(head.len());
            buf[..len].copy_from_slice(&head[..len]);
        }
        Ok(())
    }

    fn read_ranges(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        let len = ranges.iter().map(|(_, buf)| buf.len() as u64).sum();
        let now = self.now.fetch_add(len, Ordering::SeqCst) + len;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.total.fetch_add(len, Ordering::SeqCst);
        let read = ranges.iter_mut().try_for_each(|(at, buf)| self.read_exact_at(buf, *at));
        self.now.fetch_sub(len, Ordering::SeqCst);
        read
    }

    fn io(&self) -> IoHints {
        IoHints::remote()
    }
}

/// Returns the tables of a qcow2 image of `clusters` clusters of 512 bytes, each of which is
/// `stride` bytes after the previous one, and the length of its file.
fn scattered(clusters: u64, stride: u64) -> (Vec<u8>, u64) {
    let data = (0x10000 + clusters * 8).next_multiple_of(1 << 20);
    let mut head = vec![0; data as usize];
    let mut put = |at: u64, bytes: &[u8]| {
        head[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    };
    put(0, b"QFI\xfb");
    for (at, value) in [(4, 3), (20, 9), (36, clusters / 64), (56, 1), (96, 4), (100, 104)] {
        put(at, &(value as u32).to_be_bytes());
    }
    for (at, value) in [(24, clusters * 512), (40, 1024), (48, 0x8000)] {
        put(at, &value.to_be_bytes());
    }
    for cluster in 0..clusters {
        let (table, entry) = (0x10000 + cluster / 64 * 512, cluster % 64 * 8);
        put(1024 + cluster / 64 * 8, &(table | 1 << 63).to_be_bytes());
        put(table + entry, &((data + cluster * stride) | 1 << 63).to_be_bytes());
    }
    (head, data + clusters * stride + 512)
}

#[test]
fn what_is_in_flight_is_bounded_also_if_the_data_is_scattered() {
    for stride in [1024, 48 << 10, 200 << 10] {
        let (head, len) = scattered(2048, stride);
        let source = Counted::new(head, len);
        convert(open(Arc::clone(&source) as _, Format::Qcow2), Format::Raw, false).unwrap();
        // At most half of a request is gaps.
        let total = source.total.load(Ordering::SeqCst);
        assert!(total <= 2 * 2048 * 512, "{stride}: {total}");
    }
    let (head, len) = scattered(1 << 17, 512);
    let source = Counted::new(head, len);
    convert(open(Arc::clone(&source) as _, Format::Qcow2), Format::Raw, false).unwrap();
    assert!(source.most.load(Ordering::SeqCst) <= 16 * (4 << 20) * 2);
}

#[test]
fn a_panic_while_tables_are_loaded_leaves_no_reader_waiting() {
    let source = Counted::new(vec![3; 4 << 20], 4 << 20);
    let cached = Arc::new(Cached::new(Arc::clone(&source) as _));
    source.panics.store(true, Ordering::SeqCst);
    let blocks: Vec<_> = (0..40).map(|i| i << 16..(i << 16) + 1).step_by(3).collect();
    let loading = Arc::clone(&cached);
    std::thread::spawn(move || loading.prefetch(&blocks)).join().expect_err("panics");
    source.panics.store(false, Ordering::SeqCst);
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = vec![0; 40 << 16];
        let read = bytes.chunks_mut(1000).enumerate();
        for (number, part) in read {
            cached.read_exact_at(part, number as u64 * 1000).expect("reads");
        }
        done.send(bytes).expect("is received");
    });
    let bytes = wait.recv_timeout(Duration::from_secs(60)).expect("no reader waits");
    assert!(bytes.iter().all(|&byte| byte == 3));
}

#[test]
fn prefetching_the_whole_address_space_takes_no_time() {
    let cached = Cached::new(Counted::new(Vec::new(), 200 << 20));
    #[allow(clippy::single_range_in_vec_init)]
    cached.prefetch(&[0..u64::MAX]);
    cached.prefetch(&[u64::MAX - 1..u64::MAX, 1 << 62..1 << 63]);
}

#[test]
fn one_failed_request_does_not_repeat_all_others() {
    let inner: Arc<dyn Source> = Arc::new(MemorySource::new(vec![5; 1 << 20]));
    let instant = Network { latency: Duration::ZERO, ..network(10) };
    let slow = Arc::new(SlowSource::new(inner, instant));
    let retrying = Retrying::with_policy(Arc::clone(&slow) as _, fast_retries());
    let mut buffers = vec![[0; 16]; 40];
    let mut ranges: Vec<_> =
        (0..).map(|i| i * 4096).zip(buffers.iter_mut().map(|buf| &mut buf[..])).collect();
    retrying.read_ranges(&mut ranges).expect("each range is retried");
    assert!(buffers.iter().all(|buf| *buf == [5; 16]) && slow.requests() < 100);
}

#[test]
fn a_disk_that_is_read_like_a_file_is_as_slow_as_its_file() {
    let image = open(Counted::new(Vec::new(), 1 << 20), Format::Raw);
    let source: Arc<dyn Source> = Arc::new(image);
    assert_eq!(source.io(), IoHints::remote());
    // Long delays are no error.
    let mut policy = fast_retries();
    (policy.attempts, policy.deadline) = (2, Duration::MAX);
    let failing = SlowSource::new(source, network(1));
    let error = Retrying::with_policy(Arc::new(failing), policy).read_exact_at(&mut [0], 0);
    assert!(error.expect_err("fails").to_string().ends_with("(attempts: 2)"));
}

#[test]
fn blocks_are_prefetched_in_parallel() {
    let inner: Arc<dyn Source> = Arc::new(MemorySource::new(vec![5; 64 << 20]));
    let slow = Arc::new(SlowSource::new(inner, network(0)));
    let cached = Cached::new(Arc::clone(&slow) as _);
    let far_apart: Vec<_> = (0..64).map(|i| i << 20..(i << 20) + 8).collect();
    cached.prefetch(&far_apart);
    assert!(slow.most_in_flight() > 4, "{}", slow.most_in_flight());
    let requests = slow.requests();
    for range in far_apart {
        cached.read_exact_at(&mut [0; 8], range.start).expect("reads");
    }
    assert_eq!((requests, slow.requests()), (64, 64));
}
