//! `resize` of qcow2: smaller disks, preallocation, bitmaps and data files, compared with qemu-img.

use super::snapshots::{Case, bytes_of, contents, options, qemu};
use diskimg::storage::source::MemorySource;
use diskimg::{ExternalFiles, NewSize, OpenOptions, Preallocation, Resize, SnapshotSelector};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::tool::{assert_qemu_check, full, qemu_bytes, run, try_run};
use std::path::Path;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn to(size: u64) -> Resize {
    let options = options().external_files(ExternalFiles::SameDir);
    Resize::new(NewSize::Bytes(size)).open_options(options).shrink(true)
}

/// Images, and the sizes to which they shrink.
const CASES: &[(Case, &[u64])] = &[
    (
        Case {
            name: "a disk with data",
            options: "cluster_size=4k",
            size: 8 * MIB,
            commands: &["write -P 1 0 8M"],
        },
        &[MIB, 5 * MIB + 512, 512],
    ),
    (
        Case {
            name: "snapshots",
            options: "cluster_size=512",
            size: MIB,
            commands: &["write -P 1 0 200k", "img snapshot -c s", "write -P 2 100k 200k"],
        },
        &[150 << 10, 120 << 10, 32 << 10],
    ),
    (
        Case {
            name: "the last cluster belongs to a snapshot, too",
            options: "cluster_size=64k",
            size: MIB,
            commands: &["write -P 1 0 1M", "img snapshot -c s"],
        },
        &[100 << 10],
    ),
    (
        Case {
            name: "compressed clusters",
            options: "cluster_size=4k",
            size: MIB,
            commands: &["write -c -P 1 0 4k", "write -c -P 2 4k 4k", "write -c -P 3 8k 4k"],
        },
        &[6 << 10, 8 << 10],
    ),
    (
        Case {
            name: "compressed clusters with extended L2 entries",
            options: "cluster_size=64k,extended_l2=on",
            size: MIB,
            commands: &["write -c -P 7 64k 64k", "write -c -P 8 128k 64k"],
        },
        &[96 << 10, 160 << 10, 128 << 10],
    ),
    (
        Case {
            name: "extended L2 entries",
            options: "cluster_size=16k,extended_l2=on",
            size: 32 * MIB,
            commands: &["write -P 1 0 20k", "write -P 2 16M 16k", "write -P 3 31M 1M"],
        },
        &[16 * MIB + 1536, 16 << 10],
    ),
    (
        Case {
            name: "a smaller refcount table",
            options: "cluster_size=512,refcount_bits=64",
            size: 4 * MIB,
            commands: &["write -P 1 0 3M"],
        },
        &[MIB],
    ),
    (
        Case {
            name: "version 2",
            options: "cluster_size=4k,compat=0.10",
            size: 4 * MIB,
            commands: &["write -P 1 0 3M"],
        },
        &[MIB - 512],
    ),
    (
        Case {
            name: "bitmaps",
            options: "cluster_size=512",
            size: 8 * MIB,
            commands: &["img bitmap --add -g 512 b", "write -P 1 1M 2M", "write -P 1 5M 1k"],
        },
        &[2 * MIB + 5632, 4 * MIB],
    ),
];

#[test]
fn a_smaller_disk_has_its_first_bytes_and_grows_with_zeros() {
    for (case, sizes) in CASES {
        for &size in *sizes {
            let dir = tempfile::tempdir().unwrap();
            let path = case.make(dir.path());
            let mut before = contents(&path);
            let context = format!("{}, {size}", case.name);
            let len = std::fs::metadata(&path).unwrap().len();
            to(size).run(&path).unwrap_or_else(|e| panic!("{context}: {e}"));
            before[0].truncate(size as usize);
            assert!(contents(&path) == before, "{context}");
            assert!(qemu_bytes(&path, "qcow2") == before[0], "{context}");
            assert_qemu_check(&path, "qcow2");
            let is_shorter = std::fs::metadata(&path).unwrap().len() < len;
            assert!(is_shorter || size < MIB || case.name == "bitmaps", "{context}");
            // QEMU does not clear the rest of the last cluster.
            qemu(&path, &format!("img resize -q {}", case.size));
            before[0].resize(case.size as usize, 0);
            assert!(contents(&path) == before, "{context}");
            assert_qemu_check(&path, "qcow2");
        }
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "the table of states")]
fn after_a_crash_a_disk_has_its_old_or_its_smaller_size() {
    let mut lines = Vec::new();
    for (case, sizes) in CASES {
        let dir = tempfile::tempdir().unwrap();
        let path = case.make(dir.path());
        let before = contents(&path);
        let size = sizes[0];
        let recorded = std::fs::read(&path).unwrap();
        let storage = Arc::new(RecordingStorage::new(recorded, None));
        to(size).run_on(Arc::clone(&storage) as _, "a.qcow2").unwrap();
        let (mut number, mut counts) = (0, [0; 2]);
        let step = if full() { 3 } else { 31 };
        let states = storage.crash_states(5, step, |state| {
            number += 1;
            let context = || format!("{}, state {number}", case.name);
            let open = |wanted: Option<SnapshotSelector>| {
                let source = Arc::new(MemorySource::new(state.to_vec()));
                options().snapshot(wanted).open_source(source, "a.qcow2").unwrap()
            };
            let image = open(None);
            let report = image.check(&mut |_| {}).unwrap().unwrap();
            // Those of bitmaps are released last.
            let leaks = if case.name == "bitmaps" { 0 } else { report.leaks };
            assert_eq!((report.corruptions, leaks), (0, 0), "{}", context());
            let is_new = image.size() == size;
            counts[usize::from(is_new)] += 1;
            let bytes = bytes_of(&image);
            assert!(is_new || bytes.len() == before[0].len(), "{}", context());
            assert!(bytes == before[0][..bytes.len()], "{}", context());
            if let Some(snapshot) = before.get(1) {
                let wanted = SnapshotSelector::IdOrName("s".into());
                assert!(bytes_of(&open(Some(wanted))) == *snapshot, "{}", context());
            }
            if number % 50 == 1 {
                std::fs::write(&path, state).unwrap();
                let check = try_run("qemu-img", ["check", "-f", "qcow2", path.to_str().unwrap()]);
                assert!(matches!(check.status.code(), Some(0 | 3)), "{}: {check:?}", context());
            }
        });
        assert!(counts[0] > 0 && counts[1] > 0, "{}: {counts:?}", case.name);
        lines.push(format!("{}: {states} states {counts:?}", case.name));
    }
    // Shown with --no-capture.
    println!("{}", lines.join("\n"));
}

#[test]
fn added_clusters_are_allocated() {
    let modes = [Preallocation::Metadata, Preallocation::Falloc, Preallocation::Full];
    for image in [
        "cluster_size=64k",
        "cluster_size=512,refcount_bits=64",
        "cluster_size=4k,compat=0.10",
        "cluster_size=16k,extended_l2=on",
    ] {
        for mode in modes {
            use std::os::unix::fs::MetadataExt;
            let dir = tempfile::tempdir().unwrap();
            let case = Case {
                name: "",
                options: image,
                size: MIB + 1536,
                commands: &["write -P 7 0 1M", "write -P 8 1M 1536"],
            };
            let path = case.make(dir.path());
            let mut before = qemu_bytes(&path, "qcow2");
            let blocks = std::fs::metadata(&path).unwrap().blocks();
            to(5 * MIB).preallocation(mode).run(&path).unwrap();
            let context = format!("{image}, {mode}");
            before.resize(5 << 20, 0);
            assert!(qemu_bytes(&path, "qcow2") == before, "{context}");
            assert_qemu_check(&path, "qcow2");
            let image = options().open(&path).unwrap();
            let start = (MIB + 1536).next_multiple_of(64 << 10);
            for extent in image.extents(start..5 * MIB).unwrap() {
                let kind = extent.unwrap().kind;
                assert!(matches!(kind, diskimg::extent::Kind::Data(_)), "{context}: {kind:?}");
            }
            drop(image);
            let added = std::fs::metadata(&path).unwrap().blocks() - blocks;
            let is_reserved = added * 512 >= 4 * MIB - (64 << 10);
            assert_eq!(is_reserved, mode != Preallocation::Metadata, "{context}: {added}");
            // What is allocated can be written.
            qemu(&path, "write -P 9 4M 1M");
            assert_qemu_check(&path, "qcow2");
        }
    }
}

#[test]
fn an_external_data_file_becomes_as_long_as_the_disk() {
    let sizes = [3 * MIB, MIB / 2 + 512, 2 * MIB, 64 << 10];
    for raw in [false, true] {
        for mode in [Preallocation::Off, Preallocation::Metadata, Preallocation::Full] {
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path().join("data");
            let options = format!(
                "data_file={},data_file_raw={}",
                data.display(),
                ["off", "on"][raw as usize]
            );
            let path = dir.path().join("a.qcow2");
            let args = ["create", "-q", "-f", "qcow2", "-o", &options, path.to_str().unwrap()];
            run("qemu-img", [&args[..], &["1M"]].concat());
            qemu(&path, "write -P 5 0 1M");
            let mut disk = vec![5; 1 << 20];
            for size in sizes {
                let context = format!("raw {raw}, {mode}, {size}");
                let is_larger = size > disk.len() as u64;
                let mode = if is_larger { mode } else { Preallocation::Off };
                let resize = to(size).preallocation(mode);
                resize.run(&path).unwrap_or_else(|e| panic!("{context}: {e}"));
                disk.resize(size as usize, 0);
                assert!(qemu_bytes(&path, "qcow2") == disk, "{context}");
                assert_qemu_check(&path, "qcow2");
                let file = std::fs::read(&data).unwrap();
                assert_eq!(file.len() as u64, size, "{context}");
                assert!(!raw || file == disk, "{context}");
                if is_larger {
                    qemu(&path, &format!("write -P 6 {} 64k", size - (64 << 10)));
                    disk[size as usize - (64 << 10)..].fill(6);
                }
            }
        }
    }
}

/// Returns the bits of the first bitmap of an image.
fn bits(path: &Path) -> Vec<bool> {
    let bytes = std::fs::read(path).unwrap();
    let number = |at: usize, len: usize| {
        bytes[at..at + len].iter().fold(0usize, |sum, &byte| sum << 8 | usize::from(byte))
    };
    let mut at = number(100, 4);
    while number(at, 4) != 0x2385_2875 {
        at += 8 + number(at + 4, 4).next_multiple_of(8);
    }
    let (cluster, size, directory) = (1 << number(20, 4), number(24, 8), number(at + 24, 8));
    let (table, granularity) = (number(directory, 8), 1usize << bytes[directory + 17]);
    assert_eq!(bytes[directory + 15] & 1, 0, "it is in use");
    let count = size.div_ceil(granularity);
    assert_eq!(number(directory + 8, 4), count.div_ceil(cluster * 8), "the length of the table");
    let bit = |bit: usize| {
        let entry = number(table + bit / (cluster * 8) * 8, 8);
        match entry {
            0 | 1 => entry == 1,
            offset => bytes[offset + bit / 8 % cluster] >> (bit % 8) & 1 == 1,
        }
    };
    let padded = count.next_multiple_of(8);
    assert!((count..padded).all(|n| !bit(n)), "bits beyond the end");
    (0..count).map(bit).collect()
}

#[test]
fn bitmaps_have_the_bits_that_they_have_after_qemu_img_resizes() {
    for (options, granularity) in [("cluster_size=512", "512"), ("cluster_size=64k", "64k")] {
        let case = Case { name: "", options, size: MIB, commands: &[] };
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let paths = [&ours, &theirs].map(|dir| case.make(dir.path()));
        for path in &paths {
            qemu(path, &format!("img bitmap --add -g {granularity} b"));
        }
        // 512-byte clusters with one bit for 512 bytes need tables of several clusters.
        for (number, size) in
            [3 * MIB, 300 * MIB, MIB + 512, 5 * MIB, 512, MIB, 200 * MIB, 100 * MIB]
                .into_iter()
                .enumerate()
        {
            to(size).run(&paths[0]).unwrap();
            qemu(&paths[1], &format!("img resize -q --shrink {size}"));
            assert_qemu_check(&paths[0], "qcow2");
            assert_eq!(bits(&paths[0]), bits(&paths[1]), "{options} {number}");
            for path in &paths {
                for at in [0, size / 3 / 512 * 512, size - 512] {
                    qemu(path, &format!("write {at} 512"));
                }
                qemu(path, "img bitmap --enable b");
            }
            assert_eq!(bits(&paths[0]), bits(&paths[1]), "{options} {number}, written");
        }
    }
}

/// A file that cannot be opened is found before anything is written.
#[test]
fn an_image_without_its_data_file_is_not_resized() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let (file, data) = (path.to_str().unwrap(), dir.path().join("data"));
    let options = format!("data_file={}", data.display());
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", &options, file, "1M"]);
    let before = std::fs::read(&path).unwrap();
    let none = OpenOptions::new().external_files(ExternalFiles::None);
    to(2 * MIB).open_options(none).run(&path).unwrap_err();
    std::fs::remove_file(&data).unwrap();
    to(2 * MIB).run(&path).unwrap_err();
    assert!(std::fs::read(&path).unwrap() == before);
}

/// A damaged or crafted entry: the flag says that a compressed cluster is used once, and its offset is
/// that of a byte within a cluster.
#[test]
fn a_compressed_cluster_with_the_copied_flag_is_not_taken_for_a_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    let name = path.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", name, "1M"]);
    let commands = [
        "write -c -P 1 512k 64k",
        "write -c -P 7 128k 64k",
        "write -P 9 0 64k",
        "write -P 8 64k 64k",
        "discard 512k 64k",
    ];
    let args = commands.iter().flat_map(|command| ["-c", command]);
    run("qemu-io", ["-d", "unmap", "-f", "qcow2"].into_iter().chain(args).chain([name]));
    let mut file = std::fs::read(&path).unwrap();
    let word = |file: &[u8], at: usize| u64::from_be_bytes(file[at..at + 8].try_into().unwrap());
    let l1 = word(&file, 40) as usize;
    let entry = (word(&file, l1) & 0x00ff_ffff_ffff_fe00) as usize + 2 * 8;
    assert_eq!(file[entry] & 0xc0, 0x40, "compressed");
    file[entry] |= 0x80;
    std::fs::write(&path, file).unwrap();
    let before = bytes_of(&options().open(&path).unwrap());
    let outcome = to(131_584).run(&path);
    let after = bytes_of(&options().open(&path).unwrap());
    assert!(after[..131_584] == before[..131_584], "{outcome:?}");
    assert!(qemu_bytes(&path, "qcow2")[..131_584] == before[..131_584]);
}
