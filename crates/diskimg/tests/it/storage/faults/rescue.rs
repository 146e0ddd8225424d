//! `Convert::salvage`: what cannot be read becomes zeros, is told, and nothing else is wrong.

use super::disks::{Lab, Subject, options};
use super::{full, guarded, points};
use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::{FileSource, Segment};
use diskimg::{Convert, Format, Output, Report, Result, Source};
use diskimg_testkit::faulty::{Fault, FaultySource, Trouble, shrunk};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A source with a bad spot, as a disk has them.
#[derive(Debug)]
struct Scratched {
    inner: FileSource,
    bad: Range<u64>,
}

impl Source for Scratched {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset < self.bad.end && offset + buf.len() as u64 > self.bad.start {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.inner.read_exact_at(buf, offset)
    }

    fn segment_at(&self, offset: u64) -> io::Result<Segment> {
        self.inner.segment_at(offset)
    }

    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }
}

fn rescue(
    subject: &Subject,
    source: Arc<dyn Source>,
    to: Format,
    threads: usize,
) -> Result<(Report, Vec<u8>)> {
    let image = subject.open_on(source)?;
    let sink = Arc::new(MemorySink::new());
    let convert = Convert::new(image).format(to).salvage(true).threads(threads);
    let report = convert.run_to(Output::to_sink(Arc::clone(&sink) as _))?;
    let image = options(to).open_source(Arc::new(sink.to_source()), "output")?;
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(&mut bytes, 0)?;
    Ok((report, bytes))
}

/// What is wrong with what was rescued: each byte is the source's, or zero and told as lost.
fn wrong(subject: &Subject, report: &Report, bytes: &[u8]) -> Option<String> {
    let mut expected = subject.bytes.to_vec();
    expected.resize(bytes.len(), 0);
    for lost in &report.salvaged {
        if lost.error.is_empty() {
            return Some("nobody says why".into());
        }
        expected[lost.guest.start as usize..lost.guest.end as usize].fill(0);
    }
    let at = bytes.iter().zip(&expected).position(|(a, b)| a != b);
    let told: Vec<_> = report.salvaged.iter().map(|lost| &lost.guest).collect();
    at.map(|at| format!("byte {at} is wrong; told: {told:?}"))
}

#[test]
fn what_one_failed_read_takes_is_zeros_and_told_and_nothing_else() {
    let lab = Lab::new();
    let (mut tried, mut failures) = (0, Vec::new());
    for subject in &lab.subjects {
        for (to, threads) in [(Format::Raw, 1), (Format::Qcow2, 3)] {
            let source = |trouble: &Arc<Trouble>| {
                let inner = Arc::new(FileSource::open(&subject.path).unwrap());
                Arc::new(FaultySource { inner, trouble: Arc::clone(trouble), lends: false })
            };
            let counter = Trouble::none(Fault::Eio);
            let (sound, _) = rescue(subject, source(&counter), to, threads).unwrap();
            assert_eq!(sound.salvaged, []);
            for fault in [Fault::Eio, Fault::Dies, Fault::Shrinks] {
                for at in points(counter.count(), tried) {
                    let what = format!("{} to {to}, {fault:?} at {at}", subject.name);
                    let (subject, source) = (subject.clone(), source(&Trouble::new(fault, at)));
                    let outcome = guarded(&what, move || {
                        let (report, bytes) = rescue(&subject, source, to, threads).ok()?;
                        // A raw disk that was shorter before it was opened is a shorter disk.
                        let shorter = bytes.len() as u64 == shrunk(subject.bytes.len() as u64);
                        if shorter && matches!(subject.format, Format::Raw | Format::Iso) {
                            return None;
                        }
                        wrong(&subject, &report, &bytes)
                    });
                    tried += 1;
                    failures.extend(outcome.map(|wrong| format!("{what}: {wrong}")));
                }
            }
        }
    }
    println!("{tried} rescues, {} wrong", failures.len());
    assert!(
        failures.is_empty(),
        "{} wrong, as\n{}",
        failures.len(),
        failures[..failures.len().min(40)].join("\n")
    );
}

#[test]
fn a_bad_spot_of_a_raw_disk_is_lost_in_blocks_of_4096_bytes_and_no_more() {
    let lab = Lab::new();
    let subject = lab.subject("raw");
    let step = if full() { 512 } else { 8192 + 512 };
    for at in (0..subject.bytes.len() as u64).step_by(step) {
        for (len, threads) in [(1, 1), (512, 3), (5000, 1)] {
            let bad = at..(at + len).min(subject.bytes.len() as u64);
            let inner = FileSource::open(&subject.path).unwrap();
            let mut holes = inner.segment_at(at).unwrap().hole;
            holes &= inner.segment_at(bad.end - 1).unwrap().hole;
            let source = Arc::new(Scratched { inner, bad: bad.clone() });
            let (report, bytes) = rescue(subject, source, Format::Raw, threads).unwrap();
            assert_eq!(wrong(subject, &report, &bytes), None, "{bad:?}");
            let lost: Vec<_> = report.salvaged.into_iter().map(|lost| lost.guest).collect();
            let end = bad.end.next_multiple_of(4096).min(subject.bytes.len() as u64);
            let whole = Range { start: bad.start / 4096 * 4096, end };
            // Holes are not read.
            let inside = lost.iter().all(|l| l.start >= whole.start && l.end <= whole.end);
            assert!(inside && (holes || !lost.is_empty()), "{bad:?}: {lost:?}");
        }
    }
}
