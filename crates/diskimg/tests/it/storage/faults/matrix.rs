//! Every format into every other.

use super::disks::{Lab, Subject, on, options, parse};
use super::{full, guarded, points};
use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::FileSource;
use diskimg::{Convert, Error, ErrorKind, Format, Output, Reflink, Report, Result};
use diskimg_testkit::faulty::{Fault, FaultySink, FaultySource, Side, Trouble, shrunk};
use std::path::PathBuf;
use std::sync::Arc;

/// What a conversion makes.
#[derive(Debug, Clone)]
struct Product {
    name: &'static str,
    format: Format,
    options: String,
    compress: bool,
    /// It builds on this.
    base: Option<PathBuf>,
    /// Blocks are shared with the source.
    shares: bool,
}

fn products(lab: &Lab) -> Vec<Product> {
    let product = |name, format, options: &str, compress| Product {
        name,
        format,
        options: options.into(),
        compress,
        base: None,
        shares: false,
    };
    let data = lab.dir.path().join("new.data");
    let qcow2 = |name, options: &str, compress| product(name, Format::Qcow2, options, compress);
    vec![
        product("raw", Format::Raw, "", false),
        Product { shares: true, ..product("raw-shared", Format::Raw, "", false) },
        product("raw-falloc", Format::Raw, "preallocation=falloc", false),
        qcow2("qcow2", "", false),
        Product { shares: true, ..qcow2("qcow2-shared", "", false) },
        qcow2("qcow2-zlib", "", true),
        qcow2("qcow2-zstd", "compression_type=zstd,cluster_size=16k", true),
        qcow2("qcow2-subclusters", "extended_l2=on,cluster_size=128k", false),
        qcow2("qcow2-full", "preallocation=full", false),
        qcow2("qcow2-metadata", "preallocation=metadata", false),
        qcow2("qcow2-data-file", &format!("data_file={}", data.display()), false),
        Product { base: Some(lab.base.clone()), ..qcow2("qcow2-overlay", "", false) },
        product("vmdk-sparse", Format::Vmdk, "", false),
        product("vmdk-stream", Format::Vmdk, "subformat=streamOptimized", true),
        product("ova", Format::Ova, "", false),
        product("iso", Format::Iso, "", false),
    ]
}

/// One conversion.
#[derive(Debug, Clone)]
struct Pair {
    from: Subject,
    to: Product,
    threads: usize,
}

impl Pair {
    fn name(&self) -> String {
        format!("{} -> {}, {} threads", self.from.name, self.to.name, self.threads)
    }

    /// Converts, with `trouble`; gives what came of it and the bytes that are there.
    fn run(&self, trouble: &Arc<Trouble>) -> (Result<Report>, MemorySink) {
        let trouble = || Arc::clone(trouble);
        let sink =
            FaultySink { inner: MemorySink::new(), trouble: trouble(), shares: self.to.shares };
        let sink = Arc::new(sink);
        let inner = Arc::new(FileSource::open(&self.from.path).unwrap());
        let source = FaultySource { inner, trouble: trouble(), lends: self.to.shares };
        let outcome = self.from.open_on(Arc::new(source)).and_then(|image| {
            let mut convert = Convert::new(image)
                .format(self.to.format)
                .options(parse(&self.to.options))
                .compress(self.to.compress)
                .reflink(if self.to.shares { Reflink::Auto } else { Reflink::Never })
                .threads(self.threads);
            if let Some(base) = &self.to.base {
                convert = convert.backing(on(base));
            }
            convert.run_to(Output::to_sink(Arc::clone(&sink) as _))
        });
        let sink = Arc::try_unwrap(sink).expect("nobody writes any more");
        (outcome, sink.inner)
    }

    /// What is wrong with an output that is called right.
    fn wrong(&self, report: &Report, sink: &MemorySink) -> Option<String> {
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
        // Formats with sectors fill up the last one.
        bytes.truncate(expected.len().max(report.guest_bytes as usize));
        // A raw disk that was shorter before it was opened is a shorter disk.
        let raw = matches!(self.from.format, Format::Raw | Format::Iso);
        let shorter = raw && bytes.len() as u64 == shrunk(expected.len() as u64);
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

/// What is wrong with an error: it must say what, and of which file.
fn wrong_error(
    pair: &Pair,
    fault: Fault,
    failed: &[(Side, &str)],
    error: &Error,
) -> Option<String> {
    let text = error.to_string();
    let system = match fault {
        Fault::Eio | Fault::Dies => Some("Input/output error"),
        Fault::Full => Some("No space left on device"),
        Fault::Short | Fault::Shrinks => None,
    };
    let source = pair.from.path.display().to_string();
    if !matches!(error.kind(), ErrorKind::Io | ErrorKind::Corrupt | ErrorKind::Unsupported) {
        return Some(format!("kind {:?}: {text}", error.kind()));
    }
    if let Some(system) = system.filter(|system| !text.contains(system)) {
        return Some(format!("not '{system}': {text}"));
    }
    // A sink of ours has no name, and where it shares it reads the source.
    let source_alone = failed.iter().all(|(side, _)| *side == Side::Source) && !pair.to.shares;
    (source_alone && !text.contains(&source)).then(|| format!("which file? {text}"))
}

#[derive(Debug, Default)]
struct Tally {
    pairs: u64,
    points: u64,
    errors: u64,
    right: u64,
    wrong: Vec<String>,
}

fn try_pair(pair: &Pair, tally: &mut Tally) {
    tally.pairs += 1;
    for fault in Fault::ALL {
        let counter = Trouble::none(fault);
        let (sound, sink) = pair.run(&counter);
        let sound = sound.unwrap_or_else(|e| panic!("{}: {e}", pair.name()));
        assert_eq!(pair.wrong(&sound, &sink), None, "{}", pair.name());
        assert_eq!(sound.guest_bytes, pair.from.bytes.len().next_multiple_of(512) as u64);
        let mut points = points(counter.count(), tally.points);
        let mut next = counter.count();
        while let Some(at) = points.pop().or_else(|| {
            // With threads, some operations come and go.
            next += 1;
            full().then_some(next - 1)
        }) {
            let trouble = Trouble::new(fault, at);
            let what = format!("{}: {fault:?} at {at}", pair.name());
            let (own, shared) = (pair.clone(), Arc::clone(&trouble));
            let (outcome, wrong) = guarded(&what, move || {
                let (outcome, sink) = own.run(&shared);
                let wrong = outcome.as_ref().ok().and_then(|report| own.wrong(report, &sink));
                (outcome, wrong)
            });
            let failed = trouble.failed();
            let first = failed.first().copied();
            if first.is_none() && at >= counter.count() {
                break;
            }
            tally.points += u64::from(first.is_some());
            let wrong = match &outcome {
                Ok(_) => {
                    tally.right += 1;
                    let unheard = failed.iter().find(|(side, _)| *side == Side::Sink);
                    wrong
                        .or(unheard
                            .map(|(_, operation)| format!("a failed {operation} is a success")))
                }
                Err(error) => {
                    tally.errors += 1;
                    wrong_error(pair, fault, &failed, error)
                }
            };
            tally.wrong.extend(wrong.map(|wrong| format!("{what} ({first:?}): {wrong}")));
        }
    }
}

#[test]
fn a_fault_at_any_operation_of_any_conversion_is_an_error_or_harmless() {
    let lab = Lab::new();
    let mut tally = Tally::default();
    for from in &lab.subjects {
        for to in products(&lab) {
            // Only the image of a disc becomes one; a disk of whole sectors is none.
            if to.format == Format::Iso && from.name != "iso" {
                continue;
            }
            for threads in [1, 3] {
                let pair = Pair { from: from.clone(), to: to.clone(), threads };
                if threads == 1 || full() || tally.pairs.is_multiple_of(5) {
                    try_pair(&pair, &mut tally);
                }
            }
        }
    }
    let Tally { pairs, points, errors, right, wrong } = &tally;
    println!(
        "{pairs} pairs, {points} faults: {errors} errors, {right} right images, {} wrong",
        wrong.len()
    );
    assert!(
        wrong.is_empty(),
        "{} wrong, as\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    assert!(*errors > 1000 && *right > 0, "faults have effects: {errors}, {right}");
}
