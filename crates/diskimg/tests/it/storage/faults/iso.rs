//! ISO images whose contents come from, or are extracted from, storage that fails.

use super::{guarded, points};
use diskimg::iso::write::{Builder, CreateOptions};
use diskimg::iso::{ExtractOptions, IsoImage, IsoOptions, Namespace};
use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::MemorySource;
use diskimg::{Durability, Output, Result, Source};
use diskimg_testkit::disk::noise;
use diskimg_testkit::faulty::{Fault, FaultySink, FaultySource, Side, Trouble};
use std::sync::Arc;

const FILES: [(&str, usize); 4] =
    [("a/one", 70_000), ("a/two", 2048), ("b/c/three", 9), ("four", 5_000)];

fn bytes(name: &str, len: usize) -> Vec<u8> {
    noise(name.len() as u64 + len as u64, len)
}

fn written(sink: &MemorySink) -> Vec<u8> {
    sink.to_source().as_slice().expect("is in memory").to_vec()
}

/// Builds an image of files that come from faulty sources, into a faulty sink.
fn build(trouble: &Arc<Trouble>) -> (Result<()>, MemorySink) {
    let trouble = || Arc::clone(trouble);
    let sink = FaultySink { inner: MemorySink::new(), trouble: trouble(), shares: false };
    let sink = Arc::new(sink);
    let write = || {
        // A file that is shorter before it is listed is a shorter file.
        trouble().arm(trouble().fault() != Fault::Shrinks);
        let mut builder = Builder::new(CreateOptions::default());
        for (name, len) in FILES {
            let inner = Arc::new(MemorySource::new(bytes(name, len)));
            let source = FaultySource { inner, trouble: trouble(), lends: false };
            builder.add_source(name.as_bytes(), Arc::new(source))?;
        }
        let output = Output::to_sink(Arc::clone(&sink) as _);
        let plan = builder.plan()?;
        trouble().arm(true);
        plan.write(output, Durability::Flushed, &mut |_| Ok(()))
    };
    let outcome = write();
    (outcome, Arc::try_unwrap(sink).expect("nobody writes any more").inner)
}

#[test]
fn an_image_of_a_disc_that_is_built_from_or_on_faulty_storage_is_right_or_an_error() {
    let mut tried = 0;
    for fault in Fault::ALL {
        let counter = Trouble::none(fault);
        let (outcome, sound) = build(&counter);
        outcome.unwrap();
        let sound = written(&sound);
        for at in points(counter.count(), tried) {
            let what = format!("{fault:?} at {at}");
            let trouble = Trouble::new(fault, at);
            let shared = Arc::clone(&trouble);
            let (outcome, made) = guarded(&what, move || build(&shared));
            tried += 1;
            if outcome.is_ok() {
                assert!(written(&made) == sound, "{what}");
                assert!(trouble.failed().iter().all(|(side, _)| *side != Side::Sink), "{what}");
            }
        }
    }
    println!("{tried} images built");
}

#[test]
fn a_tree_that_the_system_cannot_read_is_an_error_and_no_other_one_stands_in() {
    let (outcome, made) = build(&Trouble::none(Fault::Eio));
    outcome.unwrap();
    let made: Arc<MemorySource> = Arc::new(made.to_source());
    let open = |trouble: &Arc<Trouble>| {
        let inner = Arc::clone(&made) as _;
        let source = FaultySource { inner, trouble: Arc::clone(trouble), lends: false };
        let image = IsoImage::open(Arc::new(source), &IsoOptions::default())?;
        let info = format!("{:?}", image.info()?);
        Ok::<_, diskimg::Error>((image.namespace(), info))
    };
    let counter = Trouble::none(Fault::Eio);
    let sound = open(&counter).unwrap();
    assert_eq!(sound.0, Namespace::RockRidge);
    for at in 0..counter.count() {
        if let Ok(opened) = open(&Trouble::new(Fault::Eio, at)) {
            assert_eq!(opened, sound, "at {at}");
        }
    }
}

#[test]
fn a_file_that_is_extracted_from_faulty_storage_is_right_or_told_as_failed() {
    let (outcome, made) = build(&Trouble::none(Fault::Eio));
    outcome.unwrap();
    let made: Arc<MemorySource> = Arc::new(made.to_source());
    let extract = {
        move |trouble: &Arc<Trouble>| {
            let inner = Arc::clone(&made) as _;
            let source = FaultySource { inner, trouble: Arc::clone(trouble), lends: false };
            let image = IsoImage::open(Arc::new(source), &IsoOptions::default())?;
            let dir = tempfile::tempdir().unwrap();
            let done = image.extract(dir.path(), &ExtractOptions::default())?;
            let right = |(name, len): &(&str, usize)| {
                let failed = done.failures.iter().any(|(path, _)| path == name.as_bytes());
                let found = std::fs::read(dir.path().join(name)).ok();
                failed || found.is_some_and(|found| found == bytes(name, *len))
            };
            let all = FILES.iter().all(right);
            Ok::<_, diskimg::Error>((all, done.failed, done.files))
        }
    };
    let mut tried = 0;
    for fault in Fault::ALL {
        let counter = Trouble::none(fault);
        assert_eq!(extract(&counter).unwrap(), (true, 0, 4));
        for at in points(counter.count(), tried) {
            let what = format!("{fault:?} at {at}");
            let (extract, trouble) = (extract.clone(), Trouble::new(fault, at));
            let outcome = guarded(&what, move || extract(&trouble));
            tried += 1;
            // A directory that cannot be read is a failure, too, and its files are missing.
            if let Ok((all, failed, files)) = outcome {
                assert!(failed > 0 || (all && files == 4), "{what}");
            }
        }
    }
    println!("{tried} images extracted");
}
