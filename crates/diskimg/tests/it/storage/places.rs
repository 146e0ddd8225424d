//! Outputs that are not files: what is written becomes visible once, when it is complete.

use diskimg::open::{Location, OpenMode, Protocol, Protocols};
use diskimg::storage::output::{OutputError, Publish, Result, Transferred};
use diskimg::storage::sink::{MemorySink, Sink};
use diskimg::storage::source::{MemorySource, Source, SourceError};
use diskimg::{
    Convert, Durability, Error, ErrorKind, Format, OpenOptions, Options, Output, Progress,
};
use diskimg_testkit::disk::noise;
use diskimg_testkit::faulty::{Fault, FaultPlan, FaultySink};
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What happened to an object of the store.
#[derive(Debug, Default)]
struct Store {
    events: Vec<&'static str>,
    object: Option<Vec<u8>>,
}

/// An upload, which appears in the store when it is complete.
#[derive(Debug)]
struct Upload {
    store: Arc<Mutex<Store>>,
    sink: Arc<MemorySink>,
    fails: bool,
    published: bool,
}

impl Upload {
    fn new(store: &Arc<Mutex<Store>>, fails: bool) -> Box<Self> {
        let sink = Arc::new(MemorySink::new());
        Box::new(Self { store: Arc::clone(store), sink, fails, published: false })
    }
}

impl Publish for Upload {
    fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.sink) as _
    }

    fn flush(&self, _: Durability) -> Result<()> {
        self.store.lock().unwrap().events.push("flush");
        Ok(())
    }

    fn publish(mut self: Box<Self>, _: Durability) -> Result<()> {
        if self.fails {
            let refused = io::Error::other("the store refuses the object");
            return Err(OutputError::new(Some("object".into()), refused));
        }
        self.published = true;
        let written = self.sink.to_source();
        let mut store = self.store.lock().unwrap();
        store.object = Some(written.as_slice().unwrap().to_vec());
        store.events.push("publish");
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.published {
            self.store.lock().unwrap().events.push("abort");
        }
    }
}

/// A disk whose second half cannot be read.
#[derive(Debug)]
struct HalfReadable(MemorySource);

impl Source for HalfReadable {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::result::Result<(), SourceError> {
        if offset + buf.len() as u64 > self.len() / 2 {
            return Err(io::Error::from_raw_os_error(5).into());
        }
        self.0.read_exact_at(buf, offset)
    }
}

fn convert(source: Arc<dyn Source>) -> Convert<'static> {
    let image = OpenOptions::new().format(Format::Raw).open_source(source, "disk").unwrap();
    Convert::new(image).format(Format::Qcow2)
}

fn disk() -> MemorySource {
    MemorySource::new(noise(5, 3 << 20))
}

#[test]
fn a_complete_image_is_flushed_and_published_once() {
    let store = Arc::default();
    let output = Output::to_place(Upload::new(&store, false));
    convert(Arc::new(disk())).run_to(output).unwrap();
    let store = store.lock().unwrap();
    assert_eq!(store.events, ["flush", "publish"]);
    let object = MemorySource::new(store.object.clone().unwrap());
    let image = OpenOptions::new().open_source(Arc::new(object), "object").unwrap();
    let mut bytes = vec![0; 3 << 20];
    image.read_at(&mut bytes, 0).unwrap();
    assert!(image.format() == Format::Qcow2 && bytes == noise(5, 3 << 20));
}

#[test]
fn nothing_is_published_after_an_error_or_if_the_conversion_is_cancelled() {
    let store = Arc::default();
    let failing = convert(Arc::new(HalfReadable(disk())));
    let error = failing.run_to(Output::to_place(Upload::new(&store, false))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    let stop = |_| ControlFlow::Break(());
    let cancelled = convert(Arc::new(disk())).progress(&stop);
    let error = cancelled.run_to(Output::to_place(Upload::new(&store, false))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let store = store.lock().unwrap();
    assert_eq!(store.events, ["abort", "abort"]);
    assert!(store.object.is_none());
}

/// An upload that is behind: a percentage of what was written has been sent.
#[derive(Debug)]
struct Behind(Box<Upload>, Arc<AtomicUsize>);

impl Publish for Behind {
    fn sink(&self) -> Arc<dyn Sink> {
        self.0.sink()
    }

    fn flush(&self, durability: Durability) -> Result<()> {
        self.flush_unless(durability, &mut || false)
    }

    fn flush_unless(
        &self,
        durability: Durability,
        stopped: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        for percent in [10, 50, 40, 100] {
            self.1.store(percent, Ordering::Relaxed);
            assert!(!stopped());
        }
        self.0.flush(durability)
    }

    fn transferred(&self) -> Option<Transferred> {
        let percent = Arc::clone(&self.1);
        Some(Arc::new(move || percent.load(Ordering::Relaxed) as f64 / 100.0))
    }

    fn publish(self: Box<Self>, durability: Durability) -> Result<()> {
        self.0.publish(durability)
    }
}

#[test]
fn progress_is_that_of_the_transfer() {
    let (store, percent) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
    let reported = Mutex::new(Vec::new());
    let progress = |progress: Progress| {
        reported.lock().unwrap().push((progress.done * 100).div_ceil(progress.total));
        ControlFlow::Continue(())
    };
    let place = Behind(Upload::new(&store, false), percent);
    let convert = convert(Arc::new(disk())).progress(&progress);
    convert.run_to(Output::to_place(Box::new(place))).unwrap();
    let mut reported = reported.into_inner().unwrap();
    reported.retain(|&percent| percent > 0);
    assert_eq!(reported, [10, 50, 50, 100, 100]);
}

#[test]
fn an_error_of_publishing_names_the_object() {
    let store = Arc::default();
    let output = Output::to_place(Upload::new(&store, true));
    let error = convert(Arc::new(disk())).run_to(output).unwrap_err();
    let expected = "object: cannot complete the output: the store refuses the object";
    assert_eq!(format!("{error:#}"), expected);
    assert_eq!(store.lock().unwrap().events, ["flush", "abort"]);
}

#[test]
fn what_the_place_cannot_do_is_refused_before_anything_is_written() {
    let split = Options::parse("subformat=twoGbMaxExtentSparse").unwrap();
    let data_file = Options::parse("data_file=data.raw").unwrap();
    for (settings, expected) in [
        (convert(Arc::new(disk())).verify(true), "cannot be verified"),
        (convert(Arc::new(disk())).options(data_file), "an image of several files"),
        (convert(Arc::new(disk())).format(Format::Vmdk).options(split), "several files"),
    ] {
        let store = Arc::default();
        let upload = Upload::new(&store, false);
        let sink = Arc::clone(&upload.sink);
        let error = format!("{:#}", settings.run_to(Output::to_place(upload)).unwrap_err());
        assert!(error.contains(expected), "{error}");
        assert_eq!(store.lock().unwrap().events, ["abort"]);
        assert!(sink.to_source().is_empty());
    }
}

/// `store:NAME`, which can be written only.
#[derive(Debug, Default)]
struct StoreProtocol(Arc<Mutex<Store>>);

impl Protocol for StoreProtocol {
    fn schemes(&self) -> &[&str] {
        &["store"]
    }

    fn open(&self, _: &Location, _: &OpenMode) -> diskimg::Result<Arc<dyn Source>> {
        Err(Error::unsupported("write only"))
    }

    fn join(&self, _: &Location, _: &str) -> diskimg::Result<Location> {
        Err(Error::unsupported("no directories"))
    }

    fn create(&self, at: &Location) -> diskimg::Result<Box<dyn Publish>> {
        assert_eq!(at.to_string(), "store:disk");
        Ok(Upload::new(&self.0, false))
    }
}

/// A protocol that does not write.
#[derive(Debug)]
struct ReadOnly;

impl Protocol for ReadOnly {
    fn schemes(&self) -> &[&str] {
        &["readonly"]
    }

    fn open(&self, _: &Location, _: &OpenMode) -> diskimg::Result<Arc<dyn Source>> {
        Ok(Arc::new(disk()))
    }

    fn join(&self, _: &Location, _: &str) -> diskimg::Result<Location> {
        Err(Error::unsupported("no directories"))
    }
}

#[test]
fn protocols_create_images_at_locations() {
    let store = Arc::default();
    let mut protocols = Protocols::new();
    protocols.insert(Arc::new(StoreProtocol(Arc::clone(&store)))).insert(Arc::new(ReadOnly));
    let create = |location: &str| protocols.create(&location.parse().unwrap());
    convert(Arc::new(disk())).run_to(create("store:disk").unwrap()).unwrap();
    assert_eq!(store.lock().unwrap().events, ["flush", "publish"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    let output = create(path.to_str().unwrap()).unwrap();
    assert!(!path.exists());
    convert(Arc::new(disk())).run_to(output).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), store.lock().unwrap().object.clone().unwrap());
    for (location, message) in [
        ("readonly:x", "readonly:x: images cannot be created by this protocol"),
        ("other:x", "other:x: Unknown protocol 'other' (not every operation takes URLs"),
        ("/no/such/directory/x", "/no/such/directory/x: cannot create the output: No such file"),
    ] {
        let error = format!("{:#}", create(location).unwrap_err());
        assert!(error.starts_with(message), "{error}");
    }
}

/// A place whose disk is full.
#[derive(Debug)]
struct Full(Arc<FaultySink>);

impl Publish for Full {
    fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.0) as _
    }

    fn flush(&self, _: Durability) -> Result<()> {
        Ok(())
    }

    fn publish(self: Box<Self>, _: Durability) -> Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_of_writing_names_the_place() {
    let full = || {
        let faults = FaultPlan::new(Fault::NoSpace, 3);
        Box::new(Full(Arc::new(FaultySink { inner: MemorySink::new(), faults, can_share: false })))
    };
    for (output, name) in
        [(Output::to_place(full()), "-"), (Output::to_place(full()).named("s3:x"), "s3:x")]
    {
        let error = format!("{:#}", convert(Arc::new(disk())).run_to(output).unwrap_err());
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
        assert!(error.contains("No space left on device"), "{error}");
    }
}

/// An upload that lasts until it is stopped.
#[derive(Debug)]
struct Endless(Box<Upload>);

impl Publish for Endless {
    fn sink(&self) -> Arc<dyn Sink> {
        self.0.sink()
    }

    fn flush(&self, _: Durability) -> Result<()> {
        panic!("it cannot be stopped")
    }

    fn flush_unless(&self, _: Durability, stopped: &mut dyn FnMut() -> bool) -> Result<()> {
        while !stopped() {}
        Err(OutputError::new(None, io::ErrorKind::Interrupted.into()))
    }

    fn publish(self: Box<Self>, _: Durability) -> Result<()> {
        panic!("it is not complete")
    }
}

#[test]
fn a_conversion_can_be_cancelled_while_the_output_is_completed() {
    for is_capped in [false, true] {
        let store = Arc::default();
        let output = Output::to_place(Box::new(Endless(Upload::new(&store, false))));
        let calls = AtomicUsize::new(0);
        let progress = |at: Progress| match at.done == at.total {
            true if calls.fetch_add(1, Ordering::Relaxed) == 3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let convert = convert(Arc::new(disk())).progress(&progress);
        let convert = if is_capped { convert.max_size(1 << 30) } else { convert };
        let failed = convert.run_to(output).expect_err("is cancelled");
        assert_eq!(failed.kind(), ErrorKind::Cancelled, "{failed}");
        assert_eq!(store.lock().unwrap().events, ["abort"]);
    }
}
