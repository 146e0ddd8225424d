//! Tests of images of Bochs.

use diskimg::inspection::Code;
use diskimg::{Convert, ErrorKind, Format, Image, InspectOptions, Limits, OpenOptions, inspect};
use diskimg_testkit::bochs::{ABSENT, Bochs, CATALOG_AT};
use diskimg_testkit::tool::{qemu_bytes, run, try_run};
use std::fs;
use std::path::{Path, PathBuf};

fn our_bytes(path: &Path) -> Vec<u8> {
    let image = crate::verified::open(&OpenOptions::new(), path);
    let mut bytes = vec![1; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn error(path: &Path) -> diskimg::Error {
    let read = Image::open(path).and_then(|image| {
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(&mut bytes, 0)
    });
    read.unwrap_err()
}

fn findings(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let image = Image::open(path).unwrap();
    image.check(&mut |finding| found.push(finding.message)).unwrap();
    found
}

fn codes(path: &Path) -> Vec<Code> {
    let found = inspect(path, &InspectOptions::new()).unwrap();
    found.findings.iter().map(|finding| finding.code).collect()
}

fn write(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("disk.bochs");
    fs::write(&path, bytes).unwrap();
    path
}

/// Three extents of 4 KiB, of which the second is absent.
fn sample() -> Bochs {
    Bochs::new(3 * 4096 - 512).sector(0, 1, 0, 1).sector(0, 1, 7, 2).sector(2, 0, 3, 3)
}

fn sample_bytes() -> Vec<u8> {
    let mut bytes = vec![0; 3 * 4096 - 512];
    bytes[..512].fill(1);
    bytes[7 * 512..8 * 512].fill(2);
    bytes[8192 + 3 * 512..8192 + 4 * 512].fill(3);
    bytes
}

/// Writes `bytes` as an image with `bximage`, if it is installed.
fn bximage(dir: &Path, raw: &Path) -> PathBuf {
    let path = dir.join("growing.img");
    let _ = fs::remove_file(&path);
    let (from, to) = (raw.to_str().unwrap(), path.to_str().unwrap());
    run("bximage", ["-q", "-func=convert", "-imgmode=growing", from, to]);
    path
}

#[test]
fn images_of_bximage_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    for (mib, at) in [(10, 0), (10, 5 << 20), (100, (99 << 20) + 512), (1024, 700 << 20)] {
        let file = fs::File::create(&raw).unwrap();
        file.set_len(mib << 20).unwrap();
        let data = diskimg_testkit::disk::noise(mib, 40_000);
        {
            use std::io::{Seek, SeekFrom, Write};
            let mut file = &file;
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&data).unwrap();
        }
        let path = bximage(dir.path(), &raw);
        let image = Image::open(&path).unwrap();
        assert_eq!((image.format(), image.size()), (Format::Bochs, mib << 20));
        let mut found = vec![0; data.len()];
        image.read_at(&mut found, at).unwrap();
        assert!(found == data, "{mib}");
        assert_eq!((findings(&path), codes(&path)), (vec![], vec![Code::RejectedFormat]));
        let out = dir.path().join("out");
        Convert::new(image).run(&out).unwrap();
        let same =
            ["compare", "-f", "raw", "-F", "bochs", out.to_str().unwrap(), path.to_str().unwrap()];
        assert_eq!(run("qemu-img", same), "Images are identical.\n");
        let same =
            ["compare", "-f", "raw", "-F", "raw", out.to_str().unwrap(), raw.to_str().unwrap()];
        assert_eq!(run("qemu-img", same), "Images are identical.\n");
    }
}

#[test]
fn both_versions_and_other_sizes_are_read_as_by_qemu() {
    let dir = tempfile::tempdir().unwrap();
    for (image, size) in [
        (sample(), 3 * 4096 - 512),
        (Bochs { version: 1, ..sample() }, 3 * 4096 - 512),
        (Bochs { entries: Some(99), ..sample() }, 3 * 4096 - 512),
        (Bochs { bitmap_bytes: Some(1000), ..sample() }, 3 * 4096 - 512),
    ] {
        let path = write(dir.path(), &image.build());
        assert!(our_bytes(&path) == sample_bytes(), "{image:?}");
        assert!(qemu_bytes(&path, "bochs") == sample_bytes(), "{image:?}");
        assert_eq!(Image::open(&path).unwrap().size(), size);
        assert_eq!((findings(&path), codes(&path)), (vec![], vec![Code::RejectedFormat]));
    }
    for extent_bytes in [512, 2048, 1 << 16, 8 << 20] {
        let image = Bochs { extent_bytes, ..Bochs::new(3 * u64::from(extent_bytes)) };
        let last = extent_bytes / 512 - 1;
        let path = write(dir.path(), &image.sector(1, 1, 0, 9).sector(2, 0, last, 8).build());
        assert!(our_bytes(&path) == qemu_bytes(&path, "bochs"), "{extent_bytes}");
    }
}

/// QEMU and Bochs round down.
#[test]
fn a_size_that_is_not_whole_sectors_is_rounded_down() {
    let dir = tempfile::tempdir().unwrap();
    let image = Bochs { size: 3 * 4096 - 512 + 100, ..sample() };
    let path = write(dir.path(), &image.build());
    assert!(our_bytes(&path) == sample_bytes() && qemu_bytes(&path, "bochs") == sample_bytes());
    assert_eq!(codes(&path), [Code::RejectedFormat, Code::PartialSector]);
    assert_eq!(Image::open(&path).unwrap().warnings().count(), 1);
}

#[test]
fn images_of_other_kinds_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let with = |at: usize, text: &[u8]| {
        let mut file = sample().build();
        file[at..at + 16].fill(0);
        file[at..at + text.len()].copy_from_slice(text);
        file
    };
    let mut sparse = 0x0246_8ace_u32.to_le_bytes().to_vec();
    sparse.resize(4096, 0);
    for (file, text) in [
        (with(48, b"Undoable"), "an image of the subtype undoable: it has changes to a base image"),
        (with(48, b"Volatile"), "an image of the subtype volatile: it has changes to a base image"),
        (with(48, b"Shrinking"), "the subtype 'Shrinking'"),
        (with(32, b"Undolog"), "the type 'Undolog'"),
        (with(64, &[0, 0, 3, 0, 0, 2]), "version 3.0"),
        (sparse, "a sparse image of Bochs"),
    ] {
        let path = write(dir.path(), &file);
        let found = error(&path);
        assert_eq!(found.kind(), ErrorKind::Unsupported, "{found}");
        assert!(found.to_string().contains(text), "{text}: {found}");
    }
}

/// The cases of QEMU's iotest 078.
#[test]
fn each_invalid_field_is_an_error_as_in_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let file = sample().build();
    let with = |at: usize, value: u32| {
        let mut file = file.clone();
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        file
    };
    for (damaged, text) in [
        (with(72, u32::MAX), "a catalog of 4294967295 entries"),
        (with(72, (1 << 20) + 1), "a catalog of 1048577 entries"),
        (with(72, 0), "the disk has 3 extents of 4096 bytes, but the catalog has 0"),
        (with(72, 2), "the disk has 3 extents of 4096 bytes, but the catalog has 2"),
        (with(92, 1 << 31), "but the catalog has 3"),
        (with(80, 0), "extents of 0 bytes"),
        (with(80, 256), "extents of 256 bytes"),
        (with(80, 5000), "extents of 5000 bytes"),
        (with(80, 16 << 20), "extents of 16777216 bytes"),
        (with(80, 0x8000_0000), "extents of 2147483648 bytes"),
    ] {
        let path = write(dir.path(), &damaged);
        let found = error(&path);
        assert_eq!(found.kind(), ErrorKind::Corrupt, "{found}");
        assert!(found.to_string().contains(text), "{text}: {found}");
        let args = ["info", "-f", "bochs", path.to_str().unwrap()];
        assert!(!try_run("qemu-img", args).status.success(), "{text}");
    }
    // QEMU reads a bitmap that is too small for an extent, or the catalog from the header.
    for (damaged, text) in [
        (with(76, 0), "a bitmap of 0 bytes is too small"),
        (with(68, 100), "a header of 100 bytes"),
        (with(68, 1 << 30), "beyond the end of the file"),
    ] {
        let found = error(&write(dir.path(), &damaged));
        assert_eq!(found.kind(), ErrorKind::Corrupt, "{found}");
        assert!(found.to_string().contains(text), "{text}: {found}");
    }
}

#[test]
fn an_extent_that_two_entries_refer_to_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = sample();
    image.catalog.insert(1, 0);
    let path = write(dir.path(), &image.build());
    let found = error(&path);
    assert!(found.to_string().contains("refer to the same extent"), "{found}");
    let found = findings(&path);
    assert_eq!(found.len(), 2, "{found:?}");
    // The extent that no other entry refers to can be read.
    let mut bytes = [0; 512];
    Image::open(&path).unwrap().read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [1; 512]);
}

/// QEMU reads zeros there.
#[test]
fn what_is_beyond_the_end_of_the_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = sample().build();
    // In the last sector of the extent at the end of the file, which is stored, and in its bitmap.
    for len in [file.len() - 1, file.len() - 4096 - 500] {
        let path = write(dir.path(), &file[..len]);
        let found = error(&path);
        assert_eq!(found.kind(), ErrorKind::Corrupt, "{found}");
        assert!(found.to_string().contains("beyond the end of the file"), "{found}");
        assert_eq!(findings(&path).len(), 1);
    }
    let mut far = sample();
    far.catalog.insert(1, ABSENT - 1);
    let path = write(dir.path(), &far.build());
    let found = error(&path);
    assert!(found.to_string().contains("beyond the end of the file"), "{found}");
}

#[test]
fn the_largest_catalog_is_within_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let entries = 1 << 20;
    let size = u64::from(entries) * (8 << 20);
    let image = Bochs { extent_bytes: 8 << 20, ..Bochs::new(size) };
    let path = write(dir.path(), &image.sector(entries - 1, 0, 5, 7).build());
    let image = Image::open(&path).unwrap();
    assert_eq!(image.size(), 8 << 40);
    let mut sectors = [1; 1024];
    image.read_at(&mut sectors, size - (8 << 20) + 4 * 512).unwrap();
    assert!(sectors[..512] == [0; 512] && sectors[512..] == [7; 512]);
    let mut limits = Limits::default();
    limits.set("table_bytes", (4 << 20) - 1).unwrap();
    let found = OpenOptions::new().limits(limits).open(&path).unwrap_err();
    assert_eq!(found.exceeded(), Some("table_bytes"));
    assert!(fs::metadata(&path).unwrap().len() > CATALOG_AT as u64 + 4 * u64::from(entries));
}
