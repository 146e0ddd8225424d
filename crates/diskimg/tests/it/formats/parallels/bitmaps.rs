//! The dirty bitmaps of the format extension, compared with what QEMU reads.

use super::{write, write_bytes};
use diskimg::{Convert, ErrorKind, Format, Image};
use diskimg_testkit::parallels::{Feature, IN_USE, Parallels};
use diskimg_testkit::tool::run;
use std::ops::Range;
use std::path::Path;

const ID: [u8; 16] = *b"an ID of a backu";
const NAME: &str = "616e2049-4420-6f66-2061-206261636b75";

/// Sectors of a disk with three clusters of bits of a sector each, of which the last is not full.
const SECTORS: u64 = 3 * 4096 * 8 - 77;

/// An image with a bitmap: bits that are clear, all bits set, and those of `bits`.
fn image(bits: &[u8]) -> Parallels {
    let mut image = Parallels::new(SECTORS).cluster(1, 9);
    let l1 = [0, 1, image.bits_at(0) as u64 / 512];
    image.features = Some(vec![Feature::bitmap_with_table(SECTORS, 1, ID, &l1)]);
    let mut cluster = bits.to_vec();
    cluster.resize(image.cluster_bytes(), 0);
    image.bits = vec![cluster];
    image
}

fn sample() -> Parallels {
    let mut bits = vec![0; 4096];
    bits[0] = 0b1000_0001;
    bits[1] = 1;
    bits[64..72].fill(0xff);
    // The last sectors of the disk, and bits beyond its end.
    bits[4080..].fill(0xff);
    image(&bits)
}

fn dirty(image: &Image, name: &str) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let bitmap = image.dirty_bitmap(name).unwrap();
    bitmap.for_each_dirty(0..image.size(), |range| found.push(range)).unwrap();
    found
}

/// What QEMU reads of a bitmap: it merges it into one of a qcow2 image.
fn qemu_dirty(path: &Path, name: &str, granularity: &str) -> Vec<Range<u64>> {
    let dir = tempfile::tempdir().unwrap();
    let merged = dir.path().join("merged.qcow2");
    let (source, merged) = (path.to_str().unwrap(), merged.to_str().unwrap());
    let size = Image::open(path).unwrap().size().to_string();
    run("qemu-img", ["create", "-q", "-f", "qcow2", merged, &size]);
    run("qemu-img", ["bitmap", "--add", "-g", granularity, merged, "a"]);
    let merge = ["bitmap", "--merge", name, "-b", source, "-F", "parallels", merged, "a"];
    run("qemu-img", merge);
    dirty(&Image::open(merged).unwrap(), "a")
}

#[test]
fn bits_are_read_as_by_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.hds", &sample());
    let image = Image::open(&path).unwrap();
    let info = image.dirty_bitmaps().unwrap().unwrap();
    assert_eq!((info[0].name.as_str(), info[0].granularity), (NAME, 512));
    assert!(!info[0].inconsistent);
    let (cluster, found) = (4096 * 8 * 512, dirty(&image, NAME));
    assert_eq!(found[0], cluster..2 * cluster + 512);
    assert_eq!(found[1], 2 * cluster + 7 * 512..2 * cluster + 9 * 512);
    assert_eq!(found.last().unwrap().end, image.size());
    assert_eq!(found, qemu_dirty(&path, NAME, "512"));
}

#[test]
fn bitmaps_are_converted_to_qcow2() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.hds", &sample());
    let target = dir.path().join("disk.qcow2");
    let convert = Convert::new(Image::open(&path).unwrap()).format(Format::Qcow2);
    convert.bitmaps(true).run(&target).unwrap();
    let (source, copied) = (Image::open(&path).unwrap(), Image::open(&target).unwrap());
    assert_eq!(dirty(&source, NAME), dirty(&copied, NAME));
    run("qemu-img", ["check", "-q", target.to_str().unwrap()]);
    // Without an extension there are none.
    let path = write(dir.path(), "empty.hds", &Parallels::new(33));
    assert_eq!(Image::open(&path).unwrap().dirty_bitmaps().unwrap(), Some(Vec::new()));
}

/// What was written after such an image was opened is not in the bitmap.
#[test]
fn bitmaps_of_an_image_that_was_not_closed_by_a_program_that_knows_them_are_inconsistent() {
    let dir = tempfile::tempdir().unwrap();
    for in_use in [0, IN_USE] {
        let path = write(dir.path(), "disk.hds", &Parallels { in_use, ..sample() });
        let image = Image::open(&path).unwrap();
        assert!(image.dirty_bitmaps().unwrap().unwrap()[0].inconsistent);
        assert_eq!(image.dirty_bitmap(NAME).unwrap_err().kind(), ErrorKind::Unsupported);
        let info = serde_json::to_value(image.info(0).unwrap()).unwrap();
        assert_eq!(info["format-specific"]["data"]["bitmaps"][0]["flags"][0], "in-use");
    }
    // QEMU, which does not maintain bitmaps, overwrites the extension or cuts it off.
    let path = write(dir.path(), "disk.hds", &sample());
    run("qemu-io", ["-f", "parallels", "-c", "write 4k 4k", path.to_str().unwrap()]);
    let error = Image::open(&path).unwrap().dirty_bitmaps().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    run("qemu-io", ["-f", "parallels", "-c", "write 8M 4k", path.to_str().unwrap()]);
    let error = Image::open(&path).unwrap().dirty_bitmaps().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn damaged_bitmaps_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let sample = sample();
    let at = sample.bits_at(0) as u64 / 512;
    let with = |sectors, granularity, l1: &[u64]| {
        let mut image = sample.clone();
        image.features = Some(vec![Feature::bitmap_with_table(sectors, granularity, ID, l1)]);
        image
    };
    for (image, message) in [
        (with(SECTORS - 1, 1, &[0, 1, at]), "sectors, unlike the disk"),
        (with(SECTORS, 3, &[0, 1, at]), "3 sectors for each bit"),
        (with(SECTORS, 1, &[0, 1]), "2 L1 entries"),
        (with(SECTORS, 1, &[0, at, at]), "two entries refer to the same cluster"),
        (with(SECTORS, 1, &[0, 1, 1 << 40]), "beyond the end of the file"),
    ] {
        let path = write(dir.path(), "disk.hds", &image);
        let error = Image::open(&path).unwrap().dirty_bitmap(NAME).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(message), "{error}");
    }
    let mut file = sample.build();
    let extension = sample.bits_at(0) - 1;
    file[extension] ^= 1;
    let path = write_bytes(dir.path(), "disk.hds", &file);
    let error = Image::open(&path).unwrap().dirty_bitmap(NAME).unwrap_err();
    assert!(error.to_string().contains("digest"), "{error}");
}
