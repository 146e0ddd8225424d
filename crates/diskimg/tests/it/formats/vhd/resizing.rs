//! Disks whose size is changed in place, which qemu-img cannot do.

use super::{our_bytes, write, write_bytes};
use diskimg::{Convert, ErrorKind, Format, Image, NewSize, Resize};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{full, qemu_bytes, run};
use diskimg_testkit::vhd::{Vhd, fixed};
use std::path::Path;
use std::sync::Arc;

const BLOCK: u64 = 64 << 10;

/// A disk of 10 blocks, of which the last is not whole.
const SIZE: u64 = 10 * BLOCK - 1024;

fn resize(path: &Path, size: u64) -> Result<(), diskimg::Error> {
    Resize::new(NewSize::Bytes(size)).shrink(true).run(path).map(|_| ())
}

/// Returns the findings of the check.
fn findings(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    Image::open(path).unwrap().check(&mut |finding| found.push(finding.message)).unwrap();
    found
}

/// Files of dynamic disks, and their guest's bytes: whole, without the last sectors of the last
/// block, and with a damaged copy of the footer.
fn samples() -> Vec<(Vec<u8>, Vec<u8>)> {
    let image = Vhd::dynamic(SIZE).block(2, 0x22, 0..128).block(9, 0x29, 0..128);
    let mut bytes = vec![0; SIZE as usize];
    bytes[2 * BLOCK as usize..3 * BLOCK as usize].fill(0x22);
    bytes[9 * BLOCK as usize..].fill(0x29);
    let whole = image.build();
    let footer = whole.len() - 512;
    let mut short = whole.clone();
    short.drain(footer - 1024..footer);
    let mut no_head = whole.clone();
    no_head[..8].fill(0);
    let no_tail = whole[..footer].to_vec();
    [whole, short, no_head, no_tail].into_iter().map(|file| (file, bytes.clone())).collect()
}

fn resized(bytes: &[u8], size: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(size as usize, 0);
    bytes
}

#[test]
fn a_disk_that_grows_has_zeros_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (file, bytes)) in samples().into_iter().enumerate() {
        for size in [SIZE + 512, 10 * BLOCK, 11 * BLOCK, 900 * BLOCK + 512] {
            let path = write_bytes(dir.path(), "disk.vhd", &file);
            resize(&path, size).unwrap();
            let mut wanted = resized(&bytes, size);
            assert!(our_bytes(&path) == wanted, "{number}, {size}");
            assert!(qemu_bytes(&path, "vpc") == wanted, "{number}, {size}");
            assert_eq!(findings(&path), [""; 0], "{number}, {size}");
            // It can be written to, and grows again.
            let source = write_bytes(dir.path(), "source.raw", &[7; 3 * BLOCK as usize]);
            let convert = Convert::new(Image::open(source).unwrap()).format(Format::Vhd);
            convert.run_existing(&path).unwrap();
            wanted[..3 * BLOCK as usize].fill(7);
            resize(&path, 1000 * BLOCK).unwrap();
            assert!(our_bytes(&path) == resized(&wanted, 1000 * BLOCK), "{number}, {size}");
            assert_eq!(findings(&path), [""; 0], "{number}, {size}");
        }
    }
}

/// What is beyond the new end is not there when the disk grows again.
#[test]
fn a_disk_that_shrinks_loses_the_data_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (file, bytes)) in samples().into_iter().enumerate() {
        for size in [512, 2 * BLOCK, 3 * BLOCK - 512, 9 * BLOCK + 512] {
            let path = write_bytes(dir.path(), "disk.vhd", &file);
            resize(&path, size).unwrap();
            let wanted = resized(&bytes, size);
            assert!(our_bytes(&path) == wanted, "{number}, {size}");
            assert_eq!(findings(&path), [""; 0], "{number}, {size}");
            resize(&path, SIZE).unwrap();
            assert!(our_bytes(&path) == resized(&wanted, SIZE), "{number}, {size}");
            assert_eq!(findings(&path), [""; 0], "{number}, {size}");
        }
    }
}

#[test]
fn other_programs_read_disks_that_were_resized() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, path) = (dir.path().join("raw"), dir.path().join("disk.vhd"));
    let noise = Run { at: (2 << 20) - 512, len: 3 << 20, fill: Fill::Noise(5) };
    let disk = Disk { size: 9 << 20, runs: vec![noise.clone()] };
    disk.write(&raw);
    for subformat in ["dynamic", "fixed"] {
        for size in [4 << 20, (9 << 20) + 512, 300 << 20] {
            let options = format!("subformat={subformat},force_size=on");
            let files = [raw.to_str().unwrap(), path.to_str().unwrap()];
            let args = ["convert", "-f", "raw", "-O", "vpc", "-o", &options];
            run("qemu-img", args.iter().chain(&files));
            resize(&path, size).unwrap();
            let len = noise.len.min(size - noise.at);
            let disk = Disk { size, runs: vec![Run { len, ..noise.clone() }] };
            // libvhdi takes the size with which the disk was created for its size.
            for oracle in [Oracle::QemuImg, Oracle::SevenZip, Oracle::Dissect] {
                let verdict = oracle.compare("vpc", &path, &disk);
                let expected = matches!(verdict, Verdict::Same | Verdict::NotInstalled);
                assert!(expected, "{subformat}, {size}: {}: {verdict}", oracle.name());
            }
        }
    }
}

#[test]
fn a_fixed_disk_changes_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let contents: Vec<u8> = (0..20_480_u32).map(|i| (i / 100) as u8 | 1).collect();
    for size in [512, 10_240, 19_968, 20_992, 1 << 20] {
        let path = write_bytes(dir.path(), "disk.vhd", &fixed(&contents));
        resize(&path, size).unwrap();
        assert!(our_bytes(&path) == resized(&contents, size), "{size}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size + 512);
        let raw = std::fs::read(&path).unwrap();
        assert!(raw[..size as usize] == resized(&contents, size), "{size}");
        assert_eq!(findings(&path), [""; 0], "{size}");
    }
}

#[test]
fn after_a_crash_the_disk_has_its_old_or_new_size_and_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhd");
    for (file, bytes) in samples() {
        for size in [3 * BLOCK - 512, 900 * BLOCK] {
            let storage = Arc::new(RecordingStorage::new(file.clone(), None));
            Resize::new(NewSize::Bytes(size))
                .shrink(true)
                .run_on(Arc::clone(&storage) as _, "target")
                .unwrap();
            let (step, wanted) = (if full() { 1 } else { 60 }, resized(&bytes, size));
            let states = storage.crash_states(7, step, |state| {
                std::fs::write(&path, state).unwrap();
                let found = our_bytes(&path);
                assert!(found == bytes || found == wanted);
                let is_footer = |message: &String| message.contains("footer");
                assert!(findings(&path).iter().all(is_footer), "{:?}", findings(&path));
                // The next modification completes the file.
                resize(&path, size + 512).unwrap();
                let kept = found.len().min(size as usize);
                assert!(our_bytes(&path)[..kept] == found[..kept]);
                assert_eq!(findings(&path), [""; 0]);
            });
            assert!(states > 4);
        }
    }
}

/// The only footer of a fixed disk is the last sector of the file.
#[test]
fn after_a_crash_a_fixed_disk_has_its_old_or_new_size_and_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhd");
    let contents: Vec<u8> = (0..20_480_u32).map(|i| (i / 100) as u8 | 1).collect();
    for size in [5120, 19_968, 20_992, 40_960] {
        let storage = Arc::new(RecordingStorage::new(fixed(&contents), None));
        Resize::new(NewSize::Bytes(size))
            .shrink(true)
            .run_on(Arc::clone(&storage) as _, "target")
            .unwrap();
        let kept = contents.len().min(size as usize);
        storage.crash_states(7, 1, |state| {
            std::fs::write(&path, state).unwrap();
            let found = our_bytes(&path);
            assert!([contents.len(), size as usize].contains(&found.len()), "{size}");
            assert!(found[..kept] == contents[..kept], "{size}");
        });
    }
}

#[test]
fn a_child_does_not_grow_over_a_longer_parent() {
    let dir = tempfile::tempdir().unwrap();
    let parent = Vhd::dynamic(20 * BLOCK).block(15, 0x40, 0..128);
    write(dir.path(), "parent.vhd", &parent);
    for (size, is_possible) in [(20 * BLOCK, true), (10 * BLOCK, false)] {
        let child = Vhd::child(size, parent.uuid, "parent.vhd").block(1, 0x77, 3..9);
        let path = write(dir.path(), "child.vhd", &child);
        let before = our_bytes(&path);
        let outcome = resize(&path, 30 * BLOCK);
        if is_possible {
            outcome.unwrap();
            assert!(our_bytes(&path) == resized(&before, 30 * BLOCK));
        } else {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unsupported);
            assert!(std::fs::read(&path).unwrap() == child.build());
        }
    }
}

#[test]
fn sizes_that_an_image_cannot_have_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhd::dynamic(SIZE).block(1, 1, 0..128);
    for (size, kind) in [(1000, ErrorKind::Invalid), (3 << 40, ErrorKind::Limit)] {
        let path = write(dir.path(), "disk.vhd", &image);
        let error = resize(&path, size).unwrap_err();
        assert_eq!(error.kind(), kind, "{size}: {error}");
        assert!(std::fs::read(&path).unwrap() == image.build());
    }
}
