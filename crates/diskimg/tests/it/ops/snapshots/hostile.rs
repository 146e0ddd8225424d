//! Images whose tables lie.

use super::{Case, MIB, by_name, id_or_name, options};
use diskimg::formats::qcow2::Qcow2Mut;
use diskimg::storage::source::MemorySource;
use diskimg::{ErrorKind, Result};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::tool::cases;
use std::sync::Arc;

const CASES: [Case; 2] = [
    Case {
        name: "small clusters",
        options: "cluster_size=512,refcount_bits=8",
        size: MIB / 4,
        commands: &["write -P 1 0 20k", "img snapshot -c s", "write -P 2 10k 20k"],
    },
    Case {
        name: "compressed clusters and bitmaps",
        options: "cluster_size=4k",
        size: MIB,
        commands: &[
            "write -c -P 1 0 4k",
            "write -P 2 8k 64k",
            "img snapshot -c s",
            "img bitmap --add b",
            "write -P 3 0 30k",
        ],
    },
];

/// Corruptions that a check finds, or `None` if the image cannot be checked.
fn corruptions(image: &[u8]) -> Option<u64> {
    let source = Arc::new(MemorySource::new(image.to_vec()));
    let image = options().open_source(source, "a.qcow2").ok()?;
    Some(image.check(&mut |_| {}).ok()??.corruptions)
}

#[test]
fn damaged_images_are_refused_or_stay_consistent() {
    type Change = fn(&mut Qcow2Mut) -> Result<()>;
    let changes: [Change; 3] = [
        |image| image.create_snapshot("new").map(drop),
        |image| image.apply_snapshot(&id_or_name("s")),
        |image| image.delete_snapshot(&by_name("s")),
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
        let fills = [0, 0x0101_0101_0101_0101u64, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303];
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
