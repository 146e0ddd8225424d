//! The checksums that a file records.

use super::{check, sample, write, write_bytes};
use diskimg::check::Code;
use diskimg_testkit::dmg::{Chunk, Dmg, IGNORE, RAW, Table, ZERO, ZLIB};
use diskimg_testkit::oracles::{Oracle, Verdict};

#[test]
fn each_wrong_checksum_is_a_finding() {
    let dir = tempfile::tempdir().unwrap();
    let image = Dmg::whole(ZLIB, &sample().bytes(), 8);
    let wrong = Some(0x1234_5678);
    let mut table = image.clone();
    table.tables[0].checksum.2 = 0x1234_5678;
    let cases = [
        (
            "data fork: the CRC-32 of the stored bytes",
            Dmg { data_checksum: wrong, ..image.clone() },
            1,
        ),
        ("the CRC-32 of the tables' checksums", Dmg { master_checksum: wrong, ..image.clone() }, 2),
        ("table 0 'whole disk (Apple_HFS : 0)': the CRC-32 of ", table, 1),
    ];
    for (text, image, verified) in cases {
        let (report, found) = check(&write(dir.path(), "disk.dmg", &image));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.contains(text), "{found:?}");
        assert!(found[0].message.contains("12345678 is recorded"), "{found:?}");
        assert_eq!(found[0].code, Code::DigestMismatch);
        assert_eq!((report.corruptions, report.verified_digests), (1, verified));
    }
}

/// Of the formats that Apple's programs write, only CRC-32 is known.
#[test]
fn an_unknown_kind_of_checksum_is_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Dmg::whole(ZLIB, &sample().bytes(), 8);
    image.tables[0].checksum = (4, 128, 0);
    image.master_checksum = None;
    let file = image.build();
    let (report, found) = check(&write_bytes(dir.path(), "disk.dmg", &file));
    let notes: Vec<_> = found.iter().filter(|f| f.code == Code::DigestNotVerified).collect();
    assert_eq!(notes.len(), 1, "{found:?}");
    assert!(notes[0].message.contains("the checksum of kind 4 with 128 bits"), "{found:?}");
    assert_eq!((report.recorded_digests, report.verified_digests), (Some(1), 1));
    // The builder's checksum of the checksums is that of four bytes each.
    assert_eq!(report.corruptions, 1);
}

/// 7-Zip does not compute a checksum of such chunks either.
#[test]
fn chunks_that_are_not_in_use_are_not_in_the_checksum_and_zeros_are() {
    let dir = tempfile::tempdir().unwrap();
    let disk = sample();
    let bytes = disk.bytes();
    for (chunk_type, verified) in [(IGNORE, true), (ZERO, false)] {
        let chunks = |chunk_type| {
            vec![
                Chunk::new(RAW, 0, &bytes[..40 * 512]),
                Chunk::empty(chunk_type, 40, 20),
                Chunk::new(RAW, 60, &bytes[60 * 512..]),
            ]
        };
        let mut image = Dmg::of(vec![Table::new(0, &bytes, chunks(IGNORE))]);
        image.tables[0].chunks = chunks(chunk_type);
        let path = write(dir.path(), "disk.dmg", &image);
        let (report, _) = check(&path);
        assert_eq!(report.verified_digests == 2, verified);
        let theirs = Oracle::SevenZip.compare("dmg", &path, &disk);
        assert_eq!(theirs == Verdict::Same, verified, "{theirs}");
    }
}

#[test]
fn without_checksums_nothing_is_said_to_be_verified() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Dmg::whole(ZLIB, &sample().bytes(), 8);
    image.tables[0].checksum = (0, 0, 0);
    let mut file = image.build();
    let trailer = file.len() - 512;
    file[trailer + 80..trailer + 88].fill(0);
    file[trailer + 352..trailer + 360].fill(0);
    let (report, found) = check(&write_bytes(dir.path(), "disk.dmg", &file));
    assert!(found.is_empty(), "{found:?}");
    assert_eq!((report.recorded_digests, report.verified_digests), (Some(0), 0));
}
