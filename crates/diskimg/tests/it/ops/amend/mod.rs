//! Changing the options of qcow2 images: by turns with qemu-img, and after a crash at any point.

mod crash;
mod errors;
mod sequences;

use super::snapshots::{Case, MIB, contents, options, qemu};
use diskimg::{Amend, Amended, Options, Result};
use diskimg_testkit::tool::{assert_qemu_check, run};
use std::path::Path;

fn amend(path: &Path, given: &str) -> Result<Amended> {
    Amend::new(Options::parse(given).unwrap()).open_options(options()).run(path)
}

/// Returns the fields of the header from version 3.
fn features(path: &Path) -> serde_json::Value {
    let output = run("qemu-img", ["info", "--output=json", path.to_str().unwrap()]);
    let info: serde_json::Value = serde_json::from_str(&output).unwrap();
    info["format-specific"]["data"].clone()
}

#[test]
fn versions_are_changed_in_both_directions() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case {
        name: "",
        options: "lazy_refcounts=on",
        size: MIB,
        commands: &["write -P 1 0 256k", "write -z 64k 64k", "write -z -u 128k 64k"],
    };
    let path = case.make(dir.path());
    let before = contents(&path);
    assert_eq!(amend(&path, "compat=0.10").unwrap(), Amended::default());
    assert_eq!((&features(&path)["compat"], contents(&path)), (&"0.10".into(), before.clone()));
    let v2 = std::fs::read(&path).unwrap();
    assert_eq!((&v2[4..8], &v2[72..80]), (&[0, 0, 0, 2][..], &[0; 8][..]));
    assert_qemu_check(&path, "qcow2");
    amend(&path, "compat=1.1,refcount_bits=1,lazy_refcounts=on").unwrap();
    let found = features(&path);
    assert_eq!((&found["compat"], &found["refcount-bits"]), (&"1.1".into(), &1.into()));
    assert_eq!(found["lazy-refcounts"], true);
    assert_eq!(contents(&path), before);
    assert_qemu_check(&path, "qcow2");
    // It has the table of feature names, as QEMU writes it.
    let names = |path: &Path| std::fs::read(path).unwrap()[112..512].to_vec();
    let other = dir.path().join("other.qcow2");
    run("qemu-img", ["create", "-q", "-f", "qcow2", other.to_str().unwrap(), "1M"]);
    assert_eq!(names(&path), names(&other));
    amend(&path, "lazy_refcounts=off,size=2M").unwrap();
    assert_eq!(features(&path)["lazy-refcounts"], false);
    assert_eq!(contents(&path)[0].len() as u64, 2 * MIB);
    amend(&path, "size=128k,refcount_bits=16,compat=v2").unwrap();
    assert_eq!(contents(&path)[0], before[0][..128 << 10]);
    assert_qemu_check(&path, "qcow2");
}

/// Shortens the extra data of the first snapshot to `len` bytes. The table has room for it.
fn shorten_extra_data(path: &Path, len: u32) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes.resize(bytes.len().next_multiple_of(64 << 10), 0);
    let at = u64::from_be_bytes(bytes[64..72].try_into().unwrap()) as usize;
    let word = |at: usize, bytes: &[u8]| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let names: usize = bytes[at + 12..at + 16].chunks(2).map(|n| n[1] as usize).sum();
    let old = word(at + 36, &bytes) as usize;
    let entry = |extra: usize| (40 + extra + names).next_multiple_of(8);
    let rest = bytes[at + entry(old)..at + 1024].to_vec();
    bytes.copy_within(at + 40 + old..at + 40 + old + names, at + 40 + len as usize);
    bytes[at + 36..at + 40].copy_from_slice(&len.to_be_bytes());
    bytes[at + entry(len as usize)..][..rest.len()].copy_from_slice(&rest);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn snapshots_of_version_2_get_the_extra_data_that_version_3_requires() {
    for len in [0, 8, 12, 16, 24] {
        let dir = tempfile::tempdir().unwrap();
        let case = Case {
            name: "",
            options: "compat=0.10,cluster_size=4k",
            size: MIB,
            commands: &["write -P 1 0 64k", "img snapshot -c s", "img snapshot -c second"],
        };
        let path = case.make(dir.path());
        shorten_extra_data(&path, len);
        assert_qemu_check(&path, "qcow2");
        let before = contents(&path);
        let theirs = dir.path().join("theirs.qcow2");
        std::fs::copy(&path, &theirs).unwrap();
        run("qemu-img", ["amend", "-o", "compat=1.1", theirs.to_str().unwrap()]);
        amend(&path, "compat=1.1").unwrap();
        assert_qemu_check(&path, "qcow2");
        assert_eq!(contents(&path), before);
        let table = |path: &Path| {
            let bytes = std::fs::read(path).unwrap();
            let at = u64::from_be_bytes(bytes[64..72].try_into().unwrap()) as usize;
            // Without the offset of the L1 table.
            bytes[at + 8..at + 140].to_vec()
        };
        assert!(table(&path) == table(&theirs), "{len}");
    }
}

#[test]
fn bitmaps_are_removed_with_version_3() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case {
        name: "",
        options: "cluster_size=4k",
        size: MIB,
        commands: &["img bitmap --add b", "write -P 1 0 256k", "img bitmap --add c"],
    };
    let path = case.make(dir.path());
    let before = contents(&path);
    assert_eq!(amend(&path, "compat=0.10").unwrap().removed_bitmaps, 2);
    assert_qemu_check(&path, "qcow2");
    assert_eq!(contents(&path), before);
    assert_eq!(amend(&path, "compat=1.1").unwrap().removed_bitmaps, 0);
    assert!(features(&path).get("bitmaps").is_none());
    qemu(&path, "img bitmap --add b");
    assert_qemu_check(&path, "qcow2");
}

#[test]
fn a_cluster_that_a_zero_cluster_of_a_snapshot_shared_is_the_disks_own() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case {
        name: "",
        options: "cluster_size=4k",
        size: MIB,
        commands: &[
            "write -P 1 0 64k",
            "img snapshot -c data",
            "write -z 0 64k",
            "img snapshot -c zero",
            "img snapshot -a data",
            "img snapshot -d data",
        ],
    };
    let path = case.make(dir.path());
    let before = contents(&path);
    amend(&path, "compat=0.10").unwrap();
    assert_qemu_check(&path, "qcow2");
    assert_eq!(contents(&path), before);
}

#[test]
fn the_name_of_the_data_file_is_changed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let file = path.to_str().unwrap();
    for raw in ["off", "on"] {
        let create = format!("data_file={file}.data,data_file_raw={raw}");
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", &create, file, "1M"]);
        qemu(&path, "write -P 1 0 256k");
        let before = contents(&path)[0].clone();
        let moved = dir.path().join("moved").to_str().unwrap().to_owned();
        std::fs::rename(format!("{file}.data"), &moved).unwrap();
        // The old file need not exist.
        amend(&path, &format!("data_file={moved}")).unwrap();
        assert_eq!(contents(&path)[0], before);
        assert_eq!(features(&path)["data-file"], moved);
        assert_eq!(features(&path)["data-file-raw"], raw == "on");
        amend(&path, "data_file_raw=off,refcount_bits=64,size=2M").unwrap();
        assert_eq!(features(&path)["data-file-raw"], false);
        assert_eq!(contents(&path)[0].len() as u64, 2 * MIB);
        assert_qemu_check(&path, "qcow2");
        let long = "n".repeat(1000);
        amend(&path, &format!("data_file={long}")).unwrap();
        amend(&path, &format!("data_file={moved},lazy_refcounts=on")).unwrap();
        assert_eq!(contents(&path)[0][..before.len()], before);
        assert_qemu_check(&path, "qcow2");
        amend(&path, "data_file=").unwrap();
        let header = std::fs::read(&path).unwrap()[..512].to_vec();
        assert!(!header.windows(moved.len()).any(|text| text == moved.as_bytes()));
        std::fs::remove_file(&path).unwrap();
    }
}
