//! Queries (info, check, map, …) on faulty storage: the result is correct or an error.

use super::disks::{TestImage, TestImages, parse};
use super::{guarded, points};
use diskimg::storage::source::FileSource;
use diskimg::{Compare, ErrorKind, Format, Image, Result, map, measure};
use diskimg_testkit::faulty::{Fault, FaultPlan, FaultySource};
use std::sync::Arc;

/// A query on an image.
type Query = fn(&TestImage, Image) -> Result<Answer>;

/// The result of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// The result as text.
    Result(String),
    /// The query reports that the image is damaged.
    Damaged,
    /// The query reports that it could not examine all of the image.
    Incomplete,
}

fn result(what: impl std::fmt::Debug) -> Answer {
    Answer::Result(format!("{what:?}"))
}

const QUERIES: [(&str, Query); 6] = [
    ("info", |_, image| {
        let info = image.info(0)?;
        Ok(match &info.notes[..] {
            [] => result(info),
            notes if notes.iter().any(|note| note.contains("closed")) => Answer::Incomplete,
            _ => Answer::Damaged,
        })
    }),
    ("check", |_, image| {
        let Some(report) = image.check(&mut |_| {})? else { return Ok(result("no check")) };
        // A part that could not be checked is not damage.
        Ok(match report.corruptions + report.leaks {
            0 if report.check_errors > 0 => Answer::Incomplete,
            0 => result(report),
            _ => Answer::Damaged,
        })
    }),
    ("map", |test_image, image| {
        let (mut entries, mut at) = (Vec::new(), 0);
        for entry in map(&image, 0..image.size()) {
            let entry = entry?;
            assert_eq!(entry.start, at);
            at += entry.length;
            let bytes = &test_image.bytes[entry.start as usize..at as usize];
            assert!(!entry.zero || bytes.iter().all(|&b| b == 0), "{entry:?}");
            entries.push(format!("{entry:?}"));
        }
        assert_eq!(at, image.size());
        Ok(result(entries))
    }),
    ("measure", |_, image| Ok(result(measure(Format::Qcow2, &parse(""), &image)?))),
    ("compare", |test_image, image| {
        match Compare::new(&image, &test_image.open()).threads(2).run() {
            Ok(answer) => Ok(result(answer)),
            Err(error) => Err(error.error),
        }
    }),
    ("read", |_, image| {
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(&mut bytes, 0)?;
        Ok(result(bytes))
    }),
];

#[test]
fn a_query_on_faulty_storage_is_correct_or_an_error() {
    let images = TestImages::new();
    let (mut runs, mut problems) = (0u64, Vec::new());
    for test_image in &images.images {
        for (name, query) in QUERIES {
            for fault in Fault::ALL.into_iter().filter(|&fault| fault != Fault::NoSpace) {
                let run = {
                    let test_image = test_image.clone();
                    move |faults: &Arc<FaultPlan>| {
                        let inner = Arc::new(FileSource::open(&test_image.path).unwrap());
                        let faults = Arc::clone(faults);
                        let source = FaultySource { inner, faults, exposes_file: false };
                        let image = test_image.open_with(Arc::new(source))?;
                        let is_damaged = image.warnings().next().is_some();
                        let answer = query(&test_image, image)?;
                        Ok::<_, diskimg::Error>(if is_damaged { Answer::Damaged } else { answer })
                    }
                };
                let counter = FaultPlan::count_only(fault);
                let expected = run(&counter).unwrap();
                assert_ne!(expected, Answer::Damaged, "{name} of {}", test_image.name);
                for at in points(counter.count(), runs) {
                    let what = format!("{name} of {}, {fault:?} at {at}", test_image.name);
                    let faults = FaultPlan::new(fault, at);
                    let (run, shared) = (run.clone(), Arc::clone(&faults));
                    let answer = guarded(&what, move || run(&shared));
                    runs += 1;
                    match answer {
                        Err(e)
                            if (fault == Fault::LostConnection)
                                == (e.kind() == ErrorKind::Transient) => {}
                        Ok(Answer::Incomplete) => {}
                        Ok(Answer::Damaged) if fault != Fault::LostConnection => {}
                        Ok(answer) if answer == expected => {}
                        // The length is the current one. An unexpected end of file counts as damage
                        // of an ISO image's tree, which is replaced by another tree.
                        Ok(_) if name == "info" && fault == Fault::Truncated => {}
                        Ok(_)
                            if name == "info"
                                && fault == Fault::ShortRead
                                && test_image.format == Format::Iso => {}
                        // If holes cannot be queried, everything counts as data.
                        Ok(_)
                            if matches!(name, "map" | "measure")
                                && faults.failed().iter().all(|(_, call)| *call != "read") => {}
                        answer => {
                            let text = format!("{answer:?}").chars().take(150).collect::<String>();
                            problems
                                .push(format!("{what} ({:?}): {text}", faults.failed().first()));
                        }
                    }
                }
            }
        }
    }
    println!("{runs} queries, {} problems", problems.len());
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems[..problems.len().min(40)].join("\n")
    );
}
