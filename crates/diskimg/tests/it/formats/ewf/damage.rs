//! Damaged and hostile images.

use super::{error, findings, our_bytes, sample, write_bytes};
use diskimg::check::Code;
use diskimg::info::Value;
use diskimg::{Check, Convert, ErrorKind, Image, Limits, OpenOptions};
use diskimg_testkit::ewf::{
    Chunks, DESCRIPTOR, Ewf, Segment, descriptor, find_section, patch, raw_descriptor, zlib,
};
use std::fs;
use std::path::{Path, PathBuf};

/// An image with tables of four chunks of 1 KiB.
fn small(bytes: Vec<u8>) -> Ewf {
    Ewf { chunk_sectors: 2, table_chunks: 4, ..Ewf::new(bytes) }
}

fn write(dir: &Path, file: &[u8]) -> PathBuf {
    write_bytes(dir, "disk.E01", file)
}

#[test]
fn each_invalid_field_is_an_error_that_names_the_structure() {
    let dir = tempfile::tempdir().unwrap();
    let file = small(sample(9 * 1024)).build_one();
    let at = |name| find_section(&file, name, 0) + DESCRIPTOR;
    let (volume, table) = (at("volume"), at("table"));
    let whole_volume = volume..volume + 1048;
    let with = |at: usize, value: u32, covered: std::ops::Range<usize>| {
        let mut file = file.clone();
        patch(&mut file, at, value, covered);
        file
    };
    for (damaged, kind, text) in [
        (with(volume + 8, 0, whole_volume.clone()), ErrorKind::Corrupt, "chunks without sectors"),
        (with(volume + 12, 0, whole_volume.clone()), ErrorKind::Corrupt, "chunks without sectors"),
        (
            with(volume + 8, 1 << 22, whole_volume.clone()),
            ErrorKind::Corrupt,
            "chunks of 2147483648",
        ),
        (with(volume + 8, 1 << 18, whole_volume.clone()), ErrorKind::Limit, "unit_bytes"),
        (with(volume + 20, u32::MAX, whole_volume.clone()), ErrorKind::Corrupt, "more than 8 EiB"),
        (with(table, 5, table..table + 20), ErrorKind::Corrupt, "EWF chunk table"),
        (with(table, u32::MAX, table..table + 20), ErrorKind::Corrupt, "EWF chunk table"),
        // A base beyond the file.
        (with(table + 12, 1, table..table + 20), ErrorKind::Corrupt, "chunk 0 is not within"),
    ] {
        // The copy is valid, so it must not be there.
        let mut damaged = damaged;
        let copy = find_section(&file, "table2", 0);
        damaged.splice(copy..copy + DESCRIPTOR, {
            let next = u64::from_le_bytes(file[copy + 16..copy + 24].try_into().unwrap());
            raw_descriptor("unknown", next, next - copy as u64)
        });
        let found = error(&write(dir.path(), &damaged));
        assert_eq!(found.kind(), kind, "{found}");
        assert!(found.to_string().contains(text), "{text}: {found}");
    }
    let without = |name: &str, by: &str| {
        let at = find_section(&file, name, 0);
        let mut file = file.clone();
        let size = u64::from_le_bytes(file[at + 24..at + 32].try_into().unwrap()) as usize;
        file.splice(at..at + DESCRIPTOR, descriptor(by, at, size - DESCRIPTOR));
        file
    };
    let found = error(&write(dir.path(), &without("volume", "other")));
    assert!(found.to_string().contains("before the volume section"), "{found}");
    let mut segment = Segment::new(1);
    segment.section("done", &[]);
    let found = error(&write(dir.path(), &segment.0));
    assert!(found.to_string().contains("EWF volume section"), "{found}");
    for (number, text) in [(0u16, "segment number 0"), (2, "it is segment 2")] {
        let mut file = file.clone();
        file[9..11].copy_from_slice(&number.to_le_bytes());
        let found = error(&write(dir.path(), &file));
        assert!(found.to_string().contains(text), "{found}");
    }
}

/// A file in which the size of a section and the offset of the next one differ has two images:
/// programs follow one or the other (Metz, "Dual image").
#[test]
fn sections_that_programs_follow_in_different_ways_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = small(sample(9 * 1024)).build_one();
    let at = find_section(&file, "volume", 0);
    let next = at as u64 + 76 + 1052;
    let with = |next: u64, size: u64| {
        let mut file = file.clone();
        file.splice(at..at + DESCRIPTOR, raw_descriptor("volume", next, size));
        write(dir.path(), &file)
    };
    assert_eq!(our_bytes(&with(next, next - at as u64)).len(), 9 * 1024);
    // Expert Witness 1.35 does not record the size.
    assert_eq!(our_bytes(&with(next, 0)).len(), 9 * 1024);
    for (next, size, text) in [
        (next, 1000, "programs read different images"),
        (next, u64::MAX, "programs read different images"),
        (at as u64, 0, "the next section is said to be at"),
        (0, 0, "the next section is said to be at"),
        (u64::MAX, 0, "beyond the end of the file"),
    ] {
        let found = error(&with(next, size));
        assert_eq!(found.kind(), ErrorKind::Corrupt);
        assert!(found.to_string().contains(text), "{found}");
    }
}

#[test]
fn a_damaged_table_is_replaced_by_its_copy() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(9 * 1024);
    let file = small(bytes.clone()).build_one();
    let at = |name, nth| find_section(&file, name, nth) + DESCRIPTOR;
    // The number of entries, an entry, the checksum of the entries.
    for offset in [0, 24, 24 + 4 * 4] {
        let mut damaged = file.clone();
        damaged[at("table", 1) + offset] ^= 1;
        let path = write(dir.path(), &damaged);
        assert!(our_bytes(&path) == bytes, "{offset}");
        let messages = match offset {
            0 => Image::open(&path).unwrap().warnings().collect(),
            _ => findings(&path),
        };
        assert!(messages[0].contains("copy"), "{messages:?}");
        damaged[at("table2", 1) + offset] ^= 1;
        let path = write(dir.path(), &damaged);
        let found = error(&path);
        assert_eq!(found.kind(), ErrorKind::Corrupt);
        assert!(found.to_string().contains("EWF chunk table"), "{found}");
        if offset > 0 {
            assert!(findings(&path)[0].contains("the table of chunks 4 to 8"));
        }
        // Only the copy.
        let mut damaged = file.clone();
        damaged[at("table2", 1) + offset] ^= 1;
        let path = write(dir.path(), &damaged);
        assert!(our_bytes(&path) == bytes);
        let warnings = Image::open(&path).unwrap().warnings().count();
        assert_eq!(warnings + findings(&path).len(), 1);
    }
}

/// As a copy that is the only table of its chunks.
#[test]
fn a_copy_without_its_table_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(9 * 1024);
    let mut file = small(bytes.clone()).build_one();
    let at = find_section(&file, "table", 0);
    let size = u64::from_le_bytes(file[at + 24..at + 32].try_into().unwrap()) as usize;
    file.splice(at..at + DESCRIPTOR, descriptor("other", at, size - DESCRIPTOR));
    assert!(our_bytes(&write(dir.path(), &file)) == bytes);
}

#[test]
fn the_checksum_of_each_chunk_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(9 * 1024);
    for chunks in [Chunks::Stored, Chunks::Compressed] {
        let image = Ewf { chunks, ..small(bytes.clone()) };
        let file = image.build_one();
        let start = find_section(&file, "sectors", 0) + DESCRIPTOR;
        let end = find_section(&file, "table", 0);
        for at in [start + 1, end - 1] {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            let path = write(dir.path(), &damaged);
            let found = error(&path);
            assert_eq!(found.kind(), ErrorKind::Corrupt, "{found}");
            assert!(found.to_string().contains("cannot decompress"), "{found}");
            // The other chunks are not lost.
            let out = dir.path().join("out.raw");
            let convert = Convert::new(Image::open(&path).unwrap()).salvage(true);
            let report = convert.run(&out).unwrap();
            assert_eq!(report.salvaged_bytes, 1024);
        }
    }
}

#[test]
fn a_truncated_image_is_an_error_and_its_chunks_can_be_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(9 * 1024);
    let file = small(bytes.clone()).build_one();
    let second = find_section(&file, "sectors", 1);
    let cuts = [8, 12, 50, 89, 200, second, second + 80, file.len() - 76, file.len() - 1];
    for len in cuts {
        let path = write(dir.path(), &file[..len]);
        let found = error(&path);
        assert_eq!(found.kind(), ErrorKind::Corrupt, "{len}: {found}");
        let expected = ["truncated", "beyond the end", "without a section"];
        let text = found.to_string();
        assert!(expected.iter().any(|expected| text.contains(expected)), "{len}: {found}");
    }
    let path = write(dir.path(), &file[..second + 80]);
    let image = OpenOptions::new().salvage(true).open(&path).unwrap();
    let out = dir.path().join("out.raw");
    let report = Convert::new(image).salvage(true).run(&out).unwrap();
    assert_eq!(report.salvaged_bytes, 5 * 1024);
    assert!(fs::read(&out).unwrap()[..4096] == bytes[..4096]);
}

#[test]
fn chunks_that_no_table_has_are_errors_and_not_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let image =
        Ewf { sectors: Some(1 << 40), chunk_count: Some(1 << 31), ..small(sample(9 * 1024)) };
    let path = write(dir.path(), &image.build_one());
    let image = Image::open(&path).unwrap();
    assert_eq!(image.size(), 1 << 49);
    let mut buf = [0; 1024];
    image.read_at(&mut buf, 8 * 1024).unwrap();
    let found = image.read_at(&mut buf, 9 * 1024).unwrap_err();
    assert_eq!(found.kind(), ErrorKind::Corrupt);
    assert!(found.to_string().contains("but the tables have only 9"), "{found}");
    assert!(findings(&path)[0].contains("but the tables have only 9"));
}

/// Otherwise a small file would have a disk of any size.
#[test]
fn tables_that_refer_to_the_same_chunks_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = Ewf { chunks: Chunks::Stored, ..Ewf::new(Vec::new()) };
    let tables = 300;
    let mut segment = Segment::new(1);
    let volume =
        Ewf { sectors: Some(64 * tables), chunk_count: Some(tables as u32), ..image.clone() };
    segment.section("volume", &volume.volume());
    let at = (segment.0.len() + DESCRIPTOR) as u64;
    segment.section("sectors", &diskimg_testkit::ewf::with_checksum(sample(32768)));
    for _ in 0..tables {
        segment.section("table", &image.table(&[(false, at)]));
    }
    segment.section("done", &[]);
    let path = write(dir.path(), &segment.0);
    let found = Convert::new(Image::open(&path).unwrap()).run(dir.path().join("out")).unwrap_err();
    assert_eq!(found.exceeded(), Some("data_sharing"), "{found}");
}

#[test]
fn entries_that_descend_or_leave_their_section_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let image = Ewf { table2: false, chunks: Chunks::Stored, ..small(sample(9 * 1024)) };
    let file = image.build_one();
    let table = find_section(&file, "table", 0) + DESCRIPTOR;
    let entries = table + 24..table + 24 + 16;
    for (index, value) in [(1, 0), (1, 1 << 30), (3, u32::MAX), (0, 13), (2, 1 << 31)] {
        let mut damaged = file.clone();
        patch(&mut damaged, entries.start + 4 * index, value, entries.clone());
        let path = write(dir.path(), &damaged);
        let found = error(&path);
        assert_eq!(found.kind(), ErrorKind::Corrupt, "{found}");
        assert!(found.to_string().contains("is not within the section of its chunks"), "{found}");
        let found = findings(&path);
        assert!(!found.is_empty() && found.len() <= 2, "{found:?}");
    }
}

#[test]
fn large_chunks_are_subject_to_the_limit_of_units() {
    let dir = tempfile::tempdir().unwrap();
    // The largest that EnCase writes.
    let bytes = sample(20 << 20);
    let image = Ewf { chunk_sectors: 32768, ..Ewf::new(bytes.clone()) };
    let path = write(dir.path(), &image.build_one());
    assert!(our_bytes(&path) == bytes);
    let mut limits = Limits::default();
    limits.set("unit_bytes", (16 << 20) - 1).unwrap();
    let found = OpenOptions::new().limits(limits).open(&path).unwrap_err();
    assert_eq!(found.exceeded(), Some("unit_bytes"));
}

#[test]
fn digests_that_contradict_each_other_are_a_finding() {
    let dir = tempfile::tempdir().unwrap();
    let image =
        Ewf { md5: Some([1; 16]), digest: Some(([2; 16], [3; 20])), ..small(sample(9 * 1024)) };
    let found = findings(&write(dir.path(), &image.build_one()));
    assert!(found.iter().any(|finding| finding.contains("contradict each other")), "{found:?}");
}

/// The checksums of the chunks are those of the changed bytes.
#[test]
fn a_disk_that_differs_from_its_digests_is_a_finding() {
    let dir = tempfile::tempdir().unwrap();
    let image =
        Ewf { digest: Some(([2; 16], [3; 20])), segment_tables: 1, ..small(sample(9 * 1024)) };
    let path = super::write(dir.path(), "disk", &image.build());
    let mut found = Vec::new();
    let image = Image::open(&path).unwrap();
    let report = Check::new(&image).run(&mut |finding| found.push(finding)).unwrap().unwrap();
    assert_eq!((report.corruptions, report.recorded_digests), (2, Some(2)));
    assert!(found.iter().all(|finding| finding.code == Code::DigestMismatch), "{found:?}");
    let message = &found[0].message;
    assert!(message.contains("EWF digest section of segment 3: the MD5 of"), "{message}");
}

/// Each may decompress to a megabyte.
#[test]
fn only_the_first_header_of_each_kind_is_decompressed() {
    let dir = tempfile::tempdir().unwrap();
    let text = |number: &str| format!("1\nmain\nc\n{number}\n");
    let header = |number| ("header", zlib(text(number).as_bytes()));
    let opened = |first_sections, header2: Option<String>| {
        let image = Ewf { first_sections, header2, ..small(sample(9 * 1024)) };
        let image = Image::open(write(dir.path(), &image.build_one())).unwrap();
        let specific = image.layers().next().unwrap().details().specific;
        let number = specific.into_iter().find(|(name, _)| *name == "case-number");
        (number.map(|(_, value)| value), image.warnings().count())
    };
    let value = |number: &str| Some(Value::from(number));
    assert_eq!(opened(vec![header(""), header("7")], None), (None, 0));
    assert_eq!(opened(vec![header("7"), header("8")], None), (value("7"), 0));
    // A second kind is read, whatever the first one has, and its values have precedence.
    assert_eq!(opened(vec![header(""), header("7")], Some(text("9"))), (value("9"), 0));
    assert_eq!(opened(vec![header("7")], Some(text("9"))), (value("9"), 0));
    assert_eq!(opened(vec![header("7")], Some(text(""))), (value("7"), 0));
    let damaged = vec![("header", b"not zlib".to_vec()); 100];
    assert_eq!(opened(damaged.clone(), Some(text("9"))), (value("9"), 1));
    assert_eq!(opened(damaged, None), (None, 1));
    // Lines of very many values.
    let tabs = "\t".repeat(500_000);
    let long = format!("1\nmain\n{tabs}c\tc\n{tabs}7\t8\n");
    assert_eq!(opened(vec![("header", zlib(long.as_bytes()))], None), (value("7"), 0));
}

#[test]
fn warnings_about_damaged_sections_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(9 * 1024);
    for (name, count, last) in [
        ("hash", 16, "EWF digest section"),
        ("hash", 216, "damaged sections: 200 more"),
        ("digest", 17, "damaged sections: 1 more"),
        ("error2", 1000, "damaged sections: 984 more"),
        ("incomplete", 1000, "the acquisition was not finished"),
    ] {
        let first_sections = vec![(name, Vec::new()); count];
        let image = Ewf { first_sections, ..small(bytes.clone()) };
        let path = write(dir.path(), &image.build_one());
        let warnings: Vec<_> = Image::open(&path).unwrap().warnings().collect();
        let expected = if name == "incomplete" { 1 } else { count.min(17) };
        assert_eq!(warnings.len(), expected, "{name} {count}: {warnings:?}");
        assert!(warnings[expected - 1].contains(last), "{name} {count}: {warnings:?}");
        assert!(our_bytes(&path) == bytes);
    }
}
