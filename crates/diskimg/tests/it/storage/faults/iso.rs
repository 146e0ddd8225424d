//! Creating and extracting ISO images on faulty storage.

use super::{guarded, points};
use diskimg::iso::write::{Builder, CreateOptions};
use diskimg::iso::{ExtractOptions, IsoImage, IsoOptions, Namespace};
use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::MemorySource;
use diskimg::{Durability, Output, Result, Source};
use diskimg_testkit::disk::noise;
use diskimg_testkit::faulty::{Fault, FaultPlan, FaultySink, FaultySource, Side};
use std::sync::Arc;

const FILES: [(&str, usize); 4] =
    [("a/one", 70_000), ("a/two", 2048), ("b/c/three", 9), ("four", 5_000)];

fn bytes(name: &str, len: usize) -> Vec<u8> {
    noise(name.len() as u64 + len as u64, len)
}

fn sink_bytes(sink: &MemorySink) -> Vec<u8> {
    sink.to_source().as_slice().expect("not in memory").to_vec()
}

/// Builds an image in a faulty sink from files in faulty sources.
fn build(faults: &Arc<FaultPlan>) -> (Result<()>, MemorySink) {
    let faults = || Arc::clone(faults);
    let sink = FaultySink { inner: MemorySink::new(), faults: faults(), can_share: false };
    let sink = Arc::new(sink);
    let write = || {
        // A file that is truncated before it is added is just a shorter file.
        faults().arm(faults().fault() != Fault::Truncated);
        let mut builder = Builder::new(CreateOptions::default());
        for (name, len) in FILES {
            let inner = Arc::new(MemorySource::new(bytes(name, len)));
            let source = FaultySource { inner, faults: faults(), exposes_file: false };
            builder.add_source(name.as_bytes(), Arc::new(source))?;
        }
        let output = Output::to_sink(Arc::clone(&sink) as _);
        let plan = builder.plan()?;
        faults().arm(true);
        plan.write(output, Durability::Flushed, &mut |_| Ok(()))
    };
    let outcome = write();
    (outcome.map(drop), Arc::try_unwrap(sink).expect("the sink is still in use").inner)
}

#[test]
fn an_iso_image_built_on_faulty_storage_is_correct_or_an_error() {
    let mut tried = 0;
    for fault in Fault::ALL {
        let counter = FaultPlan::count_only(fault);
        let (outcome, expected) = build(&counter);
        outcome.unwrap();
        let expected = sink_bytes(&expected);
        for at in points(counter.count(), tried) {
            let what = format!("{fault:?} at {at}");
            let faults = FaultPlan::new(fault, at);
            let shared = Arc::clone(&faults);
            let (outcome, image_file) = guarded(&what, move || build(&shared));
            tried += 1;
            if outcome.is_ok() {
                assert!(sink_bytes(&image_file) == expected, "{what}");
                assert!(faults.failed().iter().all(|(side, _)| *side != Side::Sink), "{what}");
            }
        }
    }
    println!("{tried} images built");
}

#[test]
fn a_tree_that_cannot_be_read_is_an_error_and_no_other_tree_is_used_instead() {
    let (outcome, image_file) = build(&FaultPlan::count_only(Fault::EioOnce));
    outcome.unwrap();
    let image_file: Arc<MemorySource> = Arc::new(image_file.to_source());
    let open = |faults: &Arc<FaultPlan>| {
        let inner = Arc::clone(&image_file) as _;
        let source = FaultySource { inner, faults: Arc::clone(faults), exposes_file: false };
        let image = IsoImage::open(Arc::new(source), &IsoOptions::default())?;
        let info = format!("{:?}", image.info()?);
        Ok::<_, diskimg::Error>((image.namespace(), info))
    };
    let counter = FaultPlan::count_only(Fault::EioOnce);
    let expected = open(&counter).unwrap();
    assert_eq!(expected.0, Namespace::RockRidge);
    for at in 0..counter.count() {
        if let Ok(opened) = open(&FaultPlan::new(Fault::EioOnce, at)) {
            assert_eq!(opened, expected, "at {at}");
        }
    }
}

#[test]
fn a_file_extracted_from_faulty_storage_is_correct_or_reported_as_failed() {
    let (outcome, image_file) = build(&FaultPlan::count_only(Fault::EioOnce));
    outcome.unwrap();
    let image_file: Arc<MemorySource> = Arc::new(image_file.to_source());
    let extract = {
        move |faults: &Arc<FaultPlan>| {
            let inner = Arc::clone(&image_file) as _;
            let source = FaultySource { inner, faults: Arc::clone(faults), exposes_file: false };
            let image = IsoImage::open(Arc::new(source), &IsoOptions::default())?;
            let dir = tempfile::tempdir().unwrap();
            let done = image.extract(dir.path(), &ExtractOptions::default())?;
            let is_correct = |(name, len): &(&str, usize)| {
                let failed = done.failures.iter().any(|(path, _)| path == name.as_bytes());
                let found = std::fs::read(dir.path().join(name)).ok();
                failed || found.is_some_and(|found| found == bytes(name, *len))
            };
            let all = FILES.iter().all(is_correct);
            Ok::<_, diskimg::Error>((all, done.failed, done.files))
        }
    };
    let mut tried = 0;
    for fault in Fault::ALL {
        let counter = FaultPlan::count_only(fault);
        assert_eq!(extract(&counter).unwrap(), (true, 0, 4));
        for at in points(counter.count(), tried) {
            let what = format!("{fault:?} at {at}");
            let (extract, faults) = (extract.clone(), FaultPlan::new(fault, at));
            let outcome = guarded(&what, move || extract(&faults));
            tried += 1;
            // A directory that cannot be read is a failure too; its files are missing.
            if let Ok((all, failed, files)) = outcome {
                assert!(failed > 0 || (all && files == 4), "{what}");
            }
        }
    }
    println!("{tried} images extracted");
}
