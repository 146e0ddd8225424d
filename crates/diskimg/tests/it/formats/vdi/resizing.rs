//! Disks whose size is changed in place, which qemu-img cannot do.

use super::{findings, our_bytes, write, write_bytes};
use diskimg::{Convert, ErrorKind, Format, Image, NewSize, OpenOptions, Resize};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::tool::{assert_qemu_check, full, qemu_bytes, run};
use diskimg_testkit::vdi::Vdi;
use std::path::Path;
use std::sync::Arc;

const BLOCK: u64 = 64 << 10;

fn resize(path: &Path, size: u64) -> Result<(), diskimg::Error> {
    Resize::new(NewSize::Bytes(size)).shrink(true).run(path).map(|_| ())
}

/// A disk of 10 blocks, of which the last is not whole.
const SIZE: u64 = 10 * BLOCK - 1024;

/// The map of the first sample has room behind it. The others' blocks are in the way of a longer one.
fn samples() -> Vec<Vdi> {
    let fill = |image: Vdi| image.block(2, 2, 0x22).block(0, 1, 0x21).block(9, 0, 0x29);
    let tight = fill(Vdi { data_at: Some(1024), ..Vdi::dynamic(SIZE) });
    vec![
        fill(Vdi { data_at: Some(1 << 20), ..Vdi::dynamic(SIZE) }),
        tight.clone(),
        Vdi { block_extra: 512, ..tight.clone() },
        Vdi { data_at: Some(600), ..tight },
        Vdi::dynamic(SIZE),
    ]
}

/// The guest's bytes of a sample with a new size.
fn wanted(image: &Vdi, size: u64) -> Vec<u8> {
    let mut bytes = image.bytes();
    bytes.resize(size as usize, 0);
    bytes
}

#[test]
fn a_disk_that_grows_has_zeros_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for (number, image) in samples().into_iter().enumerate() {
        // 40,000 blocks have a map of 160,000 bytes, where the first three blocks are now.
        for size in [SIZE + 512, SIZE + 4096, 300 * BLOCK, 40_000 * BLOCK - 512] {
            let path = write(dir.path(), "disk.vdi", &image);
            resize(&path, size).unwrap();
            assert_eq!(findings(&path), [""; 0], "{number}, {size}");
            if size < 1 << 30 {
                assert!(our_bytes(&path) == wanted(&image, size), "{number}, {size}");
            } else {
                let opened = Image::open(&path).unwrap();
                assert_eq!(opened.size(), size);
                let mut bytes = vec![1; 400 * BLOCK as usize];
                opened.read_at(&mut bytes, 0).unwrap();
                assert!(bytes == wanted(&image, 400 * BLOCK), "{number}, {size}");
            }
            // It can be written to, and grows again.
            let source = write_bytes(dir.path(), "source.raw", &vec![7; 200 * BLOCK as usize]);
            let convert = Convert::new(Image::open(source).unwrap()).format(Format::Vdi);
            if size > 200 * BLOCK {
                convert.run_existing(&path).unwrap();
                resize(&path, 80_000 * BLOCK).unwrap();
                let mut bytes = vec![1; 201 * BLOCK as usize];
                Image::open(&path).unwrap().read_at(&mut bytes, 0).unwrap();
                assert!(bytes[..200 * BLOCK as usize].iter().all(|&byte| byte == 7));
                assert!(bytes[200 * BLOCK as usize..].iter().all(|&byte| byte == 0));
                assert_eq!(findings(&path), [""; 0], "{number}, {size}");
            }
        }
    }
}

#[test]
fn qemu_img_reads_and_writes_disks_that_were_resized() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, disk) = (dir.path().join("raw"), dir.path().join("disk.vdi"));
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|i| (i / 700 * 13) as u8).collect();
    std::fs::write(&raw, &bytes[..4_999_680]).unwrap();
    for is_static in ["off", "on"] {
        for size in [1 << 20, 4_000_256, 5 << 20, 2_000 << 20] {
            let option = format!("static={is_static}");
            let files = [raw.to_str().unwrap(), disk.to_str().unwrap()];
            let args = ["convert", "-f", "raw", "-O", "vdi", "-o", &option];
            run("qemu-img", args.iter().chain(&files));
            resize(&disk, size).unwrap();
            assert_qemu_check(&disk, "vdi");
            assert_eq!(findings(&disk), [""; 0], "{is_static}, {size}");
            let mut wanted = bytes[..4_999_680].to_vec();
            wanted.resize(size as usize, 0);
            assert!(qemu_bytes(&disk, "vdi") == wanted, "{is_static}, {size}");
            let last = (size - 512).to_string();
            let write = format!("write -P 0x55 {last} 512");
            run("qemu-io", ["-f", "vdi", "-c", &write, disk.to_str().unwrap()]);
            wanted[size as usize - 512..].fill(0x55);
            assert!(our_bytes(&disk) == wanted, "{is_static}, {size}");
            assert_eq!(findings(&disk), [""; 0], "{is_static}, {size}");
        }
    }
}

/// What is beyond the new end is not there when the disk grows again.
#[test]
fn a_disk_that_shrinks_loses_the_data_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for (number, image) in samples().into_iter().enumerate() {
        for size in [512, 2 * BLOCK, 3 * BLOCK - 512, SIZE - 512] {
            let path = write(dir.path(), "disk.vdi", &image);
            resize(&path, size).unwrap();
            assert!(our_bytes(&path) == wanted(&image, size), "{number}, {size}");
            assert_eq!(findings(&path), [""; 0], "{number}, {size}");
            resize(&path, SIZE).unwrap();
            let mut bytes = wanted(&image, size);
            bytes.resize(SIZE as usize, 0);
            assert!(our_bytes(&path) == bytes, "{number}, {size}");
            assert_eq!(findings(&path), [""; 0], "{number}, {size}");
        }
    }
}

#[test]
fn after_a_crash_the_disk_has_its_old_or_new_size_and_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for image in samples() {
        for size in [2 * BLOCK, 300 * BLOCK] {
            let path = dir.path().join("disk.vdi");
            let storage = Arc::new(RecordingStorage::new(image.build(), None));
            Resize::new(NewSize::Bytes(size))
                .shrink(true)
                .run_on(Arc::clone(&storage) as _, "target")
                .unwrap();
            let (old, new) = (image.bytes(), wanted(&image, size));
            let step = if full() { 1 } else { 40 };
            let states = storage.crash_states(5, step, |state| {
                std::fs::write(&path, state).unwrap();
                let found = our_bytes(&path);
                assert!(found == old || found == new);
                let leaks = |message: &String| message.contains("the header counts");
                assert!(findings(&path).iter().all(leaks), "{:?}", findings(&path));
                // Repeating it completes it.
                resize(&path, size).unwrap();
                assert!(our_bytes(&path) == new);
                assert_eq!(findings(&path), [""; 0]);
            });
            assert!(states > 2);
        }
    }
}

#[test]
fn a_child_shows_no_more_of_its_parent_after_it_has_grown() {
    let dir = tempfile::tempdir().unwrap();
    let parent =
        (0..20).fold(Vdi::dynamic(20 * BLOCK), |image, n| image.block(n, n, 0x40 + n as u8));
    write(dir.path(), "parent.vdi", &parent);
    for (size, is_possible) in [(10 * BLOCK, true), (10 * BLOCK - 512, false)] {
        let child = Vdi { size, ..Vdi::child(&parent) }.block(1, 0, 0x77);
        let path = write(dir.path(), "child.vdi", &child);
        let before = our_bytes(&path);
        let resized = resize(&path, 30 * BLOCK);
        if !is_possible {
            let error = resized.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(std::fs::read(&path).unwrap() == child.build());
            continue;
        }
        resized.unwrap();
        let after = our_bytes(&path);
        assert!(after[..before.len()] == before);
        assert!(after[before.len()..].iter().all(|&byte| byte == 0));
        assert_eq!(after.len() as u64, 30 * BLOCK);
    }
}

#[test]
fn sizes_that_an_image_cannot_have_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vdi::dynamic(SIZE).block(1, 0, 1);
    let old = Vdi { version: 2, ..Vdi::dynamic(SIZE) };
    for (image, size, kind) in [
        (&image, 1000, ErrorKind::Invalid),
        (&image, 1 << 50, ErrorKind::Limit),
        (&old, 20 * BLOCK, ErrorKind::Unsupported),
    ] {
        let path = write(dir.path(), "disk.vdi", image);
        let error = resize(&path, size).unwrap_err();
        assert_eq!(error.kind(), kind, "{size}: {error}");
        assert!(std::fs::read(&path).unwrap() == image.build());
    }
    let path = write(dir.path(), "disk.vdi", &image);
    let preallocation = "full".parse().unwrap();
    let resize = Resize::new(NewSize::Bytes(1 << 20)).preallocation(preallocation);
    let error = resize.open_options(OpenOptions::new().format(Format::Vdi)).run(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}
