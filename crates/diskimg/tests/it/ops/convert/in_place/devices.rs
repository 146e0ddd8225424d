//! Images on devices: their clusters cannot be appended, so that free ones are used.

use super::{Lab, expected, source_of};
use diskimg::ErrorKind;
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::tool::{full, qemu_bytes};
use std::sync::Arc;

/// Creates an image of `size` bytes in which `commands` were done, and returns the bytes of a device
/// that ends with the image.
fn device(lab: &Lab, options: &str, size: u64, commands: &[&str]) -> Vec<u8> {
    assert!(lab.create(options, size, None), "{options}");
    let commands: Vec<_> = commands.iter().map(|&command| command.to_owned()).collect();
    lab.io(&lab.target(), &commands);
    let mut bytes = std::fs::read(lab.target()).unwrap();
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    bytes
}

/// Targets: options, what is written and discarded before, and the source.
type Case = (&'static str, &'static [&'static str], fn() -> Vec<u8>);

const CASES: [Case; 2] = [
    ("cluster_size=4k", &["write -P 5 0 128k", "discard 0 100k"], || {
        source_of(96 << 10, &[(0, 90 << 10, 0)])
    }),
    ("cluster_size=512,refcount_bits=64", &["write -P 5 0 128k", "discard 20k 60k"], || {
        source_of(128 << 10, &[(0, 75 << 10, 0)])
    }),
];

#[test]
fn a_full_device_has_room_in_its_free_clusters() {
    for (options, commands, source) in CASES {
        let lab = Lab::new("qcow2");
        let bytes = device(&lab, options, 128 << 10, commands);
        let (old, source) = (qemu_bytes(&lab.target(), "qcow2"), source());
        let new = expected(&source, &old);
        let storage = Arc::new(RecordingStorage::device(bytes));
        let convert = lab.convert(&source).threads(1);
        convert.run_existing_on(Arc::clone(&storage) as _, "device").unwrap();
        let mut number = 0;
        storage.crash_states(9, if full() { 1 } else { 17 }, |state| {
            number += 1;
            std::fs::write(lab.target(), state).unwrap();
            lab.assert_old_or_new(&old, &new, &|| format!("{options}, state {number}"));
        });
        std::fs::write(lab.target(), storage.to_vec()).unwrap();
        lab.assert_clean();
        assert!(qemu_bytes(&lab.target(), "qcow2") == new, "{options}");
    }
}

#[test]
fn a_device_without_free_clusters_is_full() {
    let lab = Lab::new("qcow2");
    let bytes = device(&lab, "cluster_size=4k", 128 << 10, &["write -P 5 0 64k"]);
    let old = qemu_bytes(&lab.target(), "qcow2");
    let source = vec![7; 128 << 10];
    let storage = Arc::new(RecordingStorage::device(bytes));
    let outcome = lab.convert(&source).run_existing_on(Arc::clone(&storage) as _, "device");
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    for text in ["the device does not have a free cluster of 4096 bytes", "partly overwritten"] {
        assert!(error.to_string().contains(text), "{error}");
    }
    std::fs::write(lab.target(), storage.to_vec()).unwrap();
    lab.assert_old_or_new(&old, &expected(&source, &old), &|| "full".into());
}

/// The clusters that zeros make free are used before the end of the conversion.
#[test]
fn data_takes_the_clusters_that_zeros_before_it_have_freed() {
    const MIB: u64 = 1 << 20;
    let lab = Lab::new("qcow2");
    let bytes = device(&lab, "cluster_size=4k", 24 * MIB, &["write -P 5 0 16M"]);
    let old = qemu_bytes(&lab.target(), "qcow2");
    let source = source_of(24 * MIB, &[(16 * MIB, 6 * MIB, 0)]);
    let storage = Arc::new(RecordingStorage::device(bytes));
    let convert = lab.convert(&source).threads(1);
    convert.run_existing_on(Arc::clone(&storage) as _, "device").unwrap();
    std::fs::write(lab.target(), storage.to_vec()).unwrap();
    lab.assert_clean();
    assert!(qemu_bytes(&lab.target(), "qcow2") == expected(&source, &old));
}
