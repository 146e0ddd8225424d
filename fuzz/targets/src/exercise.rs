//! All that can be asked of an image.

use diskimg::storage::source::MemorySource;
use diskimg::{
    Error, ErrorKind, ExternalFiles, Format, Image, InspectOptions, OpenOptions, SnapshotSelector,
    conformance, inspect_source, map,
};
use std::sync::Arc;

/// A disk up to this size is held against what is promised of every disk.
const SMALL: u64 = 1 << 20;

/// Bytes read at both ends of a larger one.
const ENDS: u64 = 64 << 10;

/// Entries of a map that are looked at.
const ENTRIES: u32 = 20_000;

/// Findings whose words are looked at.
const FINDINGS: u32 = 50;

/// Opens an image of this format (or of the one that its bytes look like) and asks it everything.
pub(crate) fn image(bytes: Vec<u8>, format: impl Into<Option<Format>>) {
    let source = Arc::new(MemorySource::new(bytes));
    inspected(&source);
    let options = OpenOptions::new().format(format).external_files(ExternalFiles::None);
    let facts = options.clone().metadata_only(true);
    open(|| facts.open_source(source.clone(), "fuzzed.img"));
    if let Some(image) = open(|| options.open_source(source.clone(), "fuzzed.img")) {
        assert_eq!(image.layers().len(), 1, "other files were opened");
        contents(&image);
        snapshots(&image, &options, &source);
    }
}

/// What the gate for uploads says.
fn inspected(source: &Arc<MemorySource>) {
    match inspect_source(source.clone(), "fuzzed.img", &InspectOptions::new()) {
        Ok(inspection) => {
            for finding in inspection.findings.iter().take(FINDINGS as usize) {
                assert_line(&finding.message);
            }
        }
        Err(error) => panic!("whatever the bytes, there is an answer: {error}"),
    }
}

/// What any way to open it gives: facts and findings.
pub(crate) fn open(open: impl Fn() -> Result<Image, Error>) -> Option<Image> {
    let image = match open() {
        Ok(image) => image,
        Err(error) => {
            is_clear(&error);
            return None;
        }
    };
    match image.info(0) {
        Ok(info) => info.notes.iter().for_each(|note| assert_line(note)),
        Err(error) => is_clear(&error),
    }
    let mut findings = 0;
    let mut count = |finding: diskimg::check::Finding| {
        findings += 1;
        if findings <= FINDINGS {
            assert_line(&finding.message);
        }
    };
    image.check(&mut count).map_err(|e| is_clear(&e)).ok();
    for warning in image.warnings() {
        assert_line(&warning);
    }
    Some(image)
}

/// What the guest sees.
pub(crate) fn contents(image: &Image) {
    mapped(image);
    if image.size() <= SMALL {
        conforms(image);
        return;
    }
    let mut bytes = vec![0; ENDS as usize];
    for at in [0, image.size() - ENDS] {
        image.read_at(&mut bytes, at).map_err(|e| is_clear(&e)).ok();
    }
}

/// Reading may fail; answers may not contradict each other.
pub(crate) fn conforms(image: &Image) {
    if let Err(error) = conformance::verify(image) {
        assert_ne!(error.structure(), Some("conformance"), "{error}");
        is_clear(&error);
    }
}

fn mapped(image: &Image) {
    let (mut at, mut entries) = (0, 0);
    let outcome = map(image, 0..image.size(), &mut |entry| {
        assert_eq!(entry.start, at, "the map has a gap");
        assert!(entry.length > 0, "an entry of a map is empty");
        at += entry.length;
        entries += 1;
        if entries < ENTRIES { Ok(()) } else { Err(Error::cancelled()) }
    });
    match outcome {
        Ok(()) => assert_eq!(at, image.size(), "the map ends early"),
        Err(error) if error.kind() == ErrorKind::Cancelled => {}
        Err(error) => is_clear(&error),
    }
}

/// The first snapshots, as disks.
fn snapshots(image: &Image, options: &OpenOptions, source: &Arc<MemorySource>) {
    let Ok(info) = image.info(0) else { return };
    for snapshot in info.snapshots.iter().take(3) {
        let selector = SnapshotSelector::Exactly {
            id: Some(snapshot.id.clone()),
            name: Some(snapshot.name.clone()),
        };
        let options = options.clone().snapshot(selector);
        match options.open_source(source.clone(), "fuzzed.img") {
            Ok(image) => contents(&image),
            Err(error) => is_clear(&error),
        }
    }
}

/// An error is one line that says which file and what.
pub(crate) fn is_clear(error: &Error) {
    let text = error.to_string();
    assert_line(&text);
    assert!(text.len() > 20, "says too little: {text}");
    assert_ne!(error.kind(), ErrorKind::Cancelled, "{text}");
}

/// One line, with nothing that a terminal would take for an order.
pub(crate) fn assert_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "control characters in {text:?}");
}
