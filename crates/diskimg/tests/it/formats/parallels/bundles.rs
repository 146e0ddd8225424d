//! Bundles: directories with a descriptor, several images and snapshots. qemu-img does not read them;
//! dissect does, and libphdi those with the old magic and clusters of 1 MiB. (libphdi 20260902 takes
//! the first image and the first snapshot of the descriptor for the current state.)
//!
//! dissect 3.21 merges a hole at the start of what it reads with a cluster behind it whose host offset
//! is the length of the hole (`a_hole_before_a_cluster_is_misread_by_dissect`). The other images here
//! have their clusters elsewhere.

use super::{bytes_with, error, findings, our_bytes};
use diskimg::{
    ErrorKind, ExternalFiles, Format, Image, InspectOptions, OpenOptions, Probing,
    SnapshotSelector, inspect,
};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::parallels::{Bundle, IN_USE, NIL, Parallels, TOP};
use diskimg_testkit::tool::qemu_bytes;
use std::path::{Path, PathBuf};

const FIRST: &str = "{11111111-1111-1111-1111-111111111111}";
const SECOND: &str = "{22222222-2222-2222-2222-222222222222}";

const CLUSTER: u64 = 4096;

fn read_by(oracle: Oracle, bundle: &Path, disk: &Disk) {
    let verdict = oracle.compare("parallels", bundle, disk);
    let expected = matches!(verdict, Verdict::Same | Verdict::NotInstalled);
    assert!(expected, "{}: {verdict}", oracle.name());
}

fn fill(cluster: u64, byte: u8) -> Run {
    Run { at: cluster * CLUSTER, len: CLUSTER, fill: Fill::Byte(byte) }
}

/// A disk of eight clusters with two snapshots. Each image has a cluster of its own, and each hides
/// one of the image below.
fn with_snapshots() -> Bundle {
    let image = |bytes: [(u32, u8); 2]| {
        bytes.iter().fold(Parallels::new(64), |image, &(at, byte)| image.cluster(at, byte)).build()
    };
    Bundle::new(64)
        .storage(
            0,
            64,
            &[
                (FIRST, "Compressed", "root.hds"),
                (SECOND, "Compressed", "second.hds"),
                (TOP, "Compressed", "top.hds"),
            ],
        )
        .shot(FIRST, NIL)
        .shot(SECOND, FIRST)
        .shot(TOP, SECOND)
        .file("root.hds", image([(0, 1), (1, 1)]))
        .file("second.hds", image([(2, 2), (1, 2)]))
        .file("top.hds", image([(2, 3), (3, 3)]))
}

fn disk(runs: Vec<Run>) -> Disk {
    Disk { size: 64 * 512, runs }
}

fn top() -> Disk {
    disk(vec![fill(0, 1), fill(1, 2), fill(2, 3), fill(3, 3)])
}

/// Writes the bundle to `disk.hdd` in a new directory.
fn written(bundle: &Bundle) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.hdd");
    bundle.write(&path);
    (dir, path)
}

#[test]
fn a_bundle_is_opened_by_its_directory_its_descriptor_or_the_empty_file_in_it() {
    let (_dir, path) = written(&with_snapshots());
    for path in [path.clone(), path.join("DiskDescriptor.xml"), path.join("disk.hdd")] {
        for format in [None, Some(Format::Parallels)] {
            let options = OpenOptions::new().format(format);
            assert!(bytes_with(&options, &path) == top().bytes(), "{path:?}");
        }
        assert_eq!(findings(&path), [""; 0]);
    }
    // The caller says that the file has the bytes of a disk: none.
    let raw = OpenOptions::new().format(Format::Raw);
    assert_eq!(raw.open(path.join("disk.hdd")).unwrap().size(), 0);
    raw.open(&path).unwrap_err();
    // QEMU does not know bundles, but nobody means the descriptor's text.
    let like_qemu = OpenOptions::new().probing(Probing::LikeQemu);
    assert!(bytes_with(&like_qemu, &path) == top().bytes());
    let text = like_qemu.open(path.join("DiskDescriptor.xml")).unwrap();
    assert_eq!(text.format(), Format::Raw);
    read_by(Oracle::Dissect, &path, &top());
}

#[test]
fn each_snapshot_is_read_by_its_guid() {
    let (_dir, path) = written(&with_snapshots());
    let first = disk(vec![fill(0, 1), fill(1, 1)]);
    let second = disk(vec![fill(0, 1), fill(1, 2), fill(2, 2)]);
    let by_id = |id: &str| SnapshotSelector::Exactly { id: Some(id.to_owned()), name: None };
    for (selector, disk) in [
        (SnapshotSelector::IdOrName(FIRST.to_owned()), first.clone()),
        (SnapshotSelector::IdOrName(FIRST[1..37].to_uppercase()), first),
        (by_id(SECOND), second),
        (by_id(TOP), top()),
    ] {
        let options = OpenOptions::new().snapshot(selector);
        assert!(bytes_with(&options, &path) == disk.bytes());
    }
    let options = OpenOptions::new().snapshot(SnapshotSelector::IdOrName("first".into()));
    let error = options.open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains(FIRST), "{error}");
    // An image of its own has none.
    let options = OpenOptions::new().snapshot(SnapshotSelector::IdOrName(FIRST.into()));
    let error = options.open(path.join("root.hds")).unwrap_err();
    assert!(error.to_string().contains("no internal snapshots"), "{error}");
}

#[test]
fn info_lists_images_and_snapshots() {
    let (_dir, path) = written(&with_snapshots());
    let info = Image::open(&path).unwrap().info(0).unwrap();
    let ids: Vec<_> = info.snapshots.iter().map(|snapshot| snapshot.id.as_str()).collect();
    assert_eq!(ids, [FIRST, SECOND]);
    let json = serde_json::to_value(&info).unwrap();
    assert_eq!(json["format"], "parallels");
    let data = &json["format-specific"]["data"];
    assert_eq!(data["top-guid"], TOP);
    assert_eq!(data["images"][0]["filename"], "top.hds");
    assert_eq!(json["children"].as_array().unwrap().len(), 4);
    // Without the images, the rest of the metadata is still known.
    let options = OpenOptions::new().metadata_only(true).external_files(ExternalFiles::None);
    assert_eq!(options.open(&path).unwrap().size(), 64 * 512);
}

/// dissect ignores `TopGUID`, because an XML element without children is false in Python.
#[test]
fn the_current_state_may_be_another_snapshot() {
    let bundle = Bundle { top: Some(SECOND.to_owned()), ..with_snapshots() };
    let (_dir, path) = written(&bundle);
    let second = disk(vec![fill(0, 1), fill(1, 2), fill(2, 2)]);
    assert!(our_bytes(&path) == second.bytes());
    let info = Image::open(&path).unwrap().info(0).unwrap();
    assert_eq!(info.snapshots[1].id, TOP);
    let verdict = Oracle::Dissect.compare("parallels", &path, &second);
    assert!(!matches!(verdict, Verdict::Same), "dissect has been corrected");
}

/// Each storage of a split disk has its own images; the last is plain.
#[test]
fn a_split_disk_is_read_as_one() {
    let bundle = Bundle::new(64)
        .storage(40, 64, &[(TOP, "Plain", "disk.2.hds")])
        .storage(0, 24, &[(TOP, "Compressed", "disk.0.hds")])
        .storage(24, 40, &[(TOP, "Compressed", "disk.1.hds")])
        .shot(TOP, NIL)
        .file("disk.0.hds", Parallels::new(24).cluster(2, 0x22).cluster(1, 0x11).build())
        .file("disk.1.hds", Parallels::old(16, 8).cluster(1, 0x44).build())
        .file("disk.2.hds", vec![0x55; 24 * 512]);
    let (_dir, path) = written(&bundle);
    let plain = Run { at: 40 * 512, len: 24 * 512, fill: Fill::Byte(0x55) };
    let disk = disk(vec![fill(1, 0x11), fill(2, 0x22), fill(4, 0x44), plain]);
    assert!(our_bytes(&path) == disk.bytes());
    assert_eq!(findings(&path), [""; 0]);
    read_by(Oracle::Dissect, &path, &disk);
}

#[test]
fn libphdi_reads_a_bundle_of_clusters_of_1_mib_alike() {
    let sectors = 4 * 2048;
    let root = Parallels::old(sectors, 2048).cluster(0, 1).cluster(2, 1);
    let over = Parallels::old(sectors, 2048).cluster(2, 2).cluster(3, 2);
    let run = |at: u64, byte| Run { at: at << 20, len: 1 << 20, fill: Fill::Byte(byte) };
    let mut bundle = Bundle::new(sectors)
        .storage(0, sectors, &[(TOP, "Compressed", "b.hds"), (FIRST, "Compressed", "a.hds")])
        .shot(TOP, FIRST)
        .shot(FIRST, NIL)
        .file("a.hds", root.build())
        .file("b.hds", over.build());
    bundle.storages[0].cluster_sectors = 2048;
    bundle.parameters = "<Name>disk</Name>".to_owned();
    let (_dir, path) = written(&bundle);
    let disk = Disk { size: 4 << 20, runs: vec![run(0, 1), run(2, 2), run(3, 2)] };
    assert!(our_bytes(&path) == disk.bytes());
    read_by(Oracle::Dissect, &path, &disk);
    read_by(Oracle::Libyal, &path, &disk);
}

#[test]
fn a_hole_before_a_cluster_is_misread_by_dissect() {
    let bundle = Bundle::new(64)
        .storage(0, 64, &[(TOP, "Compressed", "a.hds")])
        .shot(TOP, NIL)
        .file("a.hds", Parallels::new(64).cluster(1, 0x11).build());
    let (_dir, path) = written(&bundle);
    let expected = disk(vec![fill(1, 0x11)]);
    assert!(our_bytes(&path) == expected.bytes());
    assert!(qemu_bytes(&path.join("a.hds"), "parallels") == expected.bytes());
    let verdict = Oracle::Dissect.compare("parallels", &path, &expected);
    assert!(!matches!(verdict, Verdict::Same), "dissect has been corrected");
}

/// A disk that was made larger after a snapshot.
#[test]
fn beyond_the_end_of_a_smaller_image_below_are_zeros() {
    let bundle = with_snapshots().file("root.hds", Parallels::new(12).cluster(1, 9).build());
    let bundle = bundle.file("second.hds", Parallels::new(64).cluster(7, 7).build());
    let (_dir, path) = written(&bundle);
    let short = Run { at: CLUSTER, len: 4 * 512, fill: Fill::Byte(9) };
    let disk = disk(vec![short, fill(2, 3), fill(3, 3), fill(7, 7)]);
    assert!(our_bytes(&path) == disk.bytes());
    // A top image must have the whole storage.
    let bundle = with_snapshots().file("top.hds", Parallels::new(63).build());
    let error = error(&written(&bundle).1);
    assert!(error.to_string().contains("but its storage 32768"), "{error}");
}

#[test]
fn a_plain_image_may_only_be_the_root() {
    let (names, kinds) = ((FIRST, TOP), ("Plain", "Compressed"));
    let bundle = |first, top| {
        Bundle::new(64)
            .storage(0, 64, &[(names.0, first, "a.hds"), (names.1, top, "b.hds")])
            .shot(FIRST, NIL)
            .shot(TOP, FIRST)
            .file("a.hds", vec![1; 64 * 512])
            .file("b.hds", Parallels::new(64).cluster(2, 3).cluster(1, 2).build())
    };
    let (_dir, path) = written(&bundle(kinds.0, kinds.1));
    let all = Run { at: 0, len: 64 * 512, fill: Fill::Byte(1) };
    let expected = disk(vec![all, fill(1, 2), fill(2, 3)]);
    assert!(our_bytes(&path) == expected.bytes());
    read_by(Oracle::Dissect, &path, &expected);
    let (_dir, path) = written(&bundle("Compressed", "Plain"));
    assert!(error(&path).to_string().contains("the plain image 'b.hds' has a parent"));
}

/// The bundle was moved or copied.
#[test]
fn names_outside_the_bundle_need_permission_unless_the_file_is_in_it() {
    let name = |name: &str| {
        let mut bundle = with_snapshots();
        bundle.storages[0].images[0].2 = name.to_owned();
        bundle
    };
    for moved in ["/vm/old.hdd/root.hds", "C:\\vm\\old.hdd\\root.hds", "../other.hdd/root.hds"] {
        let (_dir, path) = written(&name(moved));
        assert!(our_bytes(&path) == top().bytes(), "{moved}");
    }
    let (dir, path) = written(&name("../outside.hds"));
    let outside = dir.path().join("outside.hds");
    std::fs::rename(path.join("root.hds"), &outside).unwrap();
    let refused = error(&path);
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    let any = OpenOptions::new().external_files(ExternalFiles::Any);
    assert!(bytes_with(&any, &path) == top().bytes());
    let none = OpenOptions::new().external_files(ExternalFiles::None);
    assert_eq!(none.open(&path).unwrap_err().kind(), ErrorKind::Refused);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&outside, path.join("root.hds")).unwrap();
        assert_eq!(error(&path).kind(), ErrorKind::Refused);
    }
}

#[test]
fn contradictions_in_a_descriptor_are_errors() {
    let replaced = |from: &str, to: &str| {
        let (dir, path) = written(&with_snapshots());
        let xml = path.join("DiskDescriptor.xml");
        let text = std::fs::read_to_string(&xml).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(&xml, text.replacen(from, to, 1)).unwrap();
        (dir, error(&path).to_string())
    };
    for (from, to, message) in [
        ("<File>top.hds<", "<File>root.hds<", "the file 'root.hds' is named twice"),
        ("<File>top.hds<", "<File>DiskDescriptor.xml<", "is named twice"),
        ("<File>top.hds<", "<File>missing.hds<", "missing.hds"),
        ("<File>top.hds<", "<File>disk.hdd<", "has only 0 bytes"),
        (NIL, NIL, "its own ancestor"),
        ("<Padding>0", "<Padding>1", "padding"),
        ("<Data></Data>", "", ""),
    ] {
        let (from, to) = match message {
            // Every snapshot has a parent.
            "its own ancestor" => (
                format!("<GUID>{FIRST}</GUID><ParentGUID>{NIL}"),
                format!("<GUID>{FIRST}</GUID><ParentGUID>{TOP}"),
            ),
            "" => continue,
            _ => (from.to_owned(), to.to_owned()),
        };
        let (_dir, error) = replaced(&from, &to);
        assert!(error.contains(message), "{message}: {error}");
    }
    let (_dir, error) = replaced(
        &format!("<GUID>{FIRST}</GUID><ParentGUID>"),
        &format!("<GUID>{NIL}</GUID><ParentGUID>"),
    );
    assert!(error.contains(&format!("there is no snapshot {FIRST}")), "{error}");
    let (_dir, error) = replaced(&format!("<Image><GUID>{FIRST}"), &format!("<Image><GUID>{NIL}"));
    assert!(error.contains(&format!("has no image of the snapshot {FIRST}")), "{error}");
}

/// Entities are not expanded, and deep nesting is bounded.
#[test]
fn hostile_descriptors_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("DiskDescriptor.xml");
    let bomb = "<!DOCTYPE a [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]>\
                <Parallels_disk_image>&b;</Parallels_disk_image>";
    let start = "<Parallels_disk_image>";
    for (text, kind) in [
        (bomb.to_owned(), ErrorKind::Corrupt),
        (format!("{start}{}", "<a>".repeat(200_000)), ErrorKind::Limit),
        (format!("{start}{}", "<a>".repeat(50_000)), ErrorKind::Corrupt),
        (format!("{start}{}", "<a/>".repeat(200_000)), ErrorKind::Limit),
        (format!("{start}{}", " ".repeat(2 << 20)), ErrorKind::Limit),
        (format!("<Parallels_disk_image {}/>", "a=''".repeat(100)), ErrorKind::Limit),
        (start.to_owned(), ErrorKind::Corrupt),
    ] {
        std::fs::write(&path, &text).unwrap();
        let error = Image::open(&path).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

/// A chain of snapshots longer than the limit, and a disk in too many files.
#[test]
fn the_numbers_of_snapshots_and_files_are_limited() {
    let (_dir, path) = written(&with_snapshots());
    let with = |name: &str, value| {
        let mut limits = diskimg::Limits::default();
        limits.set(name, value).unwrap();
        OpenOptions::new().limits(limits).open(&path)
    };
    for name in ["chain_depth", "extent_files"] {
        assert_eq!(with(name, 2).unwrap_err().exceeded(), Some(name));
        with(name, 3).unwrap();
    }
}

#[test]
fn the_check_names_the_image_of_a_finding() {
    let dirty = Parallels { in_use: IN_USE, ..Parallels::new(64) }.cluster(2, 3).cluster(3, 3);
    let (_dir, path) = written(&with_snapshots().file("top.hds", dirty.build()));
    assert_eq!(findings(&path), ["image 'top.hds': the image was not closed correctly"]);
    assert!(Image::open(&path).unwrap().info(0).unwrap().dirty_flag);
}

/// The images are not inspected, so that a bundle is not safe.
#[test]
fn an_upload_must_not_be_a_descriptor() {
    let (_dir, path) = written(&with_snapshots());
    let xml = path.join("DiskDescriptor.xml");
    let found = inspect(xml, &InspectOptions::new()).unwrap();
    assert!(!found.is_safe());
    let names: Vec<_> = found.references.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["root.hds", "second.hds", "top.hds"]);
    assert_eq!(found.virtual_size, Some(64 * 512));
}
