//! Disks whose size is changed in place, which qemu-img cannot do.

use super::{BLOCK, our_bytes, write};
use diskimg::{Convert, ErrorKind, Format, Image, NewSize, Options, Resize};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{assert_qemu_check, full, run};
use diskimg_testkit::vhdx::Vhdx;
use std::path::Path;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// A disk of 4 blocks, of which the last is not whole.
const SIZE: u64 = 4 * MIB - 4096;

fn resize(path: &Path, size: u64) -> Result<(), diskimg::Error> {
    Resize::new(NewSize::Bytes(size)).shrink(true).run(path).map(|_| ())
}

/// Returns the findings of the check.
fn findings(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    Image::open(path).unwrap().check(&mut |finding| found.push(finding.message)).unwrap();
    found
}

fn sample() -> Vhdx {
    Vhdx::dynamic(SIZE).filled(1, 0x21).filled(3, 0x23)
}

/// The guest's bytes of the sample with a new size.
fn wanted(size: u64) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    bytes[BLOCK..2 * BLOCK].fill(0x21);
    bytes[3 * BLOCK..].fill(0x23);
    bytes.resize(size as usize, 0);
    bytes
}

#[test]
fn a_disk_that_grows_has_zeros_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for size in [SIZE + 512, 4 * MIB, 5 * MIB, 40 * MIB + 512] {
        let path = write(dir.path(), "disk.vhdx", &sample());
        resize(&path, size).unwrap();
        assert!(our_bytes(&path) == wanted(size), "{size}");
        assert_eq!(findings(&path), [""; 0], "{size}");
        let source = dir.path().join("source.raw");
        std::fs::write(&source, vec![7; size as usize]).unwrap();
        let convert = Convert::new(Image::open(&source).unwrap()).format(Format::Vhdx);
        convert.run_existing(&path).unwrap();
        assert!(our_bytes(&path).iter().all(|&byte| byte == 7), "{size}");
    }
}

/// A table of 1 MiB has entries for 131,040 blocks.
#[test]
fn the_table_moves_to_the_end_of_the_file_if_it_needs_more_space() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.vhdx", &sample());
    for size in [200_000 * MIB, 700_000 * MIB] {
        resize(&path, size).unwrap();
        assert_eq!(findings(&path), [""; 0], "{size}");
        let image = Image::open(&path).unwrap();
        assert_eq!(image.size(), size);
        for offset in [0, size - 6 * MIB] {
            let mut bytes = vec![1; 6 * BLOCK];
            image.read_at(&mut bytes, offset).unwrap();
            let expected = if offset == 0 { wanted(6 * MIB) } else { vec![0; 6 * BLOCK] };
            assert!(bytes == expected, "{size}, {offset}");
        }
        drop(image);
        assert_qemu_check(&path, "vhdx");
    }
    resize(&path, SIZE).unwrap();
    assert!(our_bytes(&path) == wanted(SIZE));
}

/// What is beyond the new end is not there when the disk grows again.
#[test]
fn a_disk_that_shrinks_loses_the_data_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for size in [512, MIB, 2 * MIB - 512, 3 * MIB + 4096] {
        let path = write(dir.path(), "disk.vhdx", &sample());
        resize(&path, size).unwrap();
        assert!(our_bytes(&path) == wanted(size), "{size}");
        assert_eq!(findings(&path), [""; 0], "{size}");
        resize(&path, SIZE).unwrap();
        let mut bytes = wanted(size);
        bytes.resize(SIZE as usize, 0);
        assert!(our_bytes(&path) == bytes, "{size}");
        assert_eq!(findings(&path), [""; 0], "{size}");
    }
}

#[test]
fn other_programs_read_disks_that_were_resized() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, path) = (dir.path().join("raw"), dir.path().join("disk.vhdx"));
    let noise = Run { at: MIB - 512, len: 3 * MIB, fill: Fill::Noise(5) };
    let disk = Disk { size: 9 * MIB, runs: vec![noise.clone()] };
    disk.write(&raw);
    for subformat in ["dynamic", "fixed"] {
        // 7-Zip refuses a disk that ends within a MiB.
        for size in [2 * MIB, 11 * MIB, 300 * MIB] {
            for by_qemu in [true, false] {
                let options = format!("subformat={subformat},block_size=1M");
                if by_qemu {
                    let files = [raw.to_str().unwrap(), path.to_str().unwrap()];
                    let args = ["convert", "-f", "raw", "-O", "vhdx", "-o", &options];
                    run("qemu-img", args.iter().chain(&files));
                } else {
                    let options = Options::parse(&options).unwrap();
                    let convert = Convert::new(Image::open(&raw).unwrap()).format(Format::Vhdx);
                    convert.options(options).run(&path).unwrap();
                }
                resize(&path, size).unwrap();
                assert_eq!(findings(&path), [""; 0], "{subformat}, {size}, {by_qemu}");
                let len = noise.len.min(size - noise.at);
                let disk = Disk { size, runs: vec![Run { len, ..noise.clone() }] };
                for oracle in Oracle::ALL {
                    let verdict = oracle.compare("vhdx", &path, &disk);
                    let expected = matches!(verdict, Verdict::Same | Verdict::NotInstalled);
                    assert!(
                        expected,
                        "{subformat}, {size}, {by_qemu}: {}: {verdict}",
                        oracle.name()
                    );
                }
            }
        }
    }
}

#[test]
fn after_a_crash_the_disk_has_its_old_or_new_size_and_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhdx");
    for size in [2 * MIB - 512, 6 * MIB, 200_000 * MIB] {
        let storage = Arc::new(RecordingStorage::new(sample().build(), None));
        Resize::new(NewSize::Bytes(size))
            .shrink(true)
            .run_on(Arc::clone(&storage) as _, "target")
            .unwrap();
        let states = storage.crash_states(7, if full() { 5 } else { 200 }, |state| {
            std::fs::write(&path, state).unwrap();
            let image = Image::open(&path).unwrap();
            assert!([SIZE, size].contains(&image.size()));
            let mut bytes = vec![1; image.size().min(6 * MIB) as usize];
            image.read_at(&mut bytes, 0).unwrap();
            assert!(bytes == wanted(bytes.len() as u64));
        });
        assert!(states > 4);
    }
}

#[test]
fn a_child_does_not_grow_over_a_longer_parent() {
    let dir = tempfile::tempdir().unwrap();
    let parent = Vhdx::dynamic(8 * MIB).filled(6, 0x40);
    write(dir.path(), "parent.vhdx", &parent);
    let child = Vhdx::child(&parent, ".\\parent.vhdx").partial(1, 0x77, 3..9);
    for (size, is_possible) in [(8 * MIB, true), (5 * MIB, false)] {
        let child = Vhdx { size, ..child.clone() };
        let path = write(dir.path(), "child.vhdx", &child);
        let before = our_bytes(&path);
        let outcome = resize(&path, 20 * MIB);
        if is_possible {
            outcome.unwrap();
            let mut wanted = before;
            wanted.resize(20 * BLOCK, 0);
            assert!(our_bytes(&path) == wanted);
            assert_eq!(resize(&path, MIB).unwrap_err().kind(), ErrorKind::Unsupported);
        } else {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unsupported);
            assert!(std::fs::read(&path).unwrap() == child.build());
        }
    }
}

#[test]
fn sizes_that_an_image_cannot_have_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    for (size, kind) in [(1000, ErrorKind::Invalid), (65 << 40, ErrorKind::Limit)] {
        let path = write(dir.path(), "disk.vhdx", &sample());
        let error = resize(&path, size).unwrap_err();
        assert_eq!(error.kind(), kind, "{size}: {error}");
        assert!(std::fs::read(&path).unwrap() == sample().build());
    }
}
