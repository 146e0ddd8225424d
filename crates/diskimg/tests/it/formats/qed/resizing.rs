//! Disks that grow in place.

use super::{assert_consistent, our_bytes, write};
use diskimg::{ErrorKind, NewSize, Resize};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::qed::*;
use diskimg_testkit::tool::{assert_qemu_check, full, qemu_bytes, run};
use std::path::Path;
use std::sync::Arc;

const CLUSTER: u64 = 4096;

/// A disk whose last cluster has data behind the end of the disk.
const SIZE: u64 = 700 * CLUSTER - 1536;

fn grow(path: &Path, size: u64) -> Result<(), diskimg::Error> {
    Resize::new(NewSize::Bytes(size)).shrink(true).run(path).map(|_| ())
}

fn sample() -> Qed {
    let data = Cluster::Data;
    Qed::new(SIZE).cluster(0, data(1)).cluster(511, data(2)).cluster(699, data(3))
}

/// The disk with another size.
fn wanted(size: u64) -> Vec<u8> {
    let mut bytes = sample().bytes(0);
    bytes.resize(size as usize, 0);
    bytes
}

#[test]
fn a_disk_that_grows_has_zeros_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for size in [SIZE, SIZE + 512, 700 * CLUSTER, 701 * CLUSTER, 5000 * CLUSTER + 512] {
        let path = write(dir.path(), "disk.qed", &sample());
        grow(&path, size).unwrap();
        assert!(our_bytes(&path) == wanted(size), "{size}");
        assert!(qemu_bytes(&path, "qed") == wanted(size), "{size}");
        assert_consistent(&path);
        assert_qemu_check(&path, "qed");
    }
}

/// What other programs left behind the end of the disk in its tables: entries of clusters.
#[test]
fn stale_entries_of_tables_do_not_become_visible() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample();
    let mut file = image.build();
    let cluster = file.len();
    file.resize(cluster + CLUSTER as usize, 9);
    let table = file[image.l1_at()..][..8].to_vec();
    file[image.entry_at(699) + 8..][..8].copy_from_slice(&(cluster as u64).to_le_bytes());
    file[image.l1_at() + 8 * 2..][..8].copy_from_slice(&table);
    let path = super::write_bytes(dir.path(), "disk.qed", &file);
    grow(&path, 3000 * CLUSTER).unwrap();
    assert!(our_bytes(&path) == wanted(3000 * CLUSTER));
    assert!(qemu_bytes(&path, "qed") == wanted(3000 * CLUSTER));
}

#[test]
fn the_result_is_that_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    for (number, options) in ["cluster_size=64k", "cluster_size=4k,table_size=2"].iter().enumerate()
    {
        let [ours, theirs] = ["ours", "theirs"].map(|name| {
            let path = dir.path().join(format!("{name}{number}.qed"));
            let name = path.to_str().unwrap().to_owned();
            run("qemu-img", ["create", "-q", "-f", "qed", "-o", options, &name, "9M"]);
            run("qemu-io", ["-f", "qed", "-c", "write -P 5 100k 8M", &name]);
            path
        });
        grow(&ours, 90 << 20).unwrap();
        run("qemu-img", ["resize", "-q", "-f", "qed", theirs.to_str().unwrap(), "90M"]);
        assert!(std::fs::read(&ours).unwrap() == std::fs::read(&theirs).unwrap(), "{options}");
    }
}

#[test]
fn after_a_crash_the_disk_has_its_old_or_new_size_and_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qed");
    let storage = Arc::new(RecordingStorage::new(sample().build(), None));
    let target = Arc::clone(&storage) as _;
    Resize::new(NewSize::Bytes(3000 * CLUSTER)).run_on(target, "target").unwrap();
    let states = storage.crash_states(3, if full() { 1 } else { 3 }, |state| {
        std::fs::write(&path, state).unwrap();
        let found = our_bytes(&path);
        assert!(found == wanted(SIZE) || found == wanted(3000 * CLUSTER));
        assert_consistent(&path);
    });
    assert!(states > 2);
}

#[test]
fn sizes_that_an_image_cannot_have_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    for (size, kind) in
        [(1000, ErrorKind::Invalid), (CLUSTER, ErrorKind::Unsupported), (1 << 40, ErrorKind::Limit)]
    {
        let path = write(dir.path(), "disk.qed", &sample());
        let error = grow(&path, size).unwrap_err();
        assert_eq!(error.kind(), kind, "{size}: {error}");
        assert!(std::fs::read(&path).unwrap() == sample().build());
    }
}

#[test]
fn a_disk_does_not_grow_over_a_longer_backing_file() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = (dir.path().join("base"), dir.path().join("disk.qed"));
    std::fs::write(&base, vec![7; 2 << 20]).unwrap();
    let name = path.to_str().unwrap();
    let create = ["create", "-q", "-f", "qed", "-b", base.to_str().unwrap(), "-F", "raw", name];
    run("qemu-img", create.into_iter().chain(["1M"]));
    let error = grow(&path, 3 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    std::fs::write(&base, vec![7; 1 << 20]).unwrap();
    grow(&path, 3 << 20).unwrap();
    let mut wanted = vec![7; 1 << 20];
    wanted.resize(3 << 20, 0);
    assert!(our_bytes(&path) == wanted);
}
