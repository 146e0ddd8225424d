//! Hostile and damaged files: an error that names the structure, never other bytes.

use super::{assert_refused_by, check, error, findings, sample, write, write_bytes};
use diskimg::{Compare, Comparison, Convert, ErrorKind, Image, Limits, OpenOptions};
use diskimg_testkit::disk::Fill;
use diskimg_testkit::dmg::{BZIP2, Chunk, Dmg, LZFSE, LZMA, Place, RAW, Table, ZERO, ZLIB};
use diskimg_testkit::oracles::Oracle;

/// One table with these chunks. Its checksum does not matter.
fn image_of(sectors: u64, chunks: Vec<Chunk>) -> Dmg {
    let mut image = Dmg::of(vec![Table::new(0, &[], Vec::new())]);
    image.tables[0].chunks = chunks;
    image.tables[0].sectors = sectors;
    image
}

#[track_caller]
fn assert_error(image: &Dmg, kind: ErrorKind, text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let error = error(&write(dir.path(), "disk.dmg", image));
    assert!(error.to_string().contains(text), "{error}");
    assert_eq!(error.kind(), kind, "{error}");
}

/// QEMU drops such chunks from the list. Reading them fails, but its check and `info` do not.
#[test]
fn an_unknown_type_of_chunk_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = Fill::Words(1).bytes(8 * 512);
    let mut chunk = Chunk::new(RAW, 0, &bytes);
    chunk.chunk_type = 0x8000_0009;
    let image = image_of(16, vec![chunk, Chunk::empty(ZERO, 8, 8)]);
    assert_error(&image, ErrorKind::Unsupported, "chunk of type 0x80000009 at guest offset 0x0");
    let path = write(dir.path(), "disk.dmg", &image);
    assert!(findings(&path).iter().any(|found| found.contains("has an unknown type")));
    assert_eq!(check(&path).0.check_errors, 2);
    // The rest can be read.
    let mut rest = [1; 8 * 512];
    Image::open(&path).unwrap().read_at(&mut rest, 8 * 512).unwrap();
    assert_eq!(rest, [0; 8 * 512]);
    assert_refused_by(&[Oracle::QemuImg, Oracle::SevenZip], &path, &sample());
}

#[test]
fn overlapping_chunks_are_not_read() {
    let bytes = Fill::Words(1).bytes(8 * 512);
    let other = Fill::Words(2).bytes(8 * 512);
    let overlapping = [
        vec![Chunk::new(RAW, 0, &bytes), Chunk::new(RAW, 7, &other)],
        vec![Chunk::new(RAW, 0, &bytes), Chunk::new(RAW, 0, &bytes)],
        // A short chunk within a long one, and one after it.
        vec![Chunk::empty(ZERO, 0, 20), Chunk::new(RAW, 2, &bytes), Chunk::new(RAW, 20, &bytes)],
    ];
    for chunks in overlapping {
        let image = image_of(30, chunks);
        assert_error(&image, ErrorKind::Corrupt, "several chunks have guest bytes in 0x0..");
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "disk.dmg", &image);
        assert!(findings(&path).iter().any(|found| found.contains("several chunks")));
        // All of the overlapping chunks is lost, and nothing else.
        let out = dir.path().join("raw");
        let image = Image::open(&path).unwrap();
        let report = Convert::new(image).salvage(true).run(&out).unwrap();
        assert_eq!(report.salvaged.len(), 1);
        let lost = report.salvaged[0].guest.clone();
        assert!(lost.start == 0 && matches!(lost.end / 512, 8 | 15 | 20), "{lost:?}");
    }
}

#[test]
fn stored_bytes_must_be_within_the_file_and_of_a_plausible_length() {
    let bytes = Fill::Noise(1).bytes(8 * 512);
    let chunk = |chunk_type| Chunk::new(chunk_type, 0, &bytes);
    let beyond = "extend beyond the end of the file";
    for chunk_type in [RAW, ZLIB] {
        let offset = Chunk { offset: Some(1 << 40), ..chunk(chunk_type) };
        assert_error(&image_of(8, vec![offset]), ErrorKind::Corrupt, beyond);
        let offset = Chunk { offset: Some(u64::MAX), ..chunk(chunk_type) };
        assert_error(&image_of(8, vec![offset]), ErrorKind::Corrupt, beyond);
    }
    let long = Chunk { len: Some(70_000), ..chunk(ZLIB) };
    assert_error(&image_of(8, vec![long]), ErrorKind::Corrupt, "70000 stored bytes for 4096 bytes");
    for len in [0, 4095, 4097, u64::MAX] {
        let raw = Chunk { len: Some(len), ..chunk(RAW) };
        let text = format!("{len} stored bytes for 4096 bytes");
        assert_error(&image_of(8, vec![raw]), ErrorKind::Corrupt, &text);
    }
    // A stream that ends early.
    let short = Chunk { sectors: 9, ..chunk(ZLIB) };
    assert_error(&image_of(9, vec![short]), ErrorKind::Corrupt, "cannot decompress");
}

/// Headers of some bytes claim all that 63 bits can address.
#[test]
fn claims_of_exabytes_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let most = (1 << 54) - 1;
    let image = image_of(most, vec![Chunk::empty(ZERO, 0, most)]);
    let path = write(dir.path(), "disk.dmg", &image);
    assert_eq!(Image::open(&path).unwrap().size(), most * 512);
    for sectors in [1 << 55, u64::MAX] {
        let image = image_of(8, vec![Chunk::empty(ZERO, 0, sectors)]);
        assert_error(&image, ErrorKind::Corrupt, "its sectors or offsets are too large");
        let image = image_of(8, vec![Chunk::empty(ZERO, sectors, 1)]);
        assert_error(&image, ErrorKind::Corrupt, "its sectors or offsets are too large");
        let image = Dmg { sectors: Some(sectors), ..image_of(8, Vec::new()) };
        assert_error(&image, ErrorKind::Corrupt, "the size of the disk is not valid");
    }
    let huge = Chunk { stored: vec![0; 100], ..Chunk::empty(ZLIB, 0, 1 << 20) };
    assert_error(&image_of(1 << 20, vec![huge]), ErrorKind::Limit, "unit_bytes");
    let entries = Table { count: Some(u32::MAX), ..Table::new(0, &[], Vec::new()) };
    let entries = Table { has_end: false, ..entries };
    assert_error(&Dmg::of(vec![entries]), ErrorKind::Corrupt, "it is not complete");
}

#[test]
fn a_table_longer_than_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for place in [Place::Plist, Place::ResourceFork] {
        let image = Dmg { place, ..Dmg::whole(ZLIB, &sample().bytes(), 1) };
        let path = write(dir.path(), "disk.dmg", &image);
        let mut limits = Limits::default();
        limits.table_bytes = 1000;
        let error = OpenOptions::new().limits(limits).open(&path).unwrap_err();
        assert_eq!(error.exceeded(), Some("table_bytes"), "{error}");
    }
}

/// 65536 resources can refer to one table.
#[test]
fn a_table_counts_as_often_as_a_resource_fork_refers_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = |references, chunks, limits| {
        let image = Dmg { place: Place::ResourceFork, references, ..image_of(1000, chunks) };
        OpenOptions::new().limits(limits).open(write(dir.path(), "disk.dmg", &image))
    };
    // Entries without sectors are not kept, but they take time.
    for sectors in [0, 1] {
        let chunks = (0..1000).map(|at| Chunk::empty(ZERO, at, sectors)).collect();
        let error = open(1 << 16, chunks, Limits::default()).unwrap_err();
        assert_eq!((error.kind(), error.exceeded()), (ErrorKind::Limit, Some("table_bytes")));
    }
    // A header, one entry and the end, ten times.
    let bytes = 10 * (204 + 2 * 40);
    for (max, is_accepted) in [(bytes, true), (bytes - 1, false)] {
        let mut limits = Limits::default();
        limits.table_bytes = max;
        let opened = open(10, vec![Chunk::empty(ZERO, 0, 0)], limits);
        assert_eq!(opened.is_ok(), is_accepted, "{opened:?}");
    }
}

/// In windows of 16 MiB, this would take years.
#[test]
fn exabytes_of_zeros_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let most = (1 << 54) - 1;
    let path = write(dir.path(), "disk.dmg", &image_of(most, vec![Chunk::empty(ZERO, 0, most)]));
    let image = Image::open(&path).unwrap();
    assert_eq!(image.size(), i64::MAX as u64 - 511);
    let entries = diskimg::map(&image, 0..u64::MAX).map(Result::unwrap);
    let entries: Vec<_> = entries.map(|entry| (entry.start, entry.length, entry.zero)).collect();
    assert_eq!(entries, [(0, most * 512, true)]);
    let same = Compare::new(&image, &Image::open(&path).unwrap()).run().unwrap();
    assert_eq!(same, Comparison::Identical { size_mismatch: false });
    // The checksum is that of no bytes.
    let found = findings(&path);
    assert!(found.iter().any(|finding| finding.contains("CRC-32")), "{found:?}");
    // Chunks that overlap elsewhere, and data at the end.
    let data = Fill::Words(1).bytes(8 * 512);
    let chunks = |at| vec![Chunk::empty(ZERO, 0, 1 << 53), Chunk::new(RAW, at, &data)];
    let path = write(dir.path(), "disk.dmg", &image_of((1 << 53) + 8, chunks(1 << 53)));
    let image = Image::open(&path).unwrap();
    let extents: Vec<_> = image.extents(0..image.size()).unwrap().map(Result::unwrap).collect();
    assert_eq!(extents.len(), 2);
    assert_eq!(extents[0].guest, 0..1 << 62);
    let mut overlapping = chunks((1 << 53) + 8);
    overlapping.push(Chunk::new(RAW, (1 << 53) + 9, &data));
    let path = write(dir.path(), "disk.dmg", &image_of((1 << 53) + 17, overlapping));
    let found = findings(&path);
    assert!(found.iter().any(|finding| finding.contains("several chunks")), "{found:?}");
    let image = Image::open(&path).unwrap();
    let extents: Vec<_> = image.extents(0..image.size()).unwrap().collect();
    assert!(matches!(&extents[..], [Ok(zeros), Err(_)] if zeros.guest.start == 0), "{extents:?}");
}

/// Each byte of the trailer, of the property list and of the tables, changed: an error, or the same
/// disk, or a disk of which the checksums say that it is another one.
#[test]
fn changed_bytes_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let disk = sample();
    for place in [Place::Plist, Place::ResourceFork] {
        let file = Dmg { place, ..Dmg::whole(ZLIB, &disk.bytes(), 50) }.build();
        let mut silent = 0;
        for at in (0..file.len()).rev().step_by(3) {
            let mut damaged = file.clone();
            damaged[at] ^= 0x11;
            let path = write_bytes(dir.path(), "disk.dmg", &damaged);
            let Ok(image) = OpenOptions::new().format(diskimg::Format::Dmg).open(&path) else {
                continue;
            };
            // A damaged size of the disk.
            if image.size() > 1 << 30 {
                continue;
            }
            let mut bytes = vec![0; image.size() as usize];
            let same = image.read_at(&mut bytes, 0).is_ok_and(|()| {
                bytes.len() >= disk.size as usize
                    && bytes[..disk.size as usize] == disk.bytes()
                    && bytes[disk.size as usize..].iter().all(|&byte| byte == 0)
            });
            let mut found = 0;
            diskimg::Check::new(&image).run(&mut |_| found += 1).unwrap();
            silent += usize::from(!same && found == 0);
        }
        assert_eq!(silent, 0, "{place:?}");
    }
}

/// With a subset of its own, a document type can define entities that grow exponentially.
#[test]
fn entities_of_a_property_list_are_not_expanded() {
    let laughs: String = (1..10)
        .map(|n| format!("<!ENTITY e{n} \"{}\">", format!("&e{};", n - 1).repeat(10)))
        .collect();
    let doctype = format!("<!DOCTYPE plist [<!ENTITY e0 \"ha\">{laughs}]>\n");
    let mut image = Dmg { doctype, ..Dmg::whole(RAW, &sample().bytes(), 8) };
    image.tables[0].name = "&e9;".into();
    assert_error(&image, ErrorKind::Corrupt, "DMG property list");
    // None, or in another place.
    let dir = tempfile::tempdir().unwrap();
    for doctype in ["", "<!-- a comment -->\n<!DOCTYPE plist>"] {
        let image = Dmg { doctype: doctype.into(), ..Dmg::whole(RAW, &sample().bytes(), 8) };
        let path = write(dir.path(), "disk.dmg", &image);
        assert_eq!(super::our_bytes(&path), sample().bytes());
    }
}

#[test]
fn markup_that_takes_the_parser_long_is_refused() {
    let many = |text: &str, n: usize| text.repeat(n);
    for (doctype, text) in [
        (many("<a/>", 250_000), "elements and texts"),
        (format!("<a {}/>", many("b='' ", 100)), "a tag has too many attributes"),
        (many("<!--xmlns-->", 100), "too many namespaces"),
    ] {
        let image = Dmg { doctype, ..Dmg::whole(RAW, &sample().bytes(), 8) };
        let dir = tempfile::tempdir().unwrap();
        let error = error(&write(dir.path(), "disk.dmg", &image));
        let is_expected = error.to_string().contains(text)
            // An element before the root is not well-formed.
            || error.to_string().contains("DMG property list");
        assert!(is_expected, "{error}");
    }
}

/// The value of an attribute may contain '>'. The parser reserves memory for each '<' and '='.
#[test]
fn attributes_after_one_with_the_end_of_a_tag_are_counted() {
    for (doctype, text) in [
        (format!("<a q='>' {}/>", "b='' ".repeat(100)), "a tag has too many attributes"),
        (format!("<a q=\">\" {}/>", "b='' ".repeat(100)), "a tag has too many attributes"),
        ("<a b=''/>".repeat(250_001), "too many tags and attributes"),
    ] {
        let image = Dmg { doctype, ..Dmg::whole(RAW, &sample().bytes(), 8) };
        assert_error(&image, ErrorKind::Corrupt, text);
    }
}

/// Chunks whose streams yield much more than the chunk has.
#[test]
fn bombs_yield_no_more_than_their_chunk() {
    let zeros = vec![0; 32 << 20];
    for chunk_type in [ZLIB, BZIP2, LZMA, LZFSE] {
        let stored = match chunk_type {
            // A block of LZVN that announces 4 GiB.
            LZFSE => [
                b"bvxn",
                &u32::MAX.to_le_bytes()[..],
                &9u32.to_le_bytes(),
                &[0xe1, 7],
                &[0xf0, 255, 0xf0, 255, 0xf0, 255, 6],
                b"bvx$",
            ]
            .concat(),
            other => diskimg_testkit::dmg::encode(other, &zeros),
        };
        let chunk = Chunk { stored, ..Chunk::empty(chunk_type, 0, 1) };
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "disk.dmg", &image_of(1, vec![chunk]));
        let image = Image::open(&path).unwrap();
        let mut sector = [1; 512];
        let read = image.read_at(&mut sector, 0);
        assert!(read.is_err() || sector == [0; 512] || sector == [7; 512], "{chunk_type:#x}");
    }
}

#[test]
fn a_truncated_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = Dmg::whole(ZLIB, &sample().bytes(), 8).build();
    for len in (0..file.len()).step_by(97) {
        let path = write_bytes(dir.path(), "disk.dmg", &file[..len]);
        let error = OpenOptions::new().format(diskimg::Format::Dmg).open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{len}: {error}");
    }
    // The beginning is missing.
    let path = write_bytes(dir.path(), "disk.dmg", &file[512..]);
    assert_eq!(error(&path).kind(), ErrorKind::Corrupt);
}
