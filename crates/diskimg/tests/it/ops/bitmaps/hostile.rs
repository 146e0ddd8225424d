//! Images whose tables lie.

use super::{Case, MIB, options};
use diskimg::formats::qcow2::Qcow2Mut;
use diskimg::storage::source::MemorySource;
use diskimg::{ErrorKind, Image, Result};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::tool::{cases, run};
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

/// A source of a few kilobytes says that all of a large disk is dirty.
#[test]
fn a_small_source_does_not_make_a_large_bitmap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let file = path.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", file, "128G"]);
    run("qemu-img", ["bitmap", "--add", "-g", "512", file, "b"]);
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    let mut bytes = std::fs::read(&path).unwrap();
    // The entries of the table say that all bits are set.
    let mut at = 104 + 8;
    while number(&bytes[at..at + 4]) != 0x2385_2875 {
        at += 8 + (number(&bytes[at + 4..at + 8]) as usize).next_multiple_of(8);
    }
    let directory = number(&bytes[at + 24..at + 32]) as usize;
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
