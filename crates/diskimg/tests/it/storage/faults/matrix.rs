//! Conversions from every format to every format.

use super::disks::{TestImage, TestImages, backing, options, parse};
use super::{full, guarded, points};
use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::FileSource;
use diskimg::{Convert, Error, ErrorKind, Format, Output, Reflink, Report, Result};
use diskimg_testkit::faulty::{Fault, FaultPlan, FaultySink, FaultySource, Side, truncated_len};
use std::path::PathBuf;
use std::sync::Arc;

/// The output of a conversion.
#[derive(Debug, Clone)]
struct TargetKind {
    name: &'static str,
    format: Format,
    options: String,
    compress: bool,
    /// Backing file.
    base: Option<PathBuf>,
    /// Blocks are shared with the source.
    shares: bool,
}

fn targets(images: &TestImages) -> Vec<TargetKind> {
    let target = |name, format, options: &str, compress| TargetKind {
        name,
        format,
        options: options.into(),
        compress,
        base: None,
        shares: false,
    };
    let data = images.dir.path().join("new.data");
    let qcow2 = |name, options: &str, compress| target(name, Format::Qcow2, options, compress);
    vec![
        target("raw", Format::Raw, "", false),
        TargetKind { shares: true, ..target("raw-shared", Format::Raw, "", false) },
        target("raw-falloc", Format::Raw, "preallocation=falloc", false),
        qcow2("qcow2", "", false),
        TargetKind { shares: true, ..qcow2("qcow2-shared", "", false) },
        qcow2("qcow2-zlib", "", true),
        qcow2("qcow2-zstd", "compression_type=zstd,cluster_size=16k", true),
        qcow2("qcow2-subclusters", "extended_l2=on,cluster_size=128k", false),
        qcow2("qcow2-full", "preallocation=full", false),
        qcow2("qcow2-metadata", "preallocation=metadata", false),
        qcow2("qcow2-data-file", &format!("data_file={}", data.display()), false),
        TargetKind { base: Some(images.base.clone()), ..qcow2("qcow2-overlay", "", false) },
        target("vmdk-sparse", Format::Vmdk, "", false),
        target("vmdk-stream", Format::Vmdk, "subformat=streamOptimized", true),
        target("ova", Format::Ova, "", false),
        target("iso", Format::Iso, "", false),
    ]
}

/// One conversion.
#[derive(Debug, Clone)]
struct Pair {
    from: TestImage,
    to: TargetKind,
    threads: usize,
}

impl Pair {
    fn name(&self) -> String {
        format!("{} -> {}, {} threads", self.from.name, self.to.name, self.threads)
    }

    /// Runs the conversion with `faults`. Returns the result and the sink.
    fn run(&self, faults: &Arc<FaultPlan>) -> (Result<Report>, MemorySink) {
        let faults = || Arc::clone(faults);
        let sink =
            FaultySink { inner: MemorySink::new(), faults: faults(), can_share: self.to.shares };
        let sink = Arc::new(sink);
        let inner = Arc::new(FileSource::open(&self.from.path).unwrap());
        let source = FaultySource { inner, faults: faults(), exposes_file: self.to.shares };
        let outcome = self.from.open_with(Arc::new(source)).and_then(|image| {
            let mut convert = Convert::new(image)
                .format(self.to.format)
                .options(parse(&self.to.options))
                .compress(self.to.compress)
                .reflink(if self.to.shares { Reflink::Auto } else { Reflink::Never })
                .threads(self.threads);
            if let Some(base) = &self.to.base {
                convert = convert.backing(backing(base));
            }
            convert.run_to(Output::to_sink(Arc::clone(&sink) as _))
        });
        let sink = Arc::try_unwrap(sink).expect("the sink is still in use");
        (outcome, sink.inner)
    }

    /// Describes what is wrong with the output of a successful conversion.
    fn problem(&self, report: &Report, sink: &MemorySink) -> Option<String> {
        let source = Arc::new(sink.to_source());
        let image = match options(self.to.format).open_source(source, "output") {
            Ok(image) => image,
            Err(error) => return Some(format!("cannot be opened: {error}")),
        };
        let mut bytes = vec![0; image.size() as usize];
        if let Err(error) = image.read_at(&mut bytes, 0) {
            return Some(format!("cannot be read: {error}"));
        }
        let expected = &self.from.bytes;
        // Most formats pad the last sector.
        bytes.truncate(expected.len().max(report.guest_bytes as usize));
        // A raw disk that is truncated before it is opened is just a shorter disk.
        let raw = matches!(self.from.format, Format::Raw | Format::Iso);
        let shorter = raw && bytes.len() as u64 == truncated_len(expected.len() as u64);
        let expected = if shorter { &expected[..bytes.len()] } else { expected };
        let at = bytes.iter().zip(expected).position(|(a, b)| a != b);
        match (at, bytes.len() == expected.len()) {
            (None, true) => None,
            (at, _) => {
                Some(format!("{} of {} bytes, first wrong at {at:?}", bytes.len(), expected.len()))
            }
        }
    }
}

/// Describes what is wrong with an error: it must contain the system's message and the file name.
fn error_problem(
    pair: &Pair,
    fault: Fault,
    failed: &[(Side, &str)],
    error: &Error,
) -> Option<String> {
    let text = format!("{error:#}");
    let system = match fault {
        Fault::EioOnce | Fault::EioForever => Some("Input/output error"),
        Fault::NoSpace => Some("No space left on device"),
        Fault::LostConnection => Some("connection closed"),
        Fault::ShortRead | Fault::Truncated => None,
    };
    let source = pair.from.path.display().to_string();
    let expected: &[_] = match fault {
        Fault::EioOnce | Fault::EioForever | Fault::NoSpace => &[ErrorKind::Io],
        Fault::ShortRead | Fault::Truncated => &[ErrorKind::Corrupt, ErrorKind::Unsupported],
        Fault::LostConnection => &[ErrorKind::Transient],
    };
    if !expected.contains(&error.kind()) {
        return Some(format!("kind {:?}: {text}", error.kind()));
    }
    if let Some(system) = system.filter(|system| !text.contains(system)) {
        return Some(format!("no '{system}': {text}"));
    }
    // The sink has no name, and when it shares blocks it reads the source.
    let source_alone = failed.iter().all(|(side, _)| *side == Side::Source) && !pair.to.shares;
    (source_alone && !text.contains(&source)).then(|| format!("no file name: {text}"))
}

#[derive(Debug, Default)]
struct Summary {
    pairs: u64,
    points: u64,
    errors: u64,
    correct: u64,
    problems: Vec<String>,
}

fn try_pair(pair: &Pair, summary: &mut Summary) {
    summary.pairs += 1;
    for fault in Fault::ALL {
        let counter = FaultPlan::count_only(fault);
        let (sound, sink) = pair.run(&counter);
        let sound = sound.unwrap_or_else(|e| panic!("{}: {e}", pair.name()));
        assert_eq!(pair.problem(&sound, &sink), None, "{}", pair.name());
        assert_eq!(sound.guest_bytes, pair.from.bytes.len().next_multiple_of(512) as u64);
        let mut points = points(counter.count(), summary.points);
        let mut next = counter.count();
        while let Some(at) = points.pop().or_else(|| {
            // With threads, the number of operations varies.
            next += 1;
            full().then_some(next - 1)
        }) {
            let faults = FaultPlan::new(fault, at);
            let what = format!("{}: {fault:?} at {at}", pair.name());
            let (own, shared) = (pair.clone(), Arc::clone(&faults));
            let (outcome, problem) = guarded(&what, move || {
                let (outcome, sink) = own.run(&shared);
                let problem = outcome.as_ref().ok().and_then(|report| own.problem(report, &sink));
                (outcome, problem)
            });
            let failed = faults.failed();
            let first = failed.first().copied();
            if first.is_none() && at >= counter.count() {
                break;
            }
            summary.points += u64::from(first.is_some());
            let problem = match &outcome {
                Ok(_) => {
                    summary.correct += 1;
                    let ignored = failed.iter().find(|(side, _)| *side == Side::Sink);
                    problem
                        .or(ignored
                            .map(|(_, operation)| format!("a failed {operation} is ignored")))
                }
                Err(error) => {
                    summary.errors += 1;
                    error_problem(pair, fault, &failed, error)
                }
            };
            summary
                .problems
                .extend(problem.map(|problem| format!("{what} ({first:?}): {problem}")));
        }
    }
}

#[test]
fn a_fault_at_any_operation_of_any_conversion_is_an_error_or_harmless() {
    let images = TestImages::new();
    let mut summary = Summary::default();
    for from in &images.images {
        for to in targets(&images) {
            // Only an ISO image can be converted to ISO.
            if to.format == Format::Iso && from.name != "iso" {
                continue;
            }
            for threads in [1, 3] {
                let pair = Pair { from: from.clone(), to: to.clone(), threads };
                if threads == 1 || full() || summary.pairs.is_multiple_of(5) {
                    try_pair(&pair, &mut summary);
                }
            }
        }
    }
    let Summary { pairs, points, errors, correct, problems } = &summary;
    println!(
        "{pairs} pairs, {points} faults: {errors} errors, {correct} correct images, {} problems",
        problems.len()
    );
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems[..problems.len().min(40)].join("\n")
    );
    assert!(*errors > 1000 && *correct > 0, "too few faults: {errors} errors, {correct} correct");
}
