//! `Convert::salvage`: ranges that cannot be read become zeros and are reported; all other bytes
//! are correct.

use super::disks::{TestImage, TestImages, options};
use super::{full, guarded, points};
use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::{FileSource, Segment, SourceError};
use diskimg::{Convert, Format, Output, Report, Result, Source};
use diskimg_testkit::faulty::{Fault, FaultPlan, FaultySource, truncated_len};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A source with a bad range, like a disk with bad sectors.
#[derive(Debug)]
struct WithBadRange {
    inner: FileSource,
    bad: Range<u64>,
}

impl Source for WithBadRange {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        if offset < self.bad.end && offset + buf.len() as u64 > self.bad.start {
            return Err(io::Error::from_raw_os_error(5).into());
        }
        self.inner.read_exact_at(buf, offset)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        self.inner.segment_at(offset)
    }

    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }
}

fn salvage(
    test_image: &TestImage,
    source: Arc<dyn Source>,
    to: Format,
    threads: usize,
) -> Result<(Report, Vec<u8>)> {
    let image = test_image.open_with(source)?;
    let sink = Arc::new(MemorySink::new());
    let convert = Convert::new(image).format(to).salvage(true).threads(threads);
    let report = convert.run_to(Output::to_sink(Arc::clone(&sink) as _))?;
    let image = options(to).open_source(Arc::new(sink.to_source()), "output")?;
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(&mut bytes, 0)?;
    Ok((report, bytes))
}

/// Describes what is wrong with a salvaged disk: each byte must be the source's, or zero and
/// reported as lost.
fn problem(test_image: &TestImage, report: &Report, bytes: &[u8]) -> Option<String> {
    let mut expected = test_image.bytes.to_vec();
    expected.resize(bytes.len(), 0);
    for lost in &report.salvaged {
        if lost.error.is_empty() {
            return Some("a lost range has no error".into());
        }
        expected[lost.guest.start as usize..lost.guest.end as usize].fill(0);
    }
    let at = bytes.iter().zip(&expected).position(|(a, b)| a != b);
    let lost: Vec<_> = report.salvaged.iter().map(|lost| &lost.guest).collect();
    at.map(|at| format!("byte {at} is wrong; lost: {lost:?}"))
}

#[test]
fn the_range_of_a_failed_read_is_zeros_and_reported_and_nothing_else() {
    let images = TestImages::new();
    let (mut tried, mut failures) = (0, Vec::new());
    for test_image in &images.images {
        for (to, threads) in [(Format::Raw, 1), (Format::Qcow2, 3)] {
            let source = |faults: &Arc<FaultPlan>| {
                let inner = Arc::new(FileSource::open(&test_image.path).unwrap());
                Arc::new(FaultySource { inner, faults: Arc::clone(faults), exposes_file: false })
            };
            let counter = FaultPlan::count_only(Fault::EioOnce);
            let (sound, _) = salvage(test_image, source(&counter), to, threads).unwrap();
            assert_eq!(sound.salvaged, []);
            for fault in
                [Fault::EioOnce, Fault::EioForever, Fault::Truncated, Fault::LostConnection]
            {
                for at in points(counter.count(), tried) {
                    let what = format!("{} to {to}, {fault:?} at {at}", test_image.name);
                    let (test_image, source) =
                        (test_image.clone(), source(&FaultPlan::new(fault, at)));
                    let outcome = guarded(&what, move || {
                        let (report, bytes) = salvage(&test_image, source, to, threads).ok()?;
                        if fault == Fault::LostConnection && !report.salvaged.is_empty() {
                            return Some("bytes behind a lost connection became zeros".into());
                        }
                        // A raw disk that is truncated before it is opened is just a shorter disk.
                        let shorter =
                            bytes.len() as u64 == truncated_len(test_image.bytes.len() as u64);
                        if shorter && matches!(test_image.format, Format::Raw | Format::Iso) {
                            return None;
                        }
                        problem(&test_image, &report, &bytes)
                    });
                    tried += 1;
                    failures.extend(outcome.map(|problem| format!("{what}: {problem}")));
                }
            }
        }
    }
    println!("{tried} conversions, {} problems", failures.len());
    assert!(
        failures.is_empty(),
        "{} problems:\n{}",
        failures.len(),
        failures[..failures.len().min(40)].join("\n")
    );
}

#[test]
fn a_bad_range_of_a_raw_disk_is_lost_in_sectors() {
    let images = TestImages::new();
    let test_image = images.image("raw");
    let step = if full() { 512 } else { 8192 + 512 };
    for at in (0..test_image.bytes.len() as u64).step_by(step) {
        for (len, threads) in [(1, 1), (512, 3), (5000, 1)] {
            let bad = at..(at + len).min(test_image.bytes.len() as u64);
            let inner = FileSource::open(&test_image.path).unwrap();
            let mut holes = inner.segment_at(at).unwrap().hole;
            holes &= inner.segment_at(bad.end - 1).unwrap().hole;
            let source = Arc::new(WithBadRange { inner, bad: bad.clone() });
            let (report, bytes) = salvage(test_image, source, Format::Raw, threads).unwrap();
            assert_eq!(problem(test_image, &report, &bytes), None, "{bad:?}");
            let lost: Vec<_> = report.salvaged.into_iter().map(|lost| lost.guest).collect();
            let end = bad.end.next_multiple_of(512).min(test_image.bytes.len() as u64);
            let whole = Range { start: bad.start / 512 * 512, end };
            // Holes are not read.
            let inside = lost.iter().all(|l| l.start >= whole.start && l.end <= whole.end);
            assert!(inside && (holes || !lost.is_empty()), "{bad:?}: {lost:?}");
        }
    }
}
