//! Writes in place, in formats that allocate space, and after a crash at any point.

use diskimg::check::CheckReport;
use diskimg::{Bench, Create, ErrorKind, Format, Image, OpenOptions};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::tool::full;
use std::num::NonZeroU64;
use std::sync::Arc;

const FORMATS: [Format; 8] = [
    Format::Qcow2,
    Format::Vmdk,
    Format::Vhd,
    Format::Vhdx,
    Format::Vdi,
    Format::Qed,
    Format::Qcow,
    Format::Parallels,
];

fn new_image(format: Format) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    Create::new(format).size(3 << 20).run(&path).unwrap();
    std::fs::read(&path).unwrap()
}

fn options(format: Format) -> OpenOptions {
    OpenOptions::new().format(format)
}

fn open(format: Format, bytes: &[u8]) -> Image {
    let source = Arc::new(diskimg::storage::source::MemorySource::new(bytes.to_vec()));
    options(format).open_source(source, "image").unwrap()
}

fn contents(format: Format, bytes: &[u8]) -> Vec<u8> {
    let image = open(format, bytes);
    let mut disk = vec![0; image.size() as usize];
    image.read_at(&mut disk, 0).unwrap();
    disk
}

fn check(format: Format, bytes: &[u8]) -> Option<CheckReport> {
    open(format, bytes).check(&mut |_| {}).unwrap()
}

/// Writes a few requests of which each begins and ends within a cluster.
fn write(format: Format, pattern: u8, storage: &Arc<RecordingStorage>) {
    let bench = Bench::new()
        .open_options(options(format))
        .requests(7)
        .depth(1)
        .length(9000)
        .offset(700)
        .step(401_000)
        .pattern(pattern)
        .flush_interval(NonZeroU64::new(3).unwrap());
    bench.write_on(Arc::clone(storage) as _, "image").unwrap();
}

/// New clusters first, which are overwritten then.
#[test]
#[allow(clippy::print_stdout, reason = "the counts")]
fn after_a_crash_each_byte_is_old_or_new() {
    for format in FORMATS {
        let storage = Arc::new(RecordingStorage::new(new_image(format), None));
        write(format, 7, &storage);
        let mut states = assert_states(format, &storage);
        let storage = Arc::new(RecordingStorage::new(storage.to_vec(), None));
        write(format, 9, &storage);
        states += assert_states(format, &storage);
        println!("{format}: {states} states");
        assert!(states > 10, "{format}: {states}");
    }
}

fn assert_states(format: Format, storage: &RecordingStorage) -> usize {
    let mut before = None;
    let after = contents(format, &storage.to_vec());
    let report = check(format, &storage.to_vec());
    assert!(report.is_none_or(|report| report.corruptions == 0), "{format}: {report:?}");
    let step = if full() { 1 } else { 23 };
    storage.crash_states(5, step, |state| {
        let now = contents(format, state);
        let before = before.get_or_insert_with(|| now.clone());
        for (block, now) in now.chunks(512).enumerate() {
            let at = block * 512..block * 512 + now.len();
            let (old, new) = (&before[at.clone()], &after[at]);
            let is_one = |(byte, (old, new)): (&u8, (&u8, &u8))| byte == old || byte == new;
            let is_mixed = || now.iter().zip(old.iter().zip(new)).all(is_one);
            assert!(now == old || now == new || is_mixed(), "{format}: block {block}");
        }
        let report = check(format, state).unwrap_or_default();
        // That it was not closed counts as a corruption of Parallels images.
        let closed = u64::from(format == Format::Parallels);
        assert!(report.corruptions <= closed && report.check_errors == 0, "{format}: {report:?}");
    })
}

#[test]
fn an_image_whose_format_is_not_named_is_not_written() {
    let storage = Arc::new(RecordingStorage::new(new_image(Format::Qcow2), None));
    let before = storage.to_vec();
    let error = Bench::new().write_on(Arc::clone(&storage) as _, "image").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("format"), "{error}");
    assert!(storage.to_vec() == before);
}
