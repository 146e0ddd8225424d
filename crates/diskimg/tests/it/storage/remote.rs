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
