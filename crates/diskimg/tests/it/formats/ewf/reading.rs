//! Images that the installed tools do not write.

use super::{error, findings, our_bytes, sample, write, write_bytes};
use diskimg::info::Value;
use diskimg::inspection::Code;
use diskimg::{Convert, ErrorKind, Format, Image, InspectOptions, OpenOptions, Probing, inspect};
use diskimg_testkit::disk::{Disk, Fill, Run, noise};
use diskimg_testkit::ewf::{Chunks, Ewf, Program, adler32, find_section};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::run;
use std::path::Path;

/// A disk of four runs, and its bytes: that of `sample` cannot be described by runs.
fn disk(size: u64) -> (Disk, Vec<u8>) {
    let quarter = size / 4;
    let run = |n: u64, fill| Run { at: n * quarter, len: quarter, fill };
    let runs = vec![run(0, Fill::Words(3)), run(1, Fill::Noise(5)), run(3, Fill::Byte(9))];
    let disk = Disk { size, runs };
    let bytes = disk.bytes();
    (disk, bytes)
}

fn assert_read_by_libewf(path: &Path, disk: &Disk) {
    let verdict = Oracle::Libyal.compare("ewf", path, disk);
    assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
}

fn codes(path: &Path) -> Vec<Code> {
    let found = inspect(path, &InspectOptions::new()).unwrap();
    found.findings.iter().map(|finding| finding.code).collect()
}

/// Returns a value of the format-specific part of `info`.
fn value(path: &Path, name: &str) -> Option<Value> {
    let info = OpenOptions::new().with_extents(true).open(path).unwrap().info(0).unwrap();
    let values = info.format_specific.unwrap().data;
    values.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[test]
fn every_program_and_kind_of_chunks_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, bytes) = disk(70 * 4096 + 512);
    for program in [Program::EnCase, Program::EnCase1, Program::Smart] {
        for chunks in [Chunks::Compressed, Chunks::Stored, Chunks::Mixed] {
            for (chunk_sectors, table_chunks) in [(1, 100), (8, 16), (64, 16_375), (4096, 1)] {
                let what = format!("{program:?} {chunks:?} {chunk_sectors} {table_chunks}");
                let image =
                    Ewf { program, chunks, chunk_sectors, table_chunks, ..Ewf::new(bytes.clone()) };
                let path = write(dir.path(), "disk", &image.build());
                assert!(our_bytes(&path) == bytes, "{what}");
                assert_eq!(findings(&path), [""; 0], "{what}");
                assert_eq!(codes(&path), [Code::RejectedFormat], "{what}");
                // libewf refuses tables with chunks unless the volume is SMART's.
                if program != Program::EnCase1 {
                    assert_read_by_libewf(&path, &disk);
                }
            }
        }
    }
}

#[test]
fn sectors_of_other_sizes_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for (sector_bytes, chunk_sectors, sectors, size) in [
        (2048, 16, 50, 102_400),
        (4096, 3, 7, 28_672),
        // Rounded up to 512 bytes.
        (520, 64, 100, 52_224),
        (1, 1000, 1001, 1024),
    ] {
        let bytes = sample(sector_bytes as usize * sectors);
        let image = Ewf { sector_bytes, chunk_sectors, ..Ewf::new(bytes.clone()) };
        let path = write(dir.path(), "disk", &image.build());
        let found = our_bytes(&path);
        assert_eq!(found.len(), size);
        assert!(found[..bytes.len()] == bytes && found[bytes.len()..].iter().all(|&b| b == 0));
        assert_eq!(value(&path, "sector-size"), Some(u64::from(sector_bytes).into()));
        let warnings = Image::open(&path).unwrap().warnings().count();
        assert_eq!(warnings, usize::from(size != bytes.len()));
    }
}

/// Some programs write 0 sectors (libewf#104): the number of chunks says the size.
#[test]
fn without_a_number_of_sectors_the_chunks_are_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(9 * 32768);
    for chunk_count in [None, Some(0)] {
        let image = Ewf { sectors: Some(0), chunk_count, ..Ewf::new(bytes.clone()) };
        let path = write(dir.path(), "disk", &image.build());
        assert!(our_bytes(&path) == bytes);
        let warnings: Vec<_> = Image::open(&path).unwrap().warnings().collect();
        assert!(warnings[0].contains("the number of sectors is not recorded"), "{warnings:?}");
    }
}

/// What follows the entries of a table is not its chunks, if a section `sectors` has these. ewfexport
/// of libewf 20140813 reads such images; libewf 20260924 refuses them.
#[test]
fn tables_with_padding_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (_, bytes) = disk(40 * 32768);
    let exported = dir.path().join("exported");
    for table_padding in [1, 4, 132] {
        for table2 in [true, false] {
            let image = Ewf { table_padding, table2, table_chunks: 7, ..Ewf::new(bytes.clone()) };
            let path = write(dir.path(), "disk", &image.build());
            assert!(our_bytes(&path) == bytes, "{table_padding}");
            assert_eq!(findings(&path), [""; 0], "{table_padding}");
            let files = [exported.to_str().unwrap(), path.to_str().unwrap()];
            run("ewfexport", [&["-q", "-u", "-f", "raw", "-t"][..], &files].concat());
            let raw = exported.with_extension("raw");
            assert!(std::fs::read(&raw).unwrap() == bytes, "{table_padding}");
            std::fs::remove_file(raw).unwrap();
        }
    }
    // The first entry is damaged: that of the copy says where the chunks are.
    let image = Ewf { table_padding: 100, ..Ewf::new(bytes.clone()) };
    let mut file = image.build_one();
    let entries = find_section(&file, "table", 0) + 76 + 24;
    file[entries + 2] ^= 0x7f;
    let path = write_bytes(dir.path(), "disk.E01", &file);
    assert!(our_bytes(&path) == bytes);
}

/// EnCase 6 records a base for tables beyond 2 GiB.
#[test]
fn offsets_are_relative_to_the_base_of_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, bytes) = disk(40 * 32768);
    let image = Ewf { base: 1000, table_chunks: 7, ..Ewf::new(bytes.clone()) };
    let path = write(dir.path(), "disk", &image.build());
    assert!(our_bytes(&path) == bytes);
    assert_read_by_libewf(&path, &disk);
}

/// EnCase 6.7: the chunks of a table take more than 2 GiB, and the offsets of the last ones 32 bits.
#[test]
fn offsets_of_32_bits_follow_those_of_31_bits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.E01");
    let (chunk, count) = (noise(3, 32768), 65_540usize);
    let stored = diskimg_testkit::ewf::with_checksum(chunk.clone());
    let last = [7u8; 32768];
    let compressed = diskimg_testkit::ewf::zlib(&last);
    // The first and the last chunks have data; those between are a hole.
    let image = Ewf {
        sectors: Some(64 * count as u64),
        chunk_count: Some(count as u32),
        ..Ewf::new(Vec::new())
    };
    let mut segment = diskimg_testkit::ewf::Segment::new(1);
    segment.section("volume", &image.volume());
    let sectors_at = segment.0.len();
    let data_at = (sectors_at + diskimg_testkit::ewf::DESCRIPTOR) as u64;
    let data_len = stored.len() * (count - 1) + compressed.len();
    let place = |index: usize| data_at + (index * stored.len()) as u64;
    let entries: Vec<_> = (0..count).map(|index| (index < 9, place(index))).collect();
    assert!(place(count - 3) > u64::from(u32::MAX >> 1) && place(0) < 1 << 20);
    let mut table = image.table(&entries);
    // The flag of the first entries is not true: the overflow must not be found there.
    for index in 0..9 {
        table[24 + 4 * index + 3] &= 0x7f;
    }
    let checksum = adler32(&table[24..24 + 4 * count]).to_le_bytes();
    table[24 + 4 * count..].copy_from_slice(&checksum);
    let mut file = std::fs::File::create(&path).unwrap();
    use std::io::{Seek, SeekFrom, Write};
    file.write_all(&segment.0).unwrap();
    let descriptor = diskimg_testkit::ewf::descriptor("sectors", sectors_at, data_len);
    file.write_all(&descriptor).unwrap();
    for index in [0, 1, count - 4, count - 3, count - 2] {
        file.seek(SeekFrom::Start(place(index))).unwrap();
        file.write_all(&stored).unwrap();
    }
    file.seek(SeekFrom::Start(place(count - 1))).unwrap();
    file.write_all(&compressed).unwrap();
    let mut at = data_at as usize + data_len;
    for (name, contents) in [("table", &table[..]), ("done", &[])] {
        let descriptor = diskimg_testkit::ewf::descriptor(name, at, contents.len());
        file.write_all(&[&descriptor[..], contents].concat()).unwrap();
        at += descriptor.len() + contents.len();
    }
    drop(file);
    let image = Image::open(&path).unwrap();
    assert_eq!(image.size(), count as u64 * 32768);
    let mut found = vec![0; 32768];
    for index in [0, 1, count - 4, count - 3, count - 2] {
        image.read_at(&mut found, index as u64 * 32768).unwrap();
        assert!(found == chunk, "{index}");
    }
    image.read_at(&mut found, (count - 1) as u64 * 32768).unwrap();
    assert!(found == last, "a chunk that is not as long as a stored one is compressed");
    assert_eq!(findings(&path), [""; 0]);
    // What is in the hole has no valid checksum.
    let error = image.read_at(&mut found, 1000 * 32768).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn info_has_what_the_examiner_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let text = |number: &str| {
        format!(
            "1\nmain\nc\tn\ta\te\tt\tav\tov\tm\tu\tp\r\n{number}\t1.1\tdes\u{1b}[31mcription\t\
             Jöhn\tnotes\t6.19\tLinux\t1142163845\t2002 3 4 10 19 59\t0\n\n"
        )
    };
    let image = Ewf {
        header: Some(text("old")),
        header2: Some(text("case 7")),
        md5: Some([0xab; 16]),
        digest: Some(([0xab; 16], [0xcd; 20])),
        errors: vec![(3, 2), (70, 64)],
        ..Ewf::new(sample(40_960))
    };
    let path = write(dir.path(), "disk", &image.build());
    for (name, expected) in [
        ("subformat", "encase"),
        ("media-type", "fixed"),
        ("compression", "fast"),
        ("set-identifier", "33323130-3534-3736-3839-616263646566"),
        ("md5", "abababababababababababababababab"),
        ("sha1", "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"),
        ("case-number", "case 7"),
        ("evidence-number", "1.1"),
        // Front ends escape it.
        ("description", "des\u{1b}[31mcription"),
        ("examiner", "Jöhn"),
        ("notes", "notes"),
        ("software-version", "6.19"),
        ("operating-system", "Linux"),
        ("acquisition-date", "2006-03-12T11:44:05Z"),
        ("system-date", "2002-03-04T10:19:59"),
    ] {
        assert_eq!(value(&path, name), Some(expected.into()), "{name}");
    }
    assert_eq!(value(&path, "password-protected"), None);
    assert_eq!(value(&path, "segments"), Some(1.into()));
    assert_eq!(value(&path, "unreadable-sectors"), Some(66.into()));
    let found = findings(&path);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].starts_with("sectors 70 to 133 could not be read when the disk was"));
}

#[test]
fn a_header_that_is_damaged_or_too_long_does_not_hide_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(40_960);
    let long = format!("1\nmain\nc\n{}\n", "x".repeat(2 << 20));
    let image = |header: &str| Ewf { header: Some(header.into()), ..Ewf::new(bytes.clone()) };
    // A text that decompresses to more than the limit is hostile.
    let path = write(dir.path(), "long", &image(&long).build());
    assert_eq!(error(&path).exceeded(), Some("descriptor_bytes"));
    let mut file = image("1\nmain\nc\n5\n").build_one();
    let at = find_section(&file, "header", 0) + 76;
    file[at + 5] ^= 0xff;
    let path = write_bytes(dir.path(), "disk.E01", &file);
    assert!(our_bytes(&path) == bytes);
    let warnings: Vec<_> = Image::open(&path).unwrap().warnings().collect();
    assert!(warnings[0].contains("EWF header section"), "{warnings:?}");
}

/// QEMU has no driver for EWF: to it, an image is a raw disk.
#[test]
fn the_format_is_probed_by_its_signature_and_not_as_by_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(40_960);
    let path = write_bytes(dir.path(), "disk.raw", &Ewf::new(bytes.clone()).build_one());
    assert_eq!(Image::open(&path).unwrap().format(), Format::Ewf);
    assert!(our_bytes(&path) == bytes, "a single segment may have any name");
    let raw = OpenOptions::new().probing(Probing::LikeQemu).open(&path).unwrap();
    assert_eq!(raw.format(), Format::Raw);
    assert!(!Format::Ewf.is_writable());
    let image = Image::open(&path).unwrap();
    let error = Convert::new(image).format(Format::Ewf).run(dir.path().join("x.E01")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn other_versions_of_the_format_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (signature, name) in [
        (&b"EVF2\x0d\x0a\x81\0"[..], "Ex01"),
        (b"LEF2\x0d\x0a\x81\0", "Lx01"),
        (b"LVF\x09\x0d\x0a\xff\0", "L01"),
    ] {
        let mut file = signature.to_vec();
        file.resize(4096, 1);
        let path = write_bytes(dir.path(), "disk.E01", &file);
        let found = error(&path);
        assert_eq!(found.kind(), ErrorKind::Unsupported);
        assert!(found.to_string().contains(name), "{found}");
        let found = OpenOptions::new().format(Format::Ewf).open(&path).unwrap_err();
        assert_eq!(found.kind(), ErrorKind::Unsupported);
        assert!(found.to_string().contains(name), "{found}");
    }
    let mut file = Ewf::new(sample(40_960)).build_one();
    let at = find_section(&file, "done", 0);
    file.truncate(at);
    let mut segment = diskimg_testkit::ewf::Segment(file);
    segment.section("ltree", &[0; 48]);
    segment.section("done", &[]);
    let path = write_bytes(dir.path(), "disk.E01", &segment.0);
    let found = error(&path);
    assert_eq!(found.kind(), ErrorKind::Unsupported);
    assert!(found.to_string().contains("logical evidence"), "{found}");
}

/// Chunks of the size of a grain are copied without being compressed again.
#[test]
fn chunks_are_converted_in_parallel_to_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(10 << 20);
    let image = Ewf { chunk_sectors: 128, ..Ewf::new(bytes.clone()) };
    let path = write(dir.path(), "disk", &image.build());
    for format in Format::ALL.iter().filter(|format| format.is_writable()) {
        if *format == Format::Iso {
            continue;
        }
        let out = dir.path().join("out");
        let image = Image::open(&path).unwrap();
        Convert::new(image).format(*format).threads(4).run(&out).unwrap();
        let options = OpenOptions::new().format(*format);
        let image = options.open(&out).unwrap();
        let mut found = vec![0; image.size() as usize];
        image.read_at(&mut found, 0).unwrap();
        assert!(found[..bytes.len()] == bytes, "{format}");
    }
}
