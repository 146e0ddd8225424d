//! Disks whose size is changed in place, which qemu-img cannot do.

use super::{error, findings, our_bytes, write, write_bytes};
use diskimg::{Convert, ErrorKind, Format, Image, NewSize, Resize};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::parallels::{Bundle, NIL, Parallels, SECTOR, TOP};
use diskimg_testkit::tool::{full, qemu_bytes};
use std::path::Path;
use std::sync::Arc;

fn resize(path: &Path, size: u64) -> Result<(), diskimg::Error> {
    Resize::new(NewSize::Bytes(size)).shrink(true).run(path).map(|_| ())
}

/// Images whose first clusters are in the way of a longer table.
fn samples() -> [Parallels; 4] {
    let fill = |image: Parallels| image.cluster(2, 2).cluster(0, 1).cluster(9, 9);
    [
        fill(Parallels::new(77)),
        fill(Parallels::old(77, 8)),
        fill(Parallels { omit_data_off: false, ..Parallels::old(77, 8) }),
        fill(Parallels::old(63 * 10 - 5, 63)),
    ]
}

#[test]
fn a_disk_that_grows_has_zeros_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for (number, image) in samples().into_iter().enumerate() {
        // 3,000 clusters have a table of 12 KB, where clusters are now.
        for sectors in [78, 80, 700, 3000 * 63] {
            if sectors < image.sectors {
                continue;
            }
            let path = write(dir.path(), "disk.hds", &image);
            resize(&path, sectors * 512).unwrap();
            let mut wanted = image.bytes();
            wanted.resize(sectors as usize * SECTOR, 0);
            assert!(our_bytes(&path) == wanted, "{number}, {sectors}");
            assert!(qemu_bytes(&path, "parallels") == wanted, "{number}, {sectors}");
            let found = findings(&path);
            assert_eq!(found, [""; 0], "{number}, {sectors}");
            // It can be written to.
            let source = write_bytes(dir.path(), "source.raw", &vec![7; wanted.len()]);
            Convert::new(Image::open(source).unwrap())
                .format(Format::Parallels)
                .run_existing(&path)
                .unwrap();
            assert!(our_bytes(&path).iter().all(|&byte| byte == 7));
            assert_eq!(findings(&path), [""; 0], "{number}, {sectors}");
        }
    }
}

/// What is beyond the new end is not there when the disk grows again.
#[test]
fn a_disk_that_shrinks_loses_the_data_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for (number, image) in samples().into_iter().enumerate() {
        for sectors in [1, 20, 76] {
            let path = write(dir.path(), "disk.hds", &image);
            resize(&path, sectors * 512).unwrap();
            let mut wanted = image.bytes();
            wanted.truncate(sectors as usize * SECTOR);
            assert!(our_bytes(&path) == wanted, "{number}, {sectors}");
            assert!(qemu_bytes(&path, "parallels") == wanted, "{number}, {sectors}");
            assert_eq!(findings(&path), [""; 0], "{number}, {sectors}");
            resize(&path, image.sectors * 512).unwrap();
            wanted.resize(image.sectors as usize * SECTOR, 0);
            assert!(our_bytes(&path) == wanted, "{number}, {sectors}");
            assert_eq!(findings(&path), [""; 0], "{number}, {sectors}");
        }
    }
}

#[test]
fn after_a_crash_the_disk_has_its_old_or_new_size_and_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for image in samples() {
        for sectors in [20, 3000] {
            let path = dir.path().join("disk.hds");
            let storage = Arc::new(RecordingStorage::new(image.build(), None));
            Resize::new(NewSize::Bytes(sectors * 512))
                .shrink(true)
                .run_on(Arc::clone(&storage) as _, "target")
                .unwrap();
            let old = image.bytes();
            let mut new = old.clone();
            new.resize(sectors as usize * SECTOR, 0);
            let mut number = 0;
            storage.crash_states(9, if full() { 1 } else { 3 }, |state| {
                number += 1;
                std::fs::write(&path, state).unwrap();
                let found = our_bytes(&path);
                assert!(found == old || found == new, "state {number}");
                let is_expected = |message: &String| {
                    message.contains("not closed correctly") || message.contains("are not used")
                };
                assert!(findings(&path).iter().all(is_expected), "{:?}", findings(&path));
            });
            assert!(number > 2);
        }
    }
}

#[test]
fn sizes_that_an_image_cannot_have_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let image = Parallels::old(77, 8).cluster(1, 1);
    let path = write(dir.path(), "disk.hds", &image);
    for (size, kind) in [
        (1000, ErrorKind::Invalid),
        (1 << 45, ErrorKind::Limit),
        ((u64::from(u32::MAX) + 1) * 512, ErrorKind::Limit),
    ] {
        assert_eq!(resize(&path, size).unwrap_err().kind(), kind, "{size}");
        assert!(std::fs::read(&path).unwrap() == image.build());
    }
    let mut file = image.build();
    file.copy_within(68..72, 64);
    let path = write_bytes(dir.path(), "disk.hds", &file);
    assert_eq!(resize(&path, 1 << 20).unwrap_err().kind(), error(&path).kind());
    assert!(std::fs::read(&path).unwrap() == file);
}

#[test]
fn a_bundle_is_not_resized() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.hdd");
    let image = Parallels::new(64).build();
    Bundle::new(64)
        .storage(0, 64, &[(TOP, "Compressed", "a.hds")])
        .shot(TOP, NIL)
        .file("a.hds", image)
        .write(&path);
    let error = resize(&path.join("DiskDescriptor.xml"), 1 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}
