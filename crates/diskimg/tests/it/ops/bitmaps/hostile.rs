//! Images whose tables lie.

use super::{Case, MIB, options};
use diskimg::formats::qcow2::Qcow2Mut;
use diskimg::storage::edit::FileStorage;
use diskimg::storage::sink::Sink;
use diskimg::storage::source::{MemorySource, Source};
use diskimg::{ErrorKind, Image, Result};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::tool::{cases, run, try_run};
use std::sync::Arc;

const CASES: [Case; 2] = [
    Case {
        name: "small clusters",
        options: "cluster_size=512,refcount_bits=8",
        size: MIB / 4,
        commands: &[
            "img bitmap --add -g 512 b",
            "img bitmap --add -g 4k c",
            "write -P 1 0 20k",
            "write -P 2 10k 20k",
        ],
    },
    Case {
        name: "large clusters",
        options: "cluster_size=4k",
        size: MIB,
        commands: &["img bitmap --add -g 512 b", "img bitmap --add c", "write -P 2 8k 64k"],
    },
];

fn open(image: &[u8]) -> Option<Image> {
    let source = Arc::new(MemorySource::new(image.to_vec()));
    options().open_source(source, "a.qcow2").ok()
}

/// Corruptions that a check finds, or `None` if the image cannot be checked.
fn corruptions(image: &[u8]) -> Option<u64> {
    Some(open(image)?.check(&mut |_| {}).ok()??.corruptions)
}

/// Reads all bitmaps. What is dirty is within the disk, and in order.
fn read(image: &[u8]) {
    let Some(image) = open(image) else { return };
    let Ok(Some(bitmaps)) = image.dirty_bitmaps() else { return };
    for bitmap in bitmaps {
        let Ok(dirty) = image.dirty_bitmap(&bitmap.name) else { continue };
        let mut end = 0;
        let outcome = dirty.for_each_dirty(0..u64::MAX, |range| {
            assert!(range.start < range.end && (end == 0 || range.start > end), "{range:?}");
            end = range.end;
        });
        assert!(outcome.is_err() || end <= image.size());
    }
}

#[test]
fn damaged_images_are_refused_or_stay_consistent() {
    type Change = fn(&mut Qcow2Mut) -> Result<()>;
    let changes: [Change; 4] = [
        |image| image.add_bitmap("new", None),
        |image| image.merge_bitmap("c", "b"),
        |image| image.clear_bitmap("b"),
        |image| image.remove_bitmap("c"),
    ];
    let mut random = 0x1234_5678_9abc_def1u64;
    let mut below = |end: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) % end
    };
    let mut counts = [0; 2];
    for case in &CASES {
        let dir = tempfile::tempdir().unwrap();
        let good = std::fs::read(case.make(dir.path())).unwrap();
        // Metadata is where words are neither zero nor of guest data.
        let fills = [0, 0x0101_0101_0101_0101u64, 0x0202_0202_0202_0202];
        let words: Vec<_> = (0..good.len() / 8)
            .filter(|at| {
                let word = u64::from_ne_bytes(good[at * 8..at * 8 + 8].try_into().unwrap());
                !fills.contains(&word)
            })
            .collect();
        for number in 0..cases(600).cases {
            let mut image = good.clone();
            for _ in 0..=below(2) {
                let at = words[below(words.len() as u64) as usize] * 8;
                let other = words[below(words.len() as u64) as usize] * 8;
                match below(3) {
                    0 => image[at + below(8) as usize] ^= 1 << below(8),
                    1 => image[at + below(8) as usize] = below(256) as u8,
                    _ => image.copy_within(other..other + 8, at),
                }
            }
            read(&image);
            let before = corruptions(&image);
            for (verb, change) in changes.iter().enumerate() {
                let context = || format!("{}, image {number}, verb {verb}", case.name);
                let storage = Arc::new(RecordingStorage::new(image.clone(), None));
                let opened = Qcow2Mut::open_on(storage.clone(), "a.qcow2", options());
                let outcome = opened.and_then(|mut opened| change(&mut opened));
                counts[usize::from(outcome.is_ok())] += 1;
                let state = storage.to_vec();
                match outcome {
                    Ok(()) => {
                        let after = corruptions(&state);
                        assert!(before != Some(0) || after == Some(0), "{}", context());
                    }
                    Err(error) => {
                        assert_ne!(error.kind(), ErrorKind::Io, "{}: {error}", context());
                        assert!(state == image, "{}: {error}", context());
                    }
                }
            }
        }
    }
    assert!(counts.iter().all(|&count| count > 100), "{counts:?}");
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

/// Returns the host offset of the bitmap directory of an image as QEMU writes it.
fn directory_at(image: &[u8]) -> usize {
    let mut at = 104 + 8;
    while number(&image[at..at + 4]) != 0x2385_2875 {
        at += 8 + (number(&image[at + 4..at + 8]) as usize).next_multiple_of(8);
    }
    number(&image[at + 24..at + 32]) as usize
}

/// A bitmap that would have 2 GiB of table entries can only be removed.
#[test]
fn a_bitmap_that_does_not_fit_the_disk_is_only_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let file = path.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", file, "2E"]);
    run("qemu-img", ["bitmap", "--add", "-g", "2G", file, "b"]);
    let storage = FileStorage::open(&path).unwrap();
    let mut head = vec![0; 4096];
    storage.read_exact_at(&mut head, 0).unwrap();
    let granularity_at = directory_at(&head) as u64 + 17;
    storage.write_all_at(&[9], granularity_at).unwrap();
    drop(storage);
    assert!(!try_run("qemu-img", ["bitmap", "--clear", file, "b"]).status.success());
    let len = std::fs::metadata(&path).unwrap().len();
    let mut image = Qcow2Mut::open(&path).unwrap();
    image.add_bitmap("good", Some(2 << 30)).unwrap();
    for change in [
        Qcow2Mut::clear_bitmap,
        Qcow2Mut::enable_bitmap,
        Qcow2Mut::disable_bitmap,
        |image: &mut Qcow2Mut, name: &str| image.merge_bitmap("good", name),
        |image: &mut Qcow2Mut, name: &str| image.merge_bitmap(name, "good"),
    ] {
        let error = change(&mut image, "b").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("64 entries instead of 268435456"), "{error}");
    }
    image.remove_bitmap("b").unwrap();
    image.clear_bitmap("good").unwrap();
    drop(image);
    assert!(std::fs::metadata(&path).unwrap().len() < 2 * len);
    run("qemu-img", ["bitmap", "--disable", file, "good"]);
}

/// A source of which no cluster is stored takes no time.
#[test]
fn a_source_beyond_the_end_of_the_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let file = path.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", file, "2T"]);
    run("qemu-img", ["bitmap", "--add", "-g", "512", file, "b"]);
    run("qemu-img", ["bitmap", "--add", file, "c"]);
    let mut bytes = std::fs::read(&path).unwrap();
    let directory = directory_at(&bytes);
    let table = number(&bytes[directory..directory + 8]) as usize;
    let entries = number(&bytes[directory + 8..directory + 12]) as usize;
    assert_eq!(entries, 256);
    for entry in 0..entries {
        let offset = (1u64 << 40) + ((entry as u64) << 21);
        bytes[table + entry * 8..table + entry * 8 + 8].copy_from_slice(&offset.to_be_bytes());
    }
    std::fs::write(&path, &bytes).unwrap();
    let source = options().open(&path).unwrap();
    let error = source.dirty_bitmap("b").unwrap_err();
    assert!(error.to_string().contains("beyond the end of the file"), "{error}");
    drop(source);
    let mut image = Qcow2Mut::open(&path).unwrap();
    let error = image.merge_bitmap("c", "b").unwrap_err();
    assert!(error.to_string().contains("beyond the end of the file"), "{error}");
}

/// A source of a few kilobytes says that all of a large disk is dirty.
#[test]
fn a_small_source_does_not_make_a_large_bitmap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let file = path.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", file, "128G"]);
    run("qemu-img", ["bitmap", "--add", "-g", "512", file, "b"]);
    let mut bytes = std::fs::read(&path).unwrap();
    // The entries of the table say that all bits are set.
    let directory = directory_at(&bytes);
    let table = number(&bytes[directory..directory + 8]) as usize;
    let entries = number(&bytes[directory + 8..directory + 12]) as usize;
    for entry in 0..entries {
        bytes[table + entry * 8..table + entry * 8 + 8].copy_from_slice(&1u64.to_be_bytes());
    }
    std::fs::write(&path, &bytes).unwrap();
    let mut image = Qcow2Mut::open(&path).unwrap();
    let mut changes = image.change_bitmaps().unwrap();
    changes.add("merged", Some(1024)).unwrap();
    changes.merge("merged", "b").unwrap();
    changes.store().unwrap();
    drop(image);
    assert!(std::fs::metadata(&path).unwrap().len() < 2 * bytes.len() as u64 + MIB);
    let found = super::contents(&path);
    assert_eq!(found[1].1, [0..128 << 30]);
    assert_eq!(super::contents_by_qemu(&path), found);
    // All entries refer to one cluster.
    bytes.resize(bytes.len().next_multiple_of(4096) + 4096, 0x55);
    let offset = bytes.len() as u64 - 4096;
    for entry in 0..entries {
        bytes[table + entry * 8..table + entry * 8 + 8].copy_from_slice(&offset.to_be_bytes());
    }
    let source = Arc::new(MemorySource::new(bytes));
    let image = options().open_source(source, "a.qcow2").unwrap();
    let error = image.dirty_bitmap("b").unwrap_err();
    assert!(error.to_string().contains("two entries refer to the same cluster"), "{error}");
}
