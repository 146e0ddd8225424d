//! Runs every read operation on an image.

use diskimg::storage::source::MemorySource;
use diskimg::{
    DirtyBitmap, Error, ErrorKind, ExternalFiles, Format, Image, InspectOptions, OpenOptions,
    SnapshotSelector, conformance, inspect_source, map,
};
use std::sync::Arc;

/// Maximum size of a virtual disk on which `conformance::verify` is run.
const MAX_VERIFIED: u64 = 1 << 20;

/// Number of bytes read at each end of a larger disk.
const BYTES_AT_ENDS: u64 = 64 << 10;

/// Maximum number of map entries that are checked.
const MAX_ENTRIES: usize = 20_000;

/// Maximum number of findings whose messages are checked.
const MAX_FINDINGS: u32 = 50;

/// Opens an image of this format (or of the detected one) and runs every read operation.
pub(crate) fn image(bytes: Vec<u8>, format: impl Into<Option<Format>>) {
    let source = Arc::new(MemorySource::new(bytes));
    inspect(&source);
    let options = OpenOptions::new().format(format).external_files(ExternalFiles::None);
    let metadata_only = options.clone().metadata_only(true);
    open(|| metadata_only.open_source(source.clone(), "fuzzed.img"));
    if let Some(image) = open(|| options.open_source(source.clone(), "fuzzed.img")) {
        assert_eq!(image.layers().len(), 1, "other files were opened");
        contents(&image);
        snapshots(&image, &options, &source);
    }
}

/// Inspects the image, which must always give a verdict.
fn inspect(source: &Arc<MemorySource>) {
    match inspect_source(source.clone(), "fuzzed.img", &InspectOptions::new()) {
        Ok(inspection) => {
            for finding in inspection.findings.iter().take(MAX_FINDINGS as usize) {
                assert_line(&finding.message);
            }
        }
        Err(error) => panic!("inspect failed: {error}"),
    }
}

/// Opens an image, and checks its information, findings and warnings.
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
        if findings <= MAX_FINDINGS {
            assert_line(&finding.message);
        }
    };
    image.check(&mut count).map_err(|e| is_clear(&e)).ok();
    for warning in image.warnings() {
        assert_line(&warning);
    }
    bitmaps(&image);
    Some(image)
}

/// Reads the ends of the first dirty bitmaps.
fn bitmaps(image: &Image) {
    let list = match image.dirty_bitmaps() {
        Ok(list) => list.unwrap_or_default(),
        Err(error) => return is_clear(&error),
    };
    for bitmap in list.iter().take(3) {
        match image.dirty_bitmap(&bitmap.name) {
            Ok(dirty) => dirty_ranges(&dirty),
            Err(error) => is_clear(&error),
        }
    }
}

/// Verifies that what is dirty is in order and within what was asked for.
fn dirty_ranges(bitmap: &DirtyBitmap) {
    let (size, len) = (bitmap.disk_size(), bitmap.info().granularity << 16);
    for asked in [0..len.min(size), size.saturating_sub(len)..size] {
        let mut end = None;
        let outcome = bitmap.for_each_dirty(asked.clone(), |range| {
            assert!(asked.start <= range.start && range.start < range.end, "{range:?}");
            assert!(range.end <= asked.end && end < Some(range.start), "{range:?}");
            end = Some(range.end);
        });
        outcome.map_err(|e| is_clear(&e)).ok();
    }
}

/// Maps and reads the guest bytes.
pub(crate) fn contents(image: &Image) {
    check_map(image);
    if image.size() <= MAX_VERIFIED {
        conforms(image);
        return;
    }
    let mut bytes = vec![0; BYTES_AT_ENDS as usize];
    for at in [0, image.size() - BYTES_AT_ENDS] {
        image.read_at(&mut bytes, at).map_err(|e| is_clear(&e)).ok();
    }
}

/// Verifies that all results are consistent. Reading may fail.
pub(crate) fn conforms(image: &Image) {
    if let Err(error) = conformance::verify(image) {
        assert_ne!(error.structure(), Some("conformance"), "{error}");
        is_clear(&error);
    }
}

fn check_map(image: &Image) {
    let mut at = 0;
    for (number, entry) in map(image, 0..image.size()).enumerate() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return is_clear(&error),
        };
        assert_eq!(entry.start, at, "the map has a gap or an overlap");
        assert!(entry.length > 0, "a map entry is empty");
        at += entry.length;
        if number >= MAX_ENTRIES {
            return;
        }
    }
    assert_eq!(at, image.size(), "the map ends early");
}

/// Opens the first snapshots and reads them.
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

/// Verifies that an error has a useful message of one line.
pub(crate) fn is_clear(error: &Error) {
    let text = format!("{error:#}");
    assert_line(&text);
    assert!(text.len() > 20, "the message is too short: {text}");
    assert_ne!(error.kind(), ErrorKind::Cancelled, "{text}");
}

/// Verifies that the text is one line without control characters.
pub(crate) fn assert_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "control characters in {text:?}");
}
