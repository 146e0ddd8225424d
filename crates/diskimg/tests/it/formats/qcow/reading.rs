//! QCOW version 1 images that QEMU does not write, and damaged ones.

use super::{assert_consistent, bytes_with, findings, our_bytes, write_bytes};
use diskimg::check::Code;
use diskimg::inspection::Code as InspectionCode;
use diskimg::{
    Error, ErrorKind, ExternalFiles, Format, Image, InspectOptions, OpenOptions, Probing, inspect,
};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::qcow::*;
use diskimg_testkit::tool::{qemu_bytes, run, try_run};
use std::path::Path;

/// A disk of two tables whose last cluster is partial.
fn sample() -> Qcow {
    Qcow::new(1000 * 4096 + 512)
        .cluster(0, Cluster::Data(0x10))
        .cluster(3, Cluster::Compressed(0x13))
        .cluster(4, Cluster::Compressed(0x14))
        .cluster(5, Cluster::Data(0x15))
        .cluster(511, Cluster::Compressed(0x51))
        .cluster(512, Cluster::Data(0x52))
        .cluster(1000, Cluster::Compressed(0x99))
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
fn clusters_and_tables_of_every_size_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for cluster_bits in 9..=16 {
        for l2_bits in [6, 9, 13] {
            let image = sample();
            let clusters = image.clusters.clone();
            let size = (1000u64 << cluster_bits) + 512;
            let image = Qcow { cluster_bits, l2_bits, size, clusters, ..image };
            let size = image.size.min(8 << 20);
            let last = size.div_ceil(1 << cluster_bits);
            let clusters = image.clusters.into_iter().filter(|(number, _)| *number < last);
            let image =
                Qcow { size, clusters: clusters.collect(), backing: String::new(), ..image };
            let path = write_bytes(dir.path(), "disk.qcow", &image.build().file);
            assert!(our_bytes(&path) == image.bytes(0), "{cluster_bits} {l2_bits}");
            assert!(qemu_bytes(&path, "qcow") == image.bytes(0), "{cluster_bits} {l2_bits}");
            assert_consistent(&path);
        }
    }
}

/// The length and the offset of a compressed cluster are in bytes, unlike in qcow2.
#[test]
fn compressed_clusters_may_start_at_any_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Qcow::new(300 * 4096);
    for number in 0..300 {
        image = image.cluster(number, Cluster::Compressed(number as u8));
    }
    let path = write_bytes(dir.path(), "disk.qcow", &image.build().file);
    assert!(our_bytes(&path) == image.bytes(0));
    assert_consistent(&path);
    let run = |number: u64| Run { at: number * 4096, len: 4096, fill: Fill::Byte(number as u8) };
    let disk = Disk { size: image.size, runs: (0..300).map(run).collect() };
    for oracle in [Oracle::QemuImg, Oracle::Libyal] {
        let verdict = oracle.compare("qcow", &path, &disk);
        assert!(
            matches!(verdict, Verdict::Same | Verdict::NotInstalled),
            "{}: {verdict}",
            oracle.name()
        );
    }
}

/// QEMU rounds the size down, which cuts off bytes of the disk; diskimg rounds it up, with a
/// warning. Under the name of qemu-img, it follows QEMU.
#[test]
fn a_size_that_is_no_multiple_of_a_sector_is_rounded_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = Qcow::new(4096).cluster(0, Cluster::Data(0x77)).build().file;
    put(&mut file, SIZE, &1000u64.to_be_bytes());
    let path = write_bytes(dir.path(), "disk.qcow", &file);
    assert!(our_bytes(&path) == [0x77; 1024]);
    let image = Image::open(&path).unwrap();
    let warnings: Vec<_> = image.warnings().collect();
    assert!(warnings[0].contains("1000 bytes"), "{warnings:?}");
    assert!(qemu_bytes(&path, "qcow") == [0x77; 512]);
    let like_qemu = OpenOptions::new().probing(Probing::LikeQemu);
    assert!(bytes_with(&like_qemu, &path) == [0x77; 512]);
}

#[test]
fn each_bad_header_field_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let u32s = |value: u32| value.to_be_bytes().to_vec();
    let u64s = |value: u64| value.to_be_bytes().to_vec();
    let corrupt = ErrorKind::Corrupt;
    let cases: Vec<(&str, usize, Vec<u8>, ErrorKind)> = vec![
        ("version 0", VERSION, u32s(0), ErrorKind::Unsupported),
        ("cluster_bits", CLUSTER_BITS, vec![8], corrupt),
        ("cluster_bits", CLUSTER_BITS, vec![17], corrupt),
        ("cluster_bits", CLUSTER_BITS, vec![255], corrupt),
        ("l2_bits", L2_BITS, vec![5], corrupt),
        ("l2_bits", L2_BITS, vec![14], corrupt),
        ("l2_bits", L2_BITS, vec![255], corrupt),
        ("a disk of 0 bytes", SIZE, u64s(0), corrupt),
        ("a disk of 1 bytes", SIZE, u64s(1), corrupt),
        ("a disk of", SIZE, u64s(1 << 63), corrupt),
        ("a disk of", SIZE, u64s(u64::MAX), corrupt),
        ("table_bytes", SIZE, u64s(1 << 50), ErrorKind::Limit),
        ("L1 table", SIZE, u64s(1 << 40), corrupt),
        ("encryption method 2", CRYPT_METHOD, u32s(2), ErrorKind::Unsupported),
        ("L1 table", L1_OFFSET, u64s(1 << 62), corrupt),
        ("L1 table", L1_OFFSET, u64s(u64::MAX), corrupt),
    ];
    for (named, at, bytes, kind) in cases {
        let mut file = sample().build().file;
        put(&mut file, at, &bytes);
        let path = write_bytes(dir.path(), "disk.qcow", &file);
        let error = Image::open(&path).unwrap_err();
        assert_eq!(error.kind(), kind, "{named} {bytes:?}: {error}");
        assert!(error.to_string().contains(named), "{named} {bytes:?}: {error}");
    }
    let file = sample().build().file;
    for len in [4, 7, 8, 47] {
        let path = write_bytes(dir.path(), "disk.qcow", &file[..len]);
        assert_eq!(Image::open(&path).unwrap_err().kind(), ErrorKind::Corrupt, "{len}");
    }
}

#[test]
fn entries_that_refer_to_invalid_places_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let built = sample().build();
    let (end, l1) = (built.file.len() as u64, built.l1_at as u64);
    let compressed = |len: u64, at: u64| 1 << 63 | len << 51 | at;
    for (entry, what) in [
        (7, "not aligned to a sector"),
        (end.next_multiple_of(512), "beyond the end"),
        ((1 << 63) - 512, "beyond the end"),
        (l1 / 512 * 512, "L1 table"),
        (compressed(10, 0), "in the header"),
        (compressed(10, end - 9), "beyond the end"),
        (compressed(4095, (1 << 51) - 1), "beyond the end"),
        (compressed(0, 4096), "has no bytes"),
        (compressed(10, l1), "L1 table"),
    ] {
        let mut file = built.file.clone();
        put(&mut file, built.entries[&3], &entry.to_be_bytes());
        let path = write_bytes(dir.path(), "disk.qcow", &file);
        let text = error(&path).to_string();
        assert!(text.contains(what), "{entry:#x}: {text}");
        let corrupt = findings(&path);
        assert_eq!(corrupt.len(), 1, "{entry:#x}: {corrupt:?}");
    }
    for (entry, what) in
        [(end - 4095, "beyond the end"), (16, "in the header"), (u64::MAX, "beyond")]
    {
        let mut file = built.file.clone();
        put(&mut file, built.l1_at, &entry.to_be_bytes());
        let text = error(&write_bytes(dir.path(), "disk.qcow", &file)).to_string();
        assert!(text.contains(what), "{entry:#x}: {text}");
    }
}

#[test]
fn tables_and_clusters_that_overlap_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let built = sample().build();
    let mut file = built.file.clone();
    let first = built.tables[&0] as u64;
    put(&mut file, built.l1_at + 8, &first.to_be_bytes());
    let path = write_bytes(dir.path(), "disk.qcow", &file);
    assert!(error(&path).to_string().contains("same QCOW L2 table"));
    assert!(findings(&path).iter().all(|finding| finding.code == Code::Corruption));
    // Guest data in another cluster's place, in a table, and over compressed clusters.
    let entry = |number| {
        let at = built.entries[&number];
        u64::from_be_bytes(built.file[at..at + 8].try_into().unwrap())
    };
    let packed = (entry(3) & ((1 << 51) - 1)) / 512 * 512;
    for target in [entry(0), first, packed] {
        let mut file = built.file.clone();
        put(&mut file, built.entries[&512], &target.to_be_bytes());
        let path = write_bytes(dir.path(), "disk.qcow", &file);
        let found = findings(&path);
        assert!(!found.is_empty(), "{target:#x}");
        assert!(found.iter().all(|finding| finding.code == Code::Corruption), "{found:?}");
    }
}

/// qemu-img cannot check the format.
#[test]
fn the_check_counts_clusters() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_bytes(dir.path(), "disk.qcow", &sample().build().file);
    let report = Image::open(&path).unwrap().check(&mut |f| panic!("{f:?}")).unwrap().unwrap();
    let counts = (report.total_clusters, report.allocated_clusters, report.compressed_clusters);
    assert_eq!(counts, (1001, 7, 4));
    let theirs = try_run("qemu-img", ["check", path.to_str().unwrap()]);
    assert_eq!(theirs.status.code(), Some(63));
}

/// Old programs did not write the rest of the last cluster.
#[test]
fn the_file_may_end_within_its_last_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let built = Qcow::new(2 * 4096).cluster(0, Cluster::Data(0x10)).build();
    let mut file = built.file.clone();
    let at = file.len().next_multiple_of(512) as u64;
    put(&mut file, built.entries[&0], &at.to_be_bytes());
    file.resize(at as usize, 0);
    file.extend([0x33; 1000]);
    let path = write_bytes(dir.path(), "disk.qcow", &file);
    let expected = [&[0x33; 1000][..], &[0; 2 * 4096 - 1000]].concat();
    assert!(our_bytes(&path) == expected);
    assert!(qemu_bytes(&path, "qcow") == expected);
}

#[test]
fn damaged_compressed_data_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let built = sample().build();
    let at = built.entries[&3];
    let entry = u64::from_be_bytes(built.file[at..at + 8].try_into().unwrap());
    let mut file = built.file.clone();
    file[(entry & ((1 << 51) - 1)) as usize..][..8].fill(0xff);
    let path = write_bytes(dir.path(), "disk.qcow", &file);
    assert_eq!(error(&path).kind(), ErrorKind::Corrupt);
}

/// The format of the backing file is not recorded: it is probed, as for a qcow2 image that does not
/// record it. The policy decides whether the file is opened.
#[test]
fn the_backing_file_is_probed_under_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = Qcow { backing: "base".into(), ..Qcow::new(5 * 4096) }
        .cluster(1, Cluster::Compressed(0x11))
        .cluster(4, Cluster::Data(0x44));
    let path = write_bytes(dir.path(), "disk.qcow", &overlay.build().file);
    // A shorter raw disk.
    std::fs::write(dir.path().join("base"), [0xbb; 1024]).unwrap();
    let mut expected = overlay.bytes(0);
    expected[..1024].fill(0xbb);
    assert!(our_bytes(&path) == expected);
    assert!(qemu_bytes(&path, "qcow") == expected);
    // Another QCOW image.
    let base = Qcow::new(5 * 4096).cluster(0, Cluster::Data(0xb0)).cluster(3, Cluster::Data(0xb3));
    std::fs::write(dir.path().join("base"), base.build().file).unwrap();
    let mut expected = overlay.bytes(0);
    expected[..4096].fill(0xb0);
    expected[3 * 4096..4 * 4096].fill(0xb3);
    assert!(our_bytes(&path) == expected);
    assert!(qemu_bytes(&path, "qcow") == expected);
    let none = OpenOptions::new().external_files(ExternalFiles::None).open(&path);
    assert_eq!(none.unwrap_err().kind(), ErrorKind::Refused);
    for name in ["/etc/passwd", "../base", "nbd:localhost:10809"] {
        let overlay = Qcow { backing: name.into(), ..overlay.clone() };
        let path = write_bytes(dir.path(), "bad.qcow", &overlay.build().file);
        let error = Image::open(&path).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Refused | ErrorKind::Io), "{name}: {error}");
    }
}

#[test]
fn a_name_that_is_too_long_or_not_in_the_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let built = Qcow { backing: "base".into(), ..sample() }.build();
    for (offset, len) in [(48, 1024), (1 << 40, 4), (u64::MAX, 4), (48, u32::MAX)] {
        let mut file = built.file.clone();
        put(&mut file, BACKING_OFFSET, &offset.to_be_bytes());
        put(&mut file, BACKING_SIZE, &len.to_be_bytes());
        let path = write_bytes(dir.path(), "disk.qcow", &file);
        assert_eq!(Image::open(&path).unwrap_err().kind(), ErrorKind::Corrupt, "{offset} {len}");
    }
}

/// The metadata is reported; the guest's bytes are not decrypted.
#[test]
fn an_encrypted_image_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow");
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    let secret = "secret,id=s,data=abc";
    let name = path.to_str().unwrap();
    run("qemu-img", ["create", "-f", "qcow", "--object", secret, "-o", options, name, "1M"]);
    let image = Image::open(&path).unwrap();
    assert!(image.info(0).unwrap().encrypted);
    let error = image.read_at(&mut [0; 512], 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("encrypted (aes)"), "{error}");
}

/// The same first bytes as qcow2: the version decides.
#[test]
fn version_1_is_not_qcow2() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_bytes(dir.path(), "disk.qcow2", &sample().build().file);
    assert_eq!(Image::open(&path).unwrap().format(), Format::Qcow);
    assert!(OpenOptions::new().format(Format::Qcow2).open(&path).is_err());
    let qcow2 = dir.path().join("disk.qcow");
    run("qemu-img", ["create", "-f", "qcow2", qcow2.to_str().unwrap(), "1M"]);
    assert_eq!(Image::open(&qcow2).unwrap().format(), Format::Qcow2);
    assert!(OpenOptions::new().format(Format::Qcow).open(&qcow2).is_err());
}

/// OpenStack accepts no version before 2.
#[test]
fn inspect_rejects_every_image() {
    let dir = tempfile::tempdir().unwrap();
    let codes = |file: &[u8]| -> Vec<InspectionCode> {
        let path = write_bytes(dir.path(), "disk.qcow", file);
        let found = inspect(&path, &InspectOptions::new()).unwrap();
        assert!(!found.is_safe() && found.format == "qcow");
        found.findings.iter().map(|finding| finding.code).collect()
    };
    assert_eq!(codes(&sample().build().file), [InspectionCode::RejectedFormat]);
    let backing = Qcow { backing: "/etc/passwd".into(), ..sample() };
    let expected = [InspectionCode::RejectedFormat, InspectionCode::BackingFile];
    assert_eq!(codes(&backing.build().file), expected);
    let mut encrypted = sample().build().file;
    put(&mut encrypted, CRYPT_METHOD, &1u32.to_be_bytes());
    assert!(codes(&encrypted).contains(&InspectionCode::Encrypted));
    let mut damaged = sample().build().file;
    damaged.truncate(5000);
    assert!(codes(&damaged).contains(&InspectionCode::Unreadable));
}
