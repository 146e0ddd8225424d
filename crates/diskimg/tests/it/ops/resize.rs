//! `resize`: the disk afterwards, compared with qemu-img, and after a crash at any point.

use diskimg::storage::edit::FileStorage;
use diskimg::{ErrorKind, Format, Image, NewSize, OpenOptions, Preallocation, Resize};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::tool::{assert_qemu_check, assert_qemu_same, full, qemu_bytes, run, try_run};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An image whose disk becomes larger.
struct Case {
    name: &'static str,
    /// Options of `qemu-img create`.
    options: &'static str,
    /// Size of a backing file that is full of data, in bytes.
    backing: Option<u64>,
    /// Old and new size in bytes.
    sizes: [u64; 2],
    /// Commands of qemu-io or, if they begin with "img", of qemu-img.
    commands: &'static [&'static str],
}

const MIB: u64 = 1 << 20;

const CASES: &[Case] = &[
    Case {
        name: "the L1 table has room",
        options: "cluster_size=64k",
        backing: None,
        sizes: [MIB, 2 * MIB],
        commands: &["write -P 9 0 1M"],
    },
    Case {
        name: "a new L1 table",
        options: "cluster_size=512",
        backing: None,
        sizes: [MIB, 40 * MIB],
        commands: &["write -P 9 100k 700k"],
    },
    Case {
        name: "an empty disk",
        options: "cluster_size=512",
        backing: None,
        sizes: [0, 5 * MIB],
        commands: &[],
    },
    Case {
        name: "new refcount blocks",
        options: "cluster_size=512,refcount_bits=64",
        backing: None,
        sizes: [MIB, 400 * MIB],
        commands: &["write -P 9 0 500k"],
    },
    Case {
        name: "a new refcount table",
        options: "cluster_size=512,refcount_bits=64",
        backing: None,
        sizes: [2 * MIB, 400 * MIB],
        commands: &["write -P 9 0 2015k"],
    },
    Case {
        name: "refcounts of new refcount blocks in other new blocks",
        options: "cluster_size=512",
        backing: None,
        sizes: [MIB, 1024 * MIB],
        commands: &["write -P 9 0 4k"],
    },
    Case {
        name: "refcounts of one bit",
        options: "cluster_size=512,refcount_bits=1",
        backing: None,
        sizes: [MIB, 40 * MIB],
        commands: &["write -P 9 0 1M"],
    },
    Case {
        name: "version 2",
        options: "cluster_size=512,compat=0.10",
        backing: None,
        sizes: [MIB, 40 * MIB],
        commands: &["write -P 9 0 1M"],
    },
    Case {
        name: "a longer backing file",
        options: "cluster_size=4k",
        backing: Some(3 * MIB),
        sizes: [MIB + 512, 3 * MIB - 512],
        commands: &["write -P 9 0 4k"],
    },
    Case {
        name: "a backing file that is longer than the new size",
        options: "cluster_size=64k",
        backing: Some(3 * MIB),
        sizes: [MIB, 2 * MIB],
        commands: &[],
    },
    Case {
        name: "a longer backing file, version 2",
        options: "cluster_size=4k,compat=0.10",
        backing: Some(2 * MIB),
        sizes: [MIB + 512, 3 * MIB],
        commands: &["write -P 9 1M 512"],
    },
    Case {
        name: "a longer backing file, extended L2 entries",
        options: "cluster_size=16k,extended_l2=on",
        backing: Some(2 * MIB),
        sizes: [MIB + 1536, 3 * MIB],
        commands: &["write -P 9 1M 512"],
    },
    Case {
        name: "snapshots",
        options: "cluster_size=512",
        backing: None,
        sizes: [MIB, 40 * MIB],
        commands: &["write -P 9 0 1M", "img snapshot -c s", "write -P 8 0 500k"],
    },
    Case {
        name: "old data in the last cluster",
        options: "cluster_size=64k",
        backing: None,
        sizes: [MIB - 1536, 3 * MIB],
        commands: &["img resize -q +1536", "write -P 9 0 1M", "img resize -q --shrink -1536"],
    },
    Case {
        name: "old data in the last cluster, which a snapshot shares",
        options: "cluster_size=64k",
        backing: None,
        sizes: [MIB - 1536, 3 * MIB],
        commands: &[
            "img resize -q +1536",
            "write -P 9 0 1M",
            "img snapshot -c s",
            "img resize -q --shrink -1536",
        ],
    },
    Case {
        name: "old data in the last cluster, which is compressed",
        options: "cluster_size=64k",
        backing: None,
        sizes: [MIB - 1536, 3 * MIB],
        commands: &[
            "img resize -q +1536",
            "write -c -P 9 960k 64k",
            "img resize -q --shrink -1536",
        ],
    },
    Case {
        name: "old data in the last cluster, extended L2 entries",
        options: "cluster_size=64k,extended_l2=on",
        backing: None,
        sizes: [MIB - 1536, 3 * MIB],
        commands: &["img resize -q +1536", "write -P 9 0 1M", "img resize -q --shrink -1536"],
    },
];

impl Case {
    fn make(&self, dir: &Path) -> PathBuf {
        let path = dir.join("a.qcow2");
        let file = path.to_str().unwrap();
        let size = self.sizes[0].to_string();
        let mut args = vec!["create", "-q", "-f", "qcow2", "-o", self.options];
        let base = dir.join("base.raw");
        if let Some(size) = self.backing {
            std::fs::write(&base, vec![0xbb; size as usize]).unwrap();
            args.extend(["-F", "raw", "-b", base.to_str().unwrap()]);
        }
        args.extend([file, &size]);
        run("qemu-img", args);
        for command in self.commands {
            match command.strip_prefix("img ") {
                Some(command) => {
                    let mut args: Vec<_> = command.split(' ').collect();
                    // The size is the last argument of `resize`.
                    let at = if args[0] == "resize" { args.len() - 1 } else { args.len() };
                    args.insert(at, file);
                    run("qemu-img", args);
                }
                None => drop(run("qemu-io", ["-f", "qcow2", "-c", command, file])),
            }
        }
        path
    }
}

fn open(path: &Path) -> Image {
    OpenOptions::new().format(Format::Qcow2).open(path).unwrap()
}

fn to(size: u64) -> Resize {
    let options = OpenOptions::new().format(Format::Qcow2);
    Resize::new(NewSize::Bytes(size)).open_options(options)
}

/// Asserts that the disk has the bytes of `before` and then zeros, by its allocated extents.
fn assert_grown(image: &Image, before: &[u8], context: &dyn Fn() -> String) {
    let mut bytes = vec![0; before.len()];
    image.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == before, "{}: old bytes changed", context());
    for extent in image.extents(before.len() as u64..image.size()).unwrap() {
        let extent = extent.unwrap();
        if !extent.kind.is_zero() {
            let mut bytes = vec![0; extent.len() as usize];
            image.read_at(&mut bytes, extent.guest.start).unwrap();
            assert!(bytes.iter().all(|&b| b == 0), "{}: {extent:?} is not zero", context());
        }
    }
}

#[test]
fn the_grown_disk_has_its_old_bytes_and_zeros() {
    for case in CASES {
        let dir = tempfile::tempdir().unwrap();
        let path = case.make(dir.path());
        let [old, new] = case.sizes;
        let mut before = qemu_bytes(&path, "qcow2");
        let done = to(new).run(&path).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert_eq!((done.old_size, done.new_size), (old, new), "{}", case.name);
        assert_qemu_check(&path, "qcow2");
        assert_grown(&open(&path), &before, &|| case.name.to_owned());
        let expected = dir.path().join("expected.raw");
        let assert_same = |bytes: &[u8]| {
            std::fs::write(&expected, bytes).unwrap();
            std::fs::File::options().write(true).open(&expected).unwrap().set_len(new).unwrap();
            assert_qemu_same(&expected, "raw", &path, "qcow2");
        };
        assert_same(&before);
        // QEMU allocates new clusters without overwriting others.
        run("qemu-io", ["-f", "qcow2", "-c", "write -P 5 0 512k", path.to_str().unwrap()]);
        assert_qemu_check(&path, "qcow2");
        before.resize(before.len().max(512 << 10), 0);
        before[..512 << 10].fill(5);
        assert_same(&before);
    }
}

/// A kill or a power failure at any point leaves the disk as it was or as it will be, and an image
/// that is consistent except for leaks.
#[test]
#[allow(clippy::print_stdout, reason = "the table of states")]
fn after_a_crash_the_disk_has_its_old_or_its_new_size_and_all_its_bytes() {
    let mut lines = Vec::new();
    for case in CASES {
        let dir = tempfile::tempdir().unwrap();
        let path = case.make(dir.path());
        let [old, new] = case.sizes;
        let before = qemu_bytes(&path, "qcow2");
        let recorded = std::fs::read(&path).unwrap();
        let storage = Arc::new(RecordingStorage::new(recorded.clone(), Some(path.clone())));
        to(new).run_on(Arc::clone(&storage) as _, "a.qcow2").unwrap();
        let mut counts = [0; 4];
        let mut number = 0;
        let step = if full() { 1 } else { 5 };
        let states = storage.crash_states(7, step, |state| {
            number += 1;
            std::fs::write(&path, state).unwrap();
            let image = open(&path);
            let context = || format!("{}, state {number}", case.name);
            let report = image.check(&mut |_| {}).unwrap().unwrap();
            assert_eq!(report.corruptions, 0, "{}", context());
            let is_new = image.size() == new;
            assert!(is_new || image.size() == old, "{}: {} bytes", context(), image.size());
            assert_grown(&image, &before, &context);
            counts[usize::from(is_new) * 2 + usize::from(report.leaks > 0)] += 1;
            if number % 101 == 1 {
                let check = try_run("qemu-img", ["check", "-f", "qcow2", path.to_str().unwrap()]);
                assert!(matches!(check.status.code(), Some(0 | 3)), "{}: {check:?}", context());
            }
        });
        let end = storage.to_vec();
        let moved = end[48..60] != recorded[48..60];
        assert!(moved || !case.name.contains("new refcount"), "{}", case.name);
        let [old_clean, old_leaks, new_clean, new_leaks] = counts;
        lines.push(format!(
            "{} (new refcount table: {moved}): {states} states in {} phases: old {old_clean} clean, {old_leaks} with leaks; \
             new {new_clean} clean, {new_leaks} with leaks",
            case.name,
            storage.barriers(),
        ));
        assert!(old_clean > 0 && new_clean > 0, "{lines:?}");
    }
    // Shown with --no-capture.
    println!("{}", lines.join("\n"));
}

#[test]
fn what_cannot_be_resized_is_refused_and_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let file = path.to_str().unwrap();
    let create = |options: &str| {
        let _ = std::fs::remove_file(&path);
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", options, file, "1M"]);
    };
    let refused = |resize: Resize, kind: ErrorKind, text: &str| {
        let before = std::fs::read(&path).unwrap();
        let error = resize.run(&path).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text) && error.path().is_some(), "{error}");
        assert!(std::fs::read(&path).unwrap() == before, "{error}");
    };
    create("cluster_size=512");
    refused(to(MIB + 1), ErrorKind::Invalid, "must be a multiple of 512");
    refused(to(MIB / 2), ErrorKind::Refused, "Shrinking an image");
    refused(to(1 << 50), ErrorKind::Limit, "too large for its cluster size");
    refused(to(MIB).preallocation(Preallocation::Full), ErrorKind::Invalid, "growing");
    refused(to(0), ErrorKind::Invalid, "must be positive");
    run("qemu-img", ["bitmap", "--add", file, "b"]);
    let mut bytes = std::fs::read(&path).unwrap();
    // The name is the last field of the directory entry.
    let name = (0..bytes.len() / 8).rfind(|at| bytes[at * 8..at * 8 + 8] == *b"b\0\0\0\0\0\0\0");
    bytes[name.unwrap() * 8 - 24 + 15] |= 1;
    std::fs::write(&path, &bytes).unwrap();
    for size in [MIB / 2, 2 * MIB] {
        let message = "Bitmap 'b' is inconsistent and cannot be used";
        refused(to(size).shrink(true), ErrorKind::Unsupported, message);
    }
    create("compat=0.10");
    run("qemu-img", ["snapshot", "-c", "s", file]);
    for size in [MIB / 2, 2 * MIB] {
        let message = "Can't resize a v2 image which has snapshots";
        refused(to(size).shrink(true), ErrorKind::Unsupported, message);
    }
    create("lazy_refcounts=on");
    let mut bytes = std::fs::read(&path).unwrap();
    for (bit, text) in [(1, "not closed properly"), (2, "marked as corrupt")] {
        bytes[79] = bit;
        std::fs::write(&path, &bytes).unwrap();
        refused(to(2 * MIB), ErrorKind::Corrupt, text);
    }
    let qcow = dir.path().join("a.qcow");
    run("qemu-img", ["create", "-q", "-f", "qcow", qcow.to_str().unwrap(), "1M"]);
    let error = Resize::new(NewSize::Grow(MIB)).run(&qcow).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// Without a named format, the image may be a raw disk whose guest named a file of the host.
#[test]
fn no_data_of_a_backing_file_is_copied_into_an_image_of_unknown_format() {
    let dir = tempfile::tempdir().unwrap();
    let case = CASES.iter().find(|case| case.name == "a longer backing file").unwrap();
    let path = case.make(dir.path());
    let before = std::fs::read(&path).unwrap();
    let error = Resize::new(NewSize::Grow(MIB)).run(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(error.remedy(), Some(diskimg::Remedy::NameFormat));
    assert!(std::fs::read(&path).unwrap() == before);
    // Whole clusters need no data of the backing file.
    let case = CASES.iter().find(|case| case.name.starts_with("a backing file that")).unwrap();
    let path = case.make(dir.path());
    Resize::new(NewSize::Grow(MIB)).run(&path).unwrap();
}

#[test]
fn a_refcount_that_is_too_low_is_not_decremented() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let file = path.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", file, "1M"]);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = |field: usize| u64::from_be_bytes(bytes[field..field + 8].try_into().unwrap());
    let (l1, table) = (at(40) as usize, at(48) as usize);
    let block = at(table) as usize;
    bytes[block + l1 / 512 * 2 + 1] = 0;
    std::fs::write(&path, &bytes).unwrap();
    let error = to(40 * MIB).run(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(error.offset(), Some(l1 as u64), "{error}");
    assert!(std::fs::read(&path).unwrap() == bytes);
}

#[test]
fn tables_that_are_not_what_they_should_be_are_found_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let file = path.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", file, "1M"]);
    run("qemu-io", ["-f", "qcow2", "-c", "write 0 200k", file]);
    let good = std::fs::read(&path).unwrap();
    let at = |field: usize| u64::from_be_bytes(good[field..field + 8].try_into().unwrap()) as usize;
    let (l1, table) = (at(40), at(48));
    let l2 = at(l1) & 0xff_ffff;
    let damaged = |at: usize, word: u64, structure: &str| {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&word.to_be_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let error = to(40 * MIB).run(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(error.structure(), Some(structure), "{error}");
        assert!(std::fs::read(&path).unwrap() == bytes, "{error}");
    };
    // Two entries of the refcount table point to one block; a block is outside the file.
    damaged(table + 8, at(table) as u64, "refcount table");
    damaged(table + 8, 1 << 40, "refcount table");
    damaged(table + 8, at(table) as u64 + 512 * 1000 * 1000, "refcount table");
    // The refcount table is outside the file.
    damaged(48, 1 << 40, "refcount table");
    damaged(48, u64::MAX << 9, "refcount table");
    // An L1 entry beyond the disk points to a table whose entries are not aligned. The table of the
    // first 32 KiB is used as that of the bytes after the disk.
    let mut bytes = good.clone();
    bytes[39] += 1;
    bytes[l1 + 32 * 8..][..8].copy_from_slice(&(l2 as u64).to_be_bytes());
    bytes[l2 + 6] |= 0x20;
    bytes[l2 + 4] ^= 0x01;
    std::fs::write(&path, &bytes).unwrap();
    let error = to(40 * MIB).run(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(std::fs::read(&path).unwrap() == bytes);
}

/// Growing the file would make the lost clusters read as zeros.
#[test]
fn a_truncated_file_is_not_extended_over_its_lost_clusters() {
    let dir = tempfile::tempdir().unwrap();
    let path = CASES[1].make(dir.path());
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(300_032).unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = to(40 * MIB).run(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("truncated"), "{error}");
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn a_file_that_grew_before_it_was_locked_is_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = CASES[1].make(dir.path());
    let storage = Arc::new(FileStorage::open(&path).unwrap());
    run("qemu-io", ["-f", "qcow2", "-c", "write -P 7 0 64k", path.to_str().unwrap()]);
    let before = std::fs::read(&path).unwrap();
    let error = to(40 * MIB).run_on(storage, "a.qcow2").unwrap_err();
    assert!(format!("{error:#}").contains("its length changed"), "{error:#}");
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn raw_images_take_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.raw");
    let raw =
        |size| Resize::new(size).open_options(OpenOptions::new().format(Format::Raw)).shrink(true);
    std::fs::write(&path, [9; 1000]).unwrap();
    for (size, len) in [
        (NewSize::Grow(5000), 6000),
        (NewSize::Bytes(100), 100),
        (NewSize::Bytes(300_000), 300_000),
        (NewSize::Shrink(1), 299_999),
    ] {
        raw(size).run(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), len);
        assert!(bytes[..100] == [9; 100] && bytes[1000.min(len)..].iter().all(|&b| b == 0));
    }
    for mode in [Preallocation::Falloc, Preallocation::Full] {
        use std::os::unix::fs::MetadataExt;
        let before = std::fs::metadata(&path).unwrap().blocks();
        raw(NewSize::Grow(MIB)).preallocation(mode).run(&path).unwrap();
        let after = std::fs::metadata(&path).unwrap().blocks();
        assert!((after - before) * 512 >= MIB, "{mode:?}");
    }
}

#[test]
#[ignore = "requires root"]
fn a_qcow2_image_on_a_device_grows_into_free_clusters() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("device");
    std::fs::File::create(&file).unwrap().set_len(4 * MIB).unwrap();
    let device = diskimg_testkit::tool::LoopDevice::attach(&file);
    let name = device.path().to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", name, "1M"]);
    run("qemu-io", ["-f", "qcow2", "-c", "write -P 9 0 1M", name]);
    let mut before = qemu_bytes(device.path(), "qcow2");
    to(40 * MIB).run(device.path()).unwrap();
    assert_qemu_check(device.path(), "qcow2");
    before.resize(40 << 20, 0);
    assert!(qemu_bytes(device.path(), "qcow2") == before);
    // A raw disk on a device has the device's size.
    let raw = Resize::new(NewSize::Grow(MIB)).open_options(OpenOptions::new().format(Format::Raw));
    let error = raw.run(device.path()).unwrap_err();
    assert!(error.to_string().contains("Cannot grow device files"), "{error}");
    // No room is left for a larger L1 table.
    run("qemu-io", ["-f", "qcow2", "-c", "write -P 9 1M 2700k", name]);
    let storage = Arc::new(FileStorage::open(device.path()).unwrap());
    let error = to(1 << 34).run_on(storage, name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert_qemu_check(device.path(), "qcow2");
}
