//! ASIF. dissect.hypervisor reads it, but ignores the states of chunks and sectors, and takes a
//! table that does not exist for one in chunk 0: images here have tables for the whole disk where
//! it is compared, and zeros in sectors that are not written.

use diskimg::inspection::Code;
use diskimg::storage::source::{FileSource, MemorySource};
use diskimg::{Error, ErrorKind, Format, Image, InspectOptions, OpenOptions, Probing, inspect};
use diskimg_testkit::asif::Asif;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CHUNK: u64 = 64 << 10;

/// Chunks of a group.
const GROUP: u64 = 2048;

/// A disk of seven chunks, the last of which is not complete.
fn sample() -> Asif {
    let image = Asif::new(6 * CHUNK + 1024).full(3, 0x13).full(0, 0x10).full(6, 0x16);
    image.partial(4, &[0, 1, 5, 127], 0x14, 0)
}

fn sample_disk() -> Disk {
    let run = |chunk: u64, byte| Run { at: chunk * CHUNK, len: CHUNK, fill: Fill::Byte(byte) };
    let sectors = |first: u64, count: u64| Run {
        at: 4 * CHUNK + first * 512,
        len: count * 512,
        fill: Fill::Byte(0x14),
    };
    let mut runs = vec![run(0, 0x10), run(3, 0x13), run(6, 0x16)];
    runs.extend([sectors(0, 2), sectors(5, 1), sectors(127, 1)]);
    Disk { size: 6 * CHUNK + 1024, runs }
}

fn write(dir: &Path, image: &Asif) -> PathBuf {
    let path = dir.join("disk.asif");
    std::fs::write(&path, image.build()).unwrap();
    path
}

fn our_bytes(path: &Path) -> Vec<u8> {
    let image = crate::verified::open(&OpenOptions::new(), path);
    let mut bytes = vec![1; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn bytes_error(bytes: Vec<u8>) -> Error {
    let source = Arc::new(MemorySource::new(bytes));
    let opened = OpenOptions::new().format(Format::Asif).open_source(source, "image");
    let read = opened.and_then(|image| {
        let mut bytes = vec![0; image.size().min(1 << 30) as usize];
        image.read_at(&mut bytes, 0)
    });
    read.unwrap_err()
}

fn error(image: &Asif) -> Error {
    bytes_error(image.build())
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

fn dissect(path: &Path, disk: &Disk) -> Verdict {
    Oracle::Dissect.compare("asif", path, disk)
}

fn assert_read_by_dissect(path: &Path, disk: &Disk) {
    let verdict = dissect(path, disk);
    assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
}

#[test]
fn full_partial_and_absent_chunks_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &sample());
    assert_read_by_dissect(&path, &sample_disk());
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    assert_eq!(findings(&path), [""; 0]);
    assert_eq!(codes(&path), []);
    let source = FileSource::open(&path).unwrap();
    assert_eq!(Format::probe(&source).unwrap(), Format::Asif);
    let image = Image::open(&path).unwrap();
    assert_eq!(image.info(0).unwrap().cluster_size, Some(CHUNK));
    let report = image.check(&mut |_| {}).unwrap().unwrap();
    assert_eq!((report.total_clusters, report.allocated_clusters), (7, 4));
    let like_qemu = OpenOptions::new().probing(Probing::LikeQemu).open(&path).unwrap();
    assert_eq!(like_qemu.format(), Format::Raw);
}

/// As diskutil creates images: chunks of 1 MiB, 63 groups of 2048 chunks in a table.
#[test]
fn chunks_of_the_usual_size_are_read_across_groups() {
    let dir = tempfile::tempdir().unwrap();
    let new = Asif { chunk_bytes: 1 << 20, ..Asif::new(5 << 30) };
    assert_eq!(new.d(), 126 << 30);
    let image = new.full(2047, 1).full(2048, 2).full(4096, 3).partial(5119, &[2047], 4, 0);
    let path = write(dir.path(), &image);
    let run = |chunk: u64, byte| Run { at: chunk << 20, len: 1 << 20, fill: Fill::Byte(byte) };
    let last = Run { at: (5 << 30) - 512, len: 512, fill: Fill::Byte(4) };
    let disk = Disk { size: 5 << 30, runs: vec![run(2047, 1), run(2048, 2), run(4096, 3), last] };
    assert_read_by_dissect(&path, &disk);
    let opened = crate::verified::open(&OpenOptions::new(), &path);
    for run in &disk.runs {
        let mut bytes = vec![0; run.len as usize + 1024];
        let at = (run.at - 512).min(disk.size - bytes.len() as u64);
        opened.read_at(&mut bytes, at).unwrap();
        let mut expected = vec![0; bytes.len()];
        disk.read_at(&mut expected, at);
        assert_eq!(bytes, expected);
    }
    assert_eq!(findings(&path), [""; 0]);
}

/// Sectors of 4096 bytes: a group has 16384 chunks.
#[test]
fn sectors_may_have_4096_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let sized = Asif { sector_bytes: 4096, chunk_bytes: 256 << 10, ..Asif::new(0) };
    let image = Asif { sectors: 300, max_sectors: 300, ..sized };
    let path = write(dir.path(), &image.partial(1, &[0, 3, 62], 0x11, 0).full(4, 0x14));
    let run = |at: u64, len: u64, byte| Run { at, len, fill: Fill::Byte(byte) };
    let chunk = 256 << 10;
    let sector = |number: u64| run(chunk + number * 4096, 4096, 0x11);
    let runs = vec![sector(0), sector(3), sector(62), run(4 * chunk, chunk, 0x14)];
    let disk = Disk { size: 300 * 4096, runs };
    assert_eq!(our_bytes(&path), disk.bytes());
    assert_read_by_dissect(&path, &disk);
}

/// dissect 3.21 returns the stale bytes: it does not read bitmaps.
#[test]
fn sectors_that_are_not_written_are_zeros_whatever_the_file_has() {
    let dir = tempfile::tempdir().unwrap();
    let image = Asif::new(6 * CHUNK + 1024).full(3, 0x13).full(0, 0x10).full(6, 0x16);
    let path = write(dir.path(), &image.partial(4, &[0, 1, 5, 127], 0x14, 0xee));
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    let verdict = dissect(&path, &sample_disk());
    assert!(matches!(verdict, Verdict::Differs(_) | Verdict::NotInstalled), "{verdict}");
}

/// dissect 3.21 reads the header as the table.
#[test]
fn a_table_that_does_not_exist_is_zeros() {
    let dir = tempfile::tempdir().unwrap();
    // A table maps three groups.
    let table = 3 * GROUP;
    let size = 3 * table * CHUNK;
    let image = Asif::new(size).full(2 * table + 1, 0x21);
    assert_eq!((image.d(), image.t()), (table * CHUNK, 3));
    let path = write(dir.path(), &image);
    let opened = crate::verified::open(&OpenOptions::new(), &path);
    let extents: Vec<_> = opened.extents(0..size).unwrap().map(Result::unwrap).collect();
    assert_eq!(extents.len(), 3, "{extents:?}");
    assert_eq!(extents[1].guest.start, (2 * table + 1) * CHUNK);
    let run = Run { at: (2 * table + 1) * CHUNK, len: CHUNK, fill: Fill::Byte(0x21) };
    let verdict = dissect(&path, &Disk { size, runs: vec![run] });
    let expected = matches!(verdict, Verdict::Differs(_) | Verdict::Refuses(_));
    assert!(expected || verdict == Verdict::NotInstalled, "{verdict}");
}

#[test]
fn the_directory_with_the_higher_sequence_number_counts() {
    let dir = tempfile::tempdir().unwrap();
    // The other directory is that of the empty disk.
    for sequences in [[1, 2], [2, 1], [u64::MAX, 0], [6, 7]] {
        let path = write(dir.path(), &Asif { sequences, ..sample() });
        assert_eq!(our_bytes(&path), sample_disk().bytes(), "{sequences:?}");
        assert_read_by_dissect(&path, &sample_disk());
    }
    let found = error(&Asif { sequences: [5, 5], ..sample() });
    assert_eq!(found.kind(), ErrorKind::Corrupt);
    assert!(found.to_string().contains("same sequence number, but differ"), "{found}");
    let empty = Asif { sequences: [5, 5], ..Asif::new(CHUNK) };
    assert_eq!(our_bytes(&write(dir.path(), &empty)), vec![0; CHUNK as usize]);
}

/// With a warning: the disk may be in an older state.
#[test]
fn a_directory_outside_the_file_leaves_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.asif");
    for at in [0, 511, 1 << 40, u64::MAX] {
        let mut file = sample().build();
        file[0x10..0x18].copy_from_slice(&u64::to_be_bytes(at));
        std::fs::write(&path, &file).unwrap();
        assert_eq!(our_bytes(&path), sample_disk().bytes());
        let opened = Image::open(&path).unwrap();
        let warning = opened.warnings().next().unwrap().to_string();
        assert!(warning.contains("older state"), "{warning}");
        assert_eq!(findings(&path).len(), 1);
        assert_eq!(codes(&path), [Code::Unreadable]);
        file[0x18..0x20].copy_from_slice(&u64::to_be_bytes(at));
        assert_eq!(bytes_error(file).kind(), ErrorKind::Corrupt);
    }
}

/// The specification knows the states 00, 01 and 11 of chunks and 00 and 01 of sectors: what others
/// mean is not guessed.
#[test]
fn unknown_states_and_bits_are_named() {
    let host = 5;
    for (image, text) in [
        (sample().entry(2, 2 << 62 | host), "has the unknown state 2"),
        (sample().entry(2, 2 << 62), "has the unknown state 2"),
        (sample().entry(2, host), "the state 0 (absent)"),
        (sample().entry(2, 1 << 62 | 1 << 55 | host), "has unknown bits"),
        (sample().entry(2, 1 << 62 | 1 << 61 | host), "has unknown bits"),
        (sample().entry(GROUP, 2 << 62 | host), "entry of a bitmap"),
        (Asif { states: [(4 * 128 + 2, 2)].into(), ..sample() }, "sector 514 has the unknown"),
        (Asif { states: [(4 * 128 + 2, 3)].into(), ..sample() }, "the unknown state 3"),
        (Asif { version: 2, ..sample() }, "version 2 of the format"),
        (Asif { segments: 1, ..sample() }, "the unknown field at 0x46 is 1"),
        (Asif { tables: [(0, 1 << 62 | 1)].into(), ..sample() }, "has unknown bits"),
    ] {
        // Entry N of a group is that of its bitmap, not of a chunk.
        let mut file = image.build();
        if text == "entry of a bitmap" {
            let at = CHUNK as usize + 8 * GROUP as usize;
            file[at..at + 8].copy_from_slice(&u64::to_be_bytes(2 << 62 | 9));
        }
        let found = bytes_error(file);
        assert_eq!(found.kind(), ErrorKind::Unsupported, "{text}: {found}");
        assert!(found.to_string().contains(text), "{text}: {found}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &Asif { flags: 1, ..sample() });
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    assert_eq!(codes(&path), [Code::UnknownFeatures]);
}

#[test]
fn entries_that_refer_to_what_is_used_already_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let full = |host: u64| 1 << 62 | host;
    for (image, text) in [
        // Chunk 0 of the file has the header, chunk 1 the table, chunk 2 chunk 3 of the disk.
        (sample().entry(2, full(0)), "refers to chunk 0, in which the header or a directory is"),
        (sample().entry(2, full(1)), "refers to chunk 1, in which a table is"),
        (sample().entry(2, full(2)), "refer to the same chunk 2"),
        (sample().entry(2, 3 << 62 | 2), "refer to the same chunk 2"),
        // Chunk 6 has the bitmap.
        (sample().entry(2, full(6)), "refer to the same chunk 6"),
        (Asif { tables: [(0, 0)].into(), ..sample() }, ""),
    ] {
        let path = write(dir.path(), &image);
        if text.is_empty() {
            assert_eq!(our_bytes(&path), vec![0; sample_disk().size as usize]);
            continue;
        }
        let found = error(&image);
        assert_eq!(found.kind(), ErrorKind::Corrupt, "{text}: {found}");
        assert!(found.to_string().contains(text), "{text}: {found}");
        assert!(found.lost().is_some());
        assert!(findings(&path).iter().any(|found| found.contains(text)), "{text}");
        assert_eq!(codes(&path), [Code::Unreadable], "{text}");
    }
}

/// Only the check compares the groups with each other; what a disk reads twice is limited
/// otherwise.
#[test]
fn a_chunk_that_two_groups_refer_to_is_found_by_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let image = Asif::new(2 * GROUP * CHUNK).full(0, 0x10).entry(GROUP, 1 << 62 | 2);
    let path = write(dir.path(), &image);
    let found = findings(&path);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("chunk 2048 is in chunk 2 of the file, as another one"), "{found:?}");
    let tables = Asif::new(6 * GROUP * CHUNK).full(0, 0x10);
    let image = Asif { tables: [(1, 1)].into(), ..tables };
    let found = error(&image);
    assert!(found.to_string().contains("several tables are in the same chunk 1"), "{found}");
}

#[test]
fn a_chunk_beyond_the_end_of_the_file_is_an_error() {
    let mut file = sample().build();
    let len = file.len();
    // The last chunk is the bitmap, before it is that of chunk 4.
    for (cut, lost) in [(1, None), (CHUNK as usize + 1, Some(4 * CHUNK..5 * CHUNK))] {
        file.truncate(len - cut);
        // Only the bitmap's part for a chunk is read.
        match lost {
            None => {
                let source = Arc::new(MemorySource::new(file.clone()));
                let opened = OpenOptions::new().open_source(source, "image").unwrap();
                let mut bytes = vec![0; opened.size() as usize];
                opened.read_at(&mut bytes, 0).unwrap();
                assert_eq!(bytes, sample_disk().bytes());
            }
            lost => assert_eq!(bytes_error(file.clone()).lost(), lost),
        }
    }
    let found = error(&sample().entry(2, (1 << 62) | ((1 << 55) - 1)));
    assert!(found.to_string().contains("beyond the end of the file"), "{found}");
    let found = error(&Asif { tables: [(0, (1 << 55) - 1)].into(), ..sample() });
    assert!(found.to_string().contains("beyond the end of the file"), "{found}");
    file.truncate(0x4f);
    assert!(bytes_error(file).to_string().contains("ASIF header"));
}

#[test]
fn a_partial_chunk_needs_a_bitmap() {
    let found = error(&Asif::new(CHUNK).full(0, 1).entry(0, 3 << 62 | 2));
    assert_eq!(found.kind(), ErrorKind::Corrupt);
    assert!(found.to_string().contains("its group has no bitmap"), "{found}");
}

#[test]
fn wrong_numbers_in_the_header_are_errors() {
    for (image, text) in [
        (Asif { chunk_bytes: 0, ..sample() }, "chunks of 0 bytes"),
        (Asif { chunk_bytes: 16_384, ..sample() }, "chunks of 16384 bytes"),
        (Asif { chunk_bytes: 65_537, ..sample() }, "chunks of 65537 bytes"),
        (Asif { chunk_bytes: 1 << 31, ..sample() }, "chunks of 2147483648 bytes"),
        (Asif { sector_bytes: 0, ..sample() }, "sectors of 0 bytes"),
        (Asif { sector_bytes: 513, ..sample() }, "sectors of 513 bytes"),
        (Asif { sector_bytes: 8192, ..sample() }, "sectors of 8192 bytes"),
        (Asif { sectors: u64::MAX, ..sample() }, "exceeds 8 EiB"),
        (Asif { max_sectors: u64::MAX, ..sample() }, "exceeds 8 EiB"),
        (Asif { max_sectors: 1, ..sample() }, "can have only 512"),
    ] {
        let mut file = sample().build();
        file[4..8].copy_from_slice(&image.version.to_be_bytes());
        file[0x30..0x38].copy_from_slice(&image.sectors.to_be_bytes());
        file[0x38..0x40].copy_from_slice(&image.max_sectors.to_be_bytes());
        file[0x40..0x44].copy_from_slice(&image.chunk_bytes.to_be_bytes());
        file[0x44..0x46].copy_from_slice(&image.sector_bytes.to_be_bytes());
        let found = bytes_error(file);
        assert_eq!(found.kind(), ErrorKind::Corrupt, "{found}");
        assert!(found.to_string().contains(text), "{text}: {found}");
    }
}

/// As in the images that macOS creates: the last table of a disk of 4 PiB is in chunk 1, and the
/// first byte that is not zero in its bitmap is at 0xffe00, which the specification states, too.
/// dissect finds the metadata by its own arithmetic.
#[test]
fn metadata_beyond_the_end_of_the_disk_do_not_belong_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let max_sectors = (4 << 50) / 512;
    let new = Asif { chunk_bytes: 1 << 20, ..Asif::new(3 << 20) };
    let image = Asif { max_sectors, ..new }.with_metadata().full(1, 0x11);
    assert_eq!(image.metadata_chunk, (1 << 32) - 1);
    let path = write(dir.path(), &image);
    let run = Run { at: 1 << 20, len: 1 << 20, fill: Fill::Byte(0x11) };
    let disk = Disk { size: 3 << 20, runs: vec![run] };
    assert_read_by_dissect(&path, &disk);
    assert_eq!(our_bytes(&path), disk.bytes());
    assert_eq!(findings(&path), [""; 0]);
    // Chunks 1 and 2 are the tables, 3 has the metadata, 4 their bitmap.
    let file = std::fs::read(&path).unwrap();
    let bitmap = &file[4 << 20..5 << 20];
    assert_eq!(bitmap.iter().position(|&byte| byte != 0), Some(0xf_fe00));
    assert_eq!(bitmap[0xf_fe00], 0x05);
    // The check examines them nevertheless.
    let image = image.entry((1 << 32) - 2, 1 << 62 | 5);
    let found = findings(&write(dir.path(), &image));
    assert!(found[0].contains("in chunk 5 of the file, as another one"), "{found:?}");
}

/// diskutil lets every disk grow to 4 PiB: 33288 tables, of which the disk needs few.
#[test]
fn a_directory_for_4_pib_is_read_and_limited() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.asif");
    let max_sectors = (4 << 50) / 512;
    let new = Asif { chunk_bytes: 1 << 20, ..Asif::new(1 << 30) };
    let image = Asif { max_sectors, ..new }.full(1023, 0x11);
    std::fs::write(&path, image.build()).unwrap();
    let opened = crate::verified::open(&OpenOptions::new(), &path);
    let mut byte = [0];
    opened.read_at(&mut byte, (1 << 30) - 1).unwrap();
    assert_eq!(byte, [0x11]);
    let mut limits = diskimg::Limits::default();
    limits.table_bytes = 200 << 10;
    let found = OpenOptions::new().limits(limits).open(&path).unwrap_err();
    assert_eq!(found.exceeded(), Some("table_bytes"));
    let mut limits = diskimg::Limits::default();
    limits.check_bytes = 7;
    let opened = OpenOptions::new().limits(limits).open(&path).unwrap();
    let report = opened.check(&mut |_| {}).unwrap().unwrap();
    assert_eq!(report.check_errors, 1);
}
