//! Sparse images. libmodi reads those whose bands all fit into the table of the header.

use diskimg::inspection::Code;
use diskimg::storage::source::{FileSource, MemorySource};
use diskimg::{Error, ErrorKind, Format, Image, InspectOptions, OpenOptions, Probing, inspect};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::sparseimage::{DATA_AT, HEADER_SLOTS, NODE_SLOTS, SparseImage};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Sectors of a band: as few as tests like.
const SECTORS: u32 = 8;

const BAND: u64 = 8 * 512;

/// A disk of six bands, the last of which is not complete: four are stored, not in their order.
fn sample() -> SparseImage {
    SparseImage::new(5 * BAND + 1024, SECTORS).band(3, 0x13).unused().band(0, 0x10).band(5, 0x15)
}

fn sample_disk() -> Disk {
    let run = |band: u64, byte| Run { at: band * BAND, len: BAND, fill: Fill::Byte(byte) };
    Disk { size: 5 * BAND + 1024, runs: vec![run(0, 0x10), run(3, 0x13), run(5, 0x15)] }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn our_bytes(path: &Path) -> Vec<u8> {
    let image = crate::verified::open(&OpenOptions::new(), path);
    let mut bytes = vec![1; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// The error for opening these bytes, or for reading the whole disk in them.
fn error(bytes: Vec<u8>) -> Error {
    let source = Arc::new(MemorySource::new(bytes));
    let opened = OpenOptions::new().format(Format::Sparseimage).open_source(source, "image");
    let read = opened.and_then(|image| {
        let mut bytes = vec![0; image.size().min(1 << 30) as usize];
        image.read_at(&mut bytes, 0)
    });
    read.unwrap_err()
}

fn findings(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    Image::open(path).unwrap().check(&mut |finding| found.push(finding.message)).unwrap();
    found
}

fn codes(path: &Path) -> Vec<Code> {
    let found = inspect(path, &InspectOptions::new()).unwrap();
    found.findings.iter().map(|finding| finding.code).collect()
}

fn libmodi(path: &Path, disk: &Disk) -> Verdict {
    Oracle::Libyal.compare("sparseimage", path, disk)
}

fn assert_read_by_libmodi(path: &Path, disk: &Disk) {
    let verdict = libmodi(path, disk);
    assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
}

#[test]
fn bands_are_in_the_order_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.sparseimage", &sample().build());
    assert_read_by_libmodi(&path, &sample_disk());
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    assert_eq!(findings(&path), [""; 0]);
    assert_eq!(codes(&path), []);
    let source = FileSource::open(&path).unwrap();
    assert_eq!(Format::probe(&source).unwrap(), Format::Sparseimage);
    let image = Image::open(&path).unwrap();
    assert_eq!(image.info(0).unwrap().cluster_size, Some(BAND));
    let report = image.check(&mut |_| {}).unwrap().unwrap();
    assert_eq!((report.total_clusters, report.allocated_clusters), (6, 3));
    // QEMU does not know the format.
    let like_qemu = OpenOptions::new().probing(Probing::LikeQemu).open(&path).unwrap();
    assert_eq!(like_qemu.format(), Format::Raw);
}

#[test]
fn bands_of_any_number_of_sectors_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for (sectors, size) in
        [(1, 1536_u64), (3, 512 * 7), (7, 7 * 512), (2048, (3 << 20) + 512), (9, 0)]
    {
        let band = u64::from(sectors) * 512;
        let count = size.div_ceil(band) as u32;
        let (mut image, mut runs) = (SparseImage::new(size, sectors), Vec::new());
        for index in (0..count).rev().step_by(2) {
            let byte = 0x10 + index as u8;
            image = image.band(index, byte);
            runs.push(Run { at: u64::from(index) * band, len: band, fill: Fill::Byte(byte) });
        }
        let disk = Disk { size, runs };
        let path = write(dir.path(), "disk.sparseimage", &image.build());
        assert_eq!(our_bytes(&path), disk.bytes(), "{sectors}");
        // libmodi refuses an empty disk.
        if size > 0 {
            assert_read_by_libmodi(&path, &disk);
        }
    }
}

/// libmodi requires an entry of the header's table for each band of the disk, whether stored or
/// not. Images of macOS are larger than that by default.
#[test]
fn a_disk_may_have_more_bands_than_the_header_has_slots() {
    let dir = tempfile::tempdir().unwrap();
    let size = 100_000 * BAND;
    let image = SparseImage::new(size, SECTORS).band(99_999, 0x11).band(0, 0x22);
    let path = write(dir.path(), "disk.sparseimage", &image.build());
    let run = |band: u64, byte| Run { at: band * BAND, len: BAND, fill: Fill::Byte(byte) };
    let disk = Disk { size, runs: vec![run(0, 0x22), run(99_999, 0x11)] };
    assert_eq!(our_bytes(&path), disk.bytes());
    let verdict = libmodi(&path, &disk);
    assert!(matches!(verdict, Verdict::Refuses(_) | Verdict::NotInstalled), "{verdict}");
}

/// No installed reader supports index nodes. The builder is written after the structures of
/// mac_apt, which apfs-fuse shares.
#[test]
fn index_nodes_continue_the_table_of_the_header() {
    let dir = tempfile::tempdir().unwrap();
    for count in [HEADER_SLOTS, HEADER_SLOTS + 1, HEADER_SLOTS + NODE_SLOTS + 7] {
        let mut image = SparseImage::new(count as u64 * 512, 1);
        for index in (0..count as u32).rev() {
            image = image.band_of(index, index.to_le_bytes().repeat(128));
        }
        let file = image.build();
        assert_eq!(file.len(), image.slot_at(count - 1) + 512);
        let path = write(dir.path(), "disk.sparseimage", &file);
        let bytes = our_bytes(&path);
        for (index, band) in bytes.chunks(512).enumerate() {
            assert_eq!(band[..4], (index as u32).to_le_bytes(), "{count}");
        }
        assert_eq!(findings(&path), [""; 0]);
        let expected = if count > HEADER_SLOTS { vec![Code::Subformat] } else { vec![] };
        assert_eq!(codes(&path), expected);
    }
}

/// The size has 64 bits in one field and its lower half in another; libmodi reads the latter.
#[test]
fn the_size_of_a_disk_of_2_tib_and_more_is_not_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let sectors = (1_u64 << 32) + 2048;
    let image = SparseImage { sectors, ..SparseImage::new(0, 16 << 20) };
    let path = write(dir.path(), "disk.sparseimage", &image.build());
    assert_eq!(Image::open(&path).unwrap().size(), sectors * 512);
    let disk = Disk { size: 2048 * 512, runs: vec![] };
    let verdict = libmodi(&path, &disk);
    assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
    // A program that knows the shorter field only.
    let mut old = sample().build();
    old[28..36].fill(0);
    let path = write(dir.path(), "old.sparseimage", &old);
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    let other = SparseImage { sectors_low: Some(7), ..sample() };
    let found = error(other.build());
    assert_eq!(found.kind(), ErrorKind::Corrupt);
    assert!(found.to_string().contains("by the field at 28, but the one at 16 is 7"), "{found}");
}

/// libmodi reads the slot that is last in the table.
#[test]
fn slots_that_hold_the_same_band_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample().band(3, 0x99);
    let path = write(dir.path(), "disk.sparseimage", &image.build());
    let found = error(image.build());
    assert_eq!((found.kind(), found.lost()), (ErrorKind::Corrupt, Some(3 * BAND..4 * BAND)));
    assert!(found.to_string().contains("0x1000 and 0x5000 hold the same band 3"), "{found}");
    assert_eq!(findings(&path).len(), 2, "{:?}", findings(&path));
    assert_eq!(codes(&path), [Code::Unreadable]);
    // The other bands are read.
    let mut bytes = vec![0; BAND as usize];
    Image::open(&path).unwrap().read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, vec![0x10; BAND as usize]);
}

#[test]
fn a_band_beyond_the_end_of_the_disk_is_a_leak() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample().band(6, 0x99).band(u32::MAX - 1, 0x98);
    let path = write(dir.path(), "disk.sparseimage", &image.build());
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    let found = findings(&path);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("holds band 6, but the disk has only 6 bands"), "{found:?}");
    let report = Image::open(&path).unwrap().check(&mut |_| {}).unwrap().unwrap();
    assert_eq!((report.leaks, report.corruptions), (2, 0));
    assert_eq!(codes(&path), []);
}

#[test]
fn a_truncated_file_is_an_error_where_bytes_of_the_disk_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = sample().build();
    // The disk ends within the band that is last in the file.
    file.truncate(file.len() - (BAND as usize - 1024));
    let path = write(dir.path(), "disk.sparseimage", &file);
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    file.pop();
    let found = error(file.clone());
    assert_eq!(found.lost(), Some(5 * BAND..5 * BAND + 1024));
    assert!(found.to_string().contains("band 5 extends to"), "{found}");
    let path = write(dir.path(), "cut.sparseimage", &file);
    assert!(findings(&path)[0].contains("beyond the end of the file"));
    file.truncate(DATA_AT - 1);
    let found = error(file);
    assert!(found.to_string().contains("extend beyond the end of the file"), "{found}");
}

#[test]
fn damage_is_an_error_that_says_what_and_where() {
    let set = |at: usize, bytes: &[u8]| {
        let mut file = sample().build();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let huge = SparseImage { sectors: 1 << 54, ..sample() };
    let far = SparseImage { sectors: u64::MAX, ..sample() };
    for (file, kind, text) in [
        (set(0, b"sprt"), ErrorKind::Corrupt, "signature"),
        (set(4, &[0, 0, 0, 2]), ErrorKind::Unsupported, "version 2"),
        (set(8, &[0; 4]), ErrorKind::Corrupt, "bands of 0 sectors"),
        (set(8, &[0xff; 4]), ErrorKind::Corrupt, "bands of 4294967295 sectors"),
        (set(20, &[0, 0, 0, 0, 0, 0, 0x10, 0]), ErrorKind::Corrupt, "index node is at 0x1000"),
        (set(20, &[0xff; 8]), ErrorKind::Corrupt, "index node is at 0xffffffffffffffff"),
        (huge.build(), ErrorKind::Corrupt, "exceeds 8 EiB"),
        (far.build(), ErrorKind::Corrupt, "exceeds 8 EiB"),
        (Vec::new(), ErrorKind::Corrupt, "beyond the end of the file"),
    ] {
        let found = error(file);
        assert_eq!(found.kind(), kind, "{found}");
        assert!(found.to_string().contains(text), "{text}: {found}");
    }
    // An index node where it must be, without its signature.
    let mut image = SparseImage::new(2000 * 512, 1);
    image = (0..1009).fold(image, |image, index| image.band(index, 1));
    let mut file = image.build();
    let node = image.slot_at(HEADER_SLOTS) - 4096;
    assert_eq!(&file[node..node + 4], b"sprs");
    file[node] = 0;
    assert!(error(file).to_string().contains("sparse image index node"));
}

#[test]
fn unknown_flags_are_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let image = SparseImage { flags: 5, ..sample() };
    let path = write(dir.path(), "disk.sparseimage", &image.build());
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    let warnings: Vec<_> = Image::open(&path).unwrap().warnings().map(|w| w.to_string()).collect();
    assert!(warnings[0].contains("unknown flags (0x5)"), "{warnings:?}");
    assert_eq!(findings(&path).len(), 1);
    assert_eq!(codes(&path), [Code::UnknownFeatures]);
}

/// A few kilobytes that claim exabytes: mapping, checking and converting take no time.
#[test]
fn an_exabyte_is_mapped_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let image = SparseImage { sectors: 1 << 53, ..SparseImage::new(0, 1) }.band(7, 0x11);
    let path = write(dir.path(), "disk.sparseimage", &image.build());
    let opened = Image::open(&path).unwrap();
    let extents: Vec<_> = opened.extents(0..opened.size()).unwrap().map(Result::unwrap).collect();
    assert_eq!(extents.len(), 3, "{extents:?}");
    assert_eq!(extents[1].guest, 7 * 512..8 * 512);
    assert_eq!(findings(&path), [""; 0]);
}

#[test]
fn the_list_of_bands_is_limited() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.sparseimage", &sample().build());
    let mut limits = diskimg::Limits::default();
    limits.table_bytes = 47;
    let found = OpenOptions::new().limits(limits.clone()).open(&path).unwrap_err();
    assert_eq!(found.exceeded(), Some("table_bytes"));
    limits.table_bytes = 48;
    OpenOptions::new().limits(limits).open(&path).unwrap();
}
