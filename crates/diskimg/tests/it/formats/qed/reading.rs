//! QED images that QEMU does not write, and damaged ones.

use super::{assert_consistent, findings, our_bytes, write, write_bytes};
use diskimg::check::Code;
use diskimg::inspection::Code as InspectionCode;
use diskimg::{Error, ErrorKind, Image, InspectOptions, inspect};
use diskimg_testkit::qed::*;
use diskimg_testkit::tool::{qemu_bytes, run, try_run};
use std::path::Path;

const CLUSTER: u64 = 4096;

fn sample() -> Qed {
    Qed::new(2000 * CLUSTER + 512)
        .cluster(0, Cluster::Data(0x10))
        .cluster(3, Cluster::Zero)
        .cluster(1023, Cluster::Data(0x51))
        .cluster(1024, Cluster::Data(0x52))
        .cluster(2000, Cluster::Data(0x99))
}

/// The error for reading the whole disk.
fn error(path: &Path) -> Error {
    let read = Image::open(path).and_then(|image| {
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(&mut bytes, 0)
    });
    read.unwrap_err()
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn tables_may_be_anywhere_and_have_1_to_16_clusters() {
    let dir = tempfile::tempdir().unwrap();
    for (cluster_size, table_size, header_size) in
        [(4096, 1, 1), (4096, 16, 3), (8192, 2, 1), (65536, 8, 1), (1 << 20, 2, 1)]
    {
        let image = Qed { cluster_size, table_size, header_size, ..sample() };
        let size = 2000 * u64::from(cluster_size) + 512;
        let image = Qed { size: size.min(20 << 20), ..image };
        let clusters = image.clusters.clone().into_iter();
        let last = image.size.div_ceil(cluster_size.into());
        let image =
            Qed { clusters: clusters.filter(|(number, _)| *number < last).collect(), ..image };
        let path = write(dir.path(), "disk.qed", &image);
        assert!(our_bytes(&path) == image.bytes(0), "{cluster_size} {table_size}");
        // QEMU takes the end of a table of one cluster for an overflow.
        if table_size > 1 {
            assert!(qemu_bytes(&path, "qed") == image.bytes(0), "{cluster_size} {table_size}");
        }
        assert_consistent(&path);
    }
}

/// The specification: the file consists of clusters. What follows the last one is ignored.
#[test]
fn the_length_of_the_file_is_rounded_down_to_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = sample().build();
    file.extend([0xee; 4095]);
    let path = write_bytes(dir.path(), "disk.qed", &file);
    assert!(our_bytes(&path) == sample().bytes(0));
    assert_consistent(&path);
    // A cluster in that part is not in the file.
    let mut file = sample().build();
    let (at, end) = (sample().entry_at(0), file.len() as u64);
    put(&mut file, at, &end.to_le_bytes());
    file.extend([0xee; 3500]);
    let path = write_bytes(dir.path(), "disk.qed", &file);
    let text = error(&path).to_string();
    assert!(text.contains("beyond the end of the file"), "{text}");
    assert!(
        !try_run("qemu-io", ["-f", "qed", "-c", "read 0 512", path.to_str().unwrap()])
            .stdout
            .starts_with(b"read 512/512")
    );
}

#[test]
fn unknown_incompatible_features_are_refused_and_others_ignored() {
    let dir = tempfile::tempdir().unwrap();
    for bit in [3, 17, 63] {
        let image = Qed { features: 1 << bit, ..sample() };
        let path = write(dir.path(), "disk.qed", &image);
        let error = Image::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(&format!("{:#x}", 1u64 << bit)), "{error}");
        assert!(!try_run("qemu-img", ["info", path.to_str().unwrap()]).status.success());
    }
    let mut file = sample().build();
    file[COMPATIBLE..L1_OFFSET].fill(0xff);
    let path = write_bytes(dir.path(), "disk.qed", &file);
    assert!(our_bytes(&path) == sample().bytes(0));
}

/// An image that was not closed can be read: its tables are valid.
#[test]
fn an_image_that_needs_a_check_is_read_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.qed", &Qed { features: NEED_CHECK, ..sample() });
    assert!(our_bytes(&path) == sample().bytes(0));
    let info = Image::open(&path).unwrap().info(0).unwrap();
    assert!(info.dirty_flag);
    assert!(std::fs::read(&path).unwrap()[FEATURES] == 2, "reading does not modify it");
}

#[test]
fn each_bad_header_field_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    type Damage = (&'static str, usize, Vec<u8>);
    let u32s = |value: u32| value.to_le_bytes().to_vec();
    let u64s = |value: u64| value.to_le_bytes().to_vec();
    let cases: Vec<Damage> = vec![
        ("cluster size", 4, u32s(0)),
        ("cluster size", 4, u32s(2048)),
        ("cluster size", 4, u32s(4097)),
        ("cluster size", 4, u32s(128 << 20)),
        ("table size", 8, u32s(0)),
        ("table size", 8, u32s(3)),
        ("table size", 8, u32s(32)),
        ("the header has", 12, u32s(0)),
        ("the header has", 12, u32s(u32::MAX)),
        ("L1 table", L1_OFFSET, u64s(0)),
        ("L1 table", L1_OFFSET, u64s(4097)),
        ("L1 table", L1_OFFSET, u64s(1 << 62)),
        ("L1 table", L1_OFFSET, u64s(u64::MAX - 4095)),
        ("a disk of", IMAGE_SIZE, u64s(511)),
        ("a disk of", IMAGE_SIZE, u64s((1 << 32) + 512)),
        ("a disk of", IMAGE_SIZE, u64s(u64::MAX - 511)),
    ];
    for (named, at, bytes) in cases {
        let mut file = sample().build();
        put(&mut file, at, &bytes);
        let path = write_bytes(dir.path(), "disk.qed", &file);
        let error = Image::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{named} {bytes:?}");
        assert!(error.to_string().contains(named), "{named} {bytes:?}: {error}");
        let open = try_run("qemu-img", ["info", path.to_str().unwrap()]);
        // QEMU does not compare the header with the length of the file.
        assert!(!open.status.success() || named == "the header has", "{named} {bytes:?}");
    }
}

#[test]
fn the_name_of_the_backing_file_must_be_in_the_header() {
    let dir = tempfile::tempdir().unwrap();
    let named = Qed { features: BACKING_FILE, backing: "base".into(), ..sample() };
    for (offset, len) in [(0, 1024), (4096, 1), (4090, 7), (u32::MAX, u32::MAX), (64, 0)] {
        let mut file = named.build();
        put(&mut file, BACKING_OFFSET, &offset.to_le_bytes());
        put(&mut file, BACKING_SIZE, &len.to_le_bytes());
        let path = write_bytes(dir.path(), "disk.qed", &file);
        assert_eq!(Image::open(&path).unwrap_err().kind(), ErrorKind::Corrupt, "{offset} {len}");
    }
}

/// Entries that are not valid: the errors say which guest range is lost.
#[test]
fn entries_that_refer_to_invalid_places_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample();
    let end = image.build().len() as u64;
    let l1 = image.l1_at() as u64;
    for (entry, what) in [
        (2, "aligned"),
        (CLUSTER + 1, "aligned"),
        (1 << 63, "beyond the end"),
        (u64::MAX - 4095, "beyond the end"),
        (end, "beyond the end"),
        (l1, "L1 table"),
    ] {
        for at in [image.entry_at(0), image.l1_at()] {
            let mut file = image.build();
            put(&mut file, at, &entry.to_le_bytes());
            let path = write_bytes(dir.path(), "disk.qed", &file);
            let text = error(&path).to_string();
            assert!(text.contains(what), "{entry:#x}: {text}");
            let found = findings(&path);
            let corrupt = found.iter().filter(|finding| finding.code == Code::Corruption).count();
            assert_eq!(corrupt, 1, "{entry:#x}: {found:?}");
        }
    }
    // The header is aligned.
    let mut file = Qed { header_size: 3, ..image.clone() }.build();
    let at = Qed { header_size: 3, ..image }.entry_at(0);
    put(&mut file, at, &(2 * CLUSTER).to_le_bytes());
    let text = error(&write_bytes(dir.path(), "disk.qed", &file)).to_string();
    assert!(text.contains("in the header"), "{text}");
}

/// Each L1 entry maps megabytes: a small file would map a huge disk.
#[test]
fn tables_that_several_entries_share_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample();
    let mut file = image.build();
    let (first, l1) = (image.table_at(0) as u64, image.l1_at());
    put(&mut file, l1 + 8, &first.to_le_bytes());
    let path = write_bytes(dir.path(), "disk.qed", &file);
    let text = error(&path).to_string();
    assert!(text.contains("same QED L2 table"), "{text}");
    assert!(findings(&path).iter().any(|finding| finding.code == Code::Corruption));
    // Tables of two clusters may also overlap in part.
    let image = Qed { table_size: 2, ..sample() };
    let image = Qed { size: 3000 * CLUSTER, ..image }.cluster(2999, Cluster::Data(1));
    let mut file = image.build();
    let (second, l1) = (image.table_at(2999) as u64, image.l1_at());
    put(&mut file, l1, &(second + CLUSTER).to_le_bytes());
    let text = error(&write_bytes(dir.path(), "disk.qed", &file)).to_string();
    assert!(text.contains("overlap"), "{text}");
}

#[test]
fn check_finds_clusters_that_are_used_twice_and_leaks() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample();
    let codes = |file: &[u8]| -> Vec<Code> {
        let path = write_bytes(dir.path(), "disk.qed", file);
        findings(&path).iter().map(|finding| finding.code).collect()
    };
    // One cluster for two entries: the cluster of the second is leaked.
    let mut file = image.build();
    let shared = image.cluster_at(0) as u64;
    put(&mut file, image.entry_at(1023), &shared.to_le_bytes());
    assert_eq!(codes(&file), [Code::Corruption, Code::Leak]);
    let output = try_run("qemu-img", ["check", dir.path().join("disk.qed").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    // A table as a cluster of guest data.
    let mut file = image.build();
    put(&mut file, image.entry_at(1023), &(image.table_at(1024) as u64).to_le_bytes());
    assert_eq!(codes(&file), [Code::Corruption, Code::Leak]);
    // Unused clusters at the end.
    let mut file = image.build();
    file.extend([0; 3 * 4096 + 100]);
    assert_eq!(codes(&file), [Code::Leak; 3]);
    let output = try_run("qemu-img", ["check", dir.path().join("disk.qed").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
}

/// The keys and the numbers of qemu-img.
#[test]
fn the_report_of_a_check_is_that_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qed");
    let name = path.to_str().unwrap();
    run("qemu-img", ["create", "-f", "qed", name, "10M"]);
    let commands = ["write -P 1 0 64k", "write -P 2 1M 128k", "write -z 2M 64k", "write 512k 1k"];
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    run("qemu-io", ["-f", "qed"].into_iter().chain(commands).chain([name]));
    std::fs::File::options().append(true).open(&path).unwrap().set_len(16 << 20).unwrap();
    let theirs = try_run("qemu-img", ["check", "--output=json", name]);
    let theirs: serde_json::Value = serde_json::from_slice(&theirs.stdout).unwrap();
    let ours = Image::open(&path).unwrap().check(&mut |_| {}).unwrap().unwrap();
    let ours = serde_json::to_value(ours).unwrap();
    for (key, value) in theirs.as_object().unwrap() {
        if key != "filename" && key != "format" {
            assert_eq!(ours.get(key), Some(value), "{key}");
        }
    }
    for key in ours.as_object().unwrap().keys() {
        assert!(theirs.get(key).is_some(), "{key}");
    }
}

/// A file of a few kilobytes that claims the largest disk is opened and refused where it must be.
#[test]
fn the_largest_claims_take_neither_memory_nor_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qed");
    // 2^63 - 512 bytes in clusters of 64 MiB: one L1 entry maps 8 PiB.
    let mut header = Qed { cluster_size: 64 << 20, table_size: 16, ..Qed::new(0) };
    header.size = (1 << 63) - 512;
    let mut bytes = vec![0; 64];
    put(&mut bytes, 0, b"QED\0");
    put(&mut bytes, 4, &header.cluster_size.to_le_bytes());
    put(&mut bytes, 8, &header.table_size.to_le_bytes());
    put(&mut bytes, 12, &1u32.to_le_bytes());
    put(&mut bytes, L1_OFFSET, &(64u64 << 20).to_le_bytes());
    put(&mut bytes, IMAGE_SIZE, &header.size.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let text = Image::open(&path).unwrap_err().to_string();
    assert!(text.contains("the header has 1 clusters"), "{text}");
    // With a sparse file that is long enough, the disk is empty.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(2 << 30).unwrap();
    let image = Image::open(&path).unwrap();
    let mut buf = [1; 512];
    image.read_at(&mut buf, header.size - 512).unwrap();
    assert_eq!(buf, [0; 512]);
    assert_eq!(image.extents(0..header.size).unwrap().count(), 1);
}

/// OpenStack rejects the format, so that `inspect` accepts no image, not even a perfect one.
#[test]
fn inspect_rejects_every_image() {
    let dir = tempfile::tempdir().unwrap();
    let codes = |image: &Qed| -> Vec<InspectionCode> {
        let path = write(dir.path(), "disk.qed", image);
        let found = inspect(&path, &InspectOptions::new()).unwrap();
        assert!(!found.is_safe() && found.format == "qed");
        found.findings.iter().map(|finding| finding.code).collect()
    };
    assert_eq!(codes(&sample()), [InspectionCode::RejectedFormat]);
    let backing = Qed { features: 7, backing: "/etc/passwd".into(), ..sample() };
    let expected =
        [InspectionCode::RejectedFormat, InspectionCode::BackingFile, InspectionCode::Dirty];
    assert_eq!(codes(&backing), expected);
    let unknown = Qed { features: 8, ..sample() };
    assert!(codes(&unknown).contains(&InspectionCode::UnknownFeatures));
}
