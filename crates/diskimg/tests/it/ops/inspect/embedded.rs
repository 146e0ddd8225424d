//! Archives that other programs find in what is otherwise a raw disk, an ISO image or an appliance.

use diskimg::inspection::Code;
use diskimg::{InspectOptions, Inspection, Severity, inspect};

fn inspected(name: &str, bytes: &[u8]) -> Inspection {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    inspect(&path, &InspectOptions::new()).unwrap()
}

/// Returns a file of `len` bytes, zeros except for `parts`.
fn file(len: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, part) in parts {
        bytes[*at..at + part.len()].copy_from_slice(part);
    }
    bytes
}

/// The parts of an ISO image.
const VOLUME: [(usize, &[u8]); 2] = [(32768, b"\x01CD001\x01"), (34816, b"\xffCD001\x01")];

/// The header of a member of a zip archive, and the first bytes of other archives.
const ZIP: &[u8] = b"PK\x03\x04\x0a\0\0\0\0\0\0\0!\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0x";
const SEVEN_ZIP: &[u8] = b"7z\xbc\xaf\x27\x1c\0\x04";
const CABINET: &[u8] = b"MSCF\0\0\0\0";
const LHA: &[u8] = b"\x1a\0-lh0-\x05\0\0\0\x05\0\0\0\0\0\0\0\x20\0";

/// The entry of a partition, at offset 446, and the signature behind the table.
const PARTITION: &[u8] = &[0x80, 1, 1, 0, 0x83, 1, 1, 0, 63, 0, 0, 0, 200, 0, 0, 0];
const BOOT: &[u8] = &[0x55, 0xaa];

/// The magic of ext, at offset 1080.
const EXT: &[u8] = &[0x53, 0xef];

#[test]
fn a_dmg_trailer_is_found_wherever_qemu_searches_it() {
    // Offsets from the end of the file, whose length QEMU rounds up.
    for (extra, back) in [(100, 505), (300, 504), (508, 501), (1, 1), (511, 1023), (0, 1023)] {
        let len = (1 << 20) + extra;
        let found = inspected("a.dmg", &file(len, &[(len - back.max(4), b"koly")]));
        assert_eq!(found.format, "dmg", "{extra} {back}");
    }
}

#[test]
fn signatures_are_as_wide_as_those_of_any_reader() {
    let long_frame = [&b"\x5f\x2a\x4d\x18\0\0\x08\0"[..], &[0; 16]].concat();
    for (name, head) in [
        ("lzma", &b"\0\0\0\x01\0\xff\xff\xff\xff\xff\xff\xff\xff\0"[..]),
        ("lzma", b"\x5d\0\x10\0\0\0\0\0\0\0\0\0\xff\0"),
        ("lzma", b"\xb4\0\0\x40\0\x10\0\0\0\0\0\0\0\0"),
        ("zstd", &long_frame[..]),
        ("lz4", b"\x02\x21\x4c\x18"),
        ("lzip", b"LZIP\0"),
        ("compress", b"\x1f\x9d\x08"),
        ("grzip", b"GRZipII\0\x02\x04:)"),
        ("cpio", b"\xc7\x71\x01\0\x02\0\xa4\x01"),
        ("cpio", b"\x71\xc7\0\x01\0\x02\x01\xa4"),
        ("cpio", b"070727"),
        ("zip", b"PK\x01\x02"),
        ("zip", b"PK\x06\x06"),
        ("zip", b"PK00PK\x03\x04"),
        ("ar", b"!<thin>\n"),
    ] {
        let found = inspected("a.img", &file(1 << 20, &[(0, head)]));
        assert_eq!((found.format, found.is_safe()), (name, false), "{head:?}");
        let found = inspected("a.iso", &file(1 << 20, &[&VOLUME[..], &[(0, head)]].concat()));
        assert_eq!((found.format, found.is_safe()), ("iso", false), "{head:?}");
    }
    // Checksums of tar archives without a magic: 'a' and the blanks of the field.
    let sum = u64::from(b'a') + 8 * 32;
    let mut base_256 = sum.to_be_bytes();
    base_256[0] = 0x80;
    let octal = |text: String| <[u8; 8]>::try_from(text.as_bytes()).unwrap();
    for field in [
        base_256,
        octal(format!("\0{sum:06o} ")),
        octal(format!("{sum:04o}\0   ")),
        octal(format!("  0o{sum:o}\0")),
        octal(format!("-{sum:o}    ")),
        octal("-FhAAAAA".replace("FhAAAAA", "AAAAAFh")),
    ] {
        let found = inspected("a.img", &file(1 << 20, &[(0, b"a"), (148, &field)]));
        assert_eq!((found.format, found.is_safe()), ("tar", false), "{field:?}");
    }
}

#[test]
fn lines_of_text_are_not_a_disk() {
    let uuencoded = [&b"hello\r\n\n"[..], b"begin 644 a\n#0V%T\n`\nend\n"];
    let uuencoded = uuencoded.concat();
    let base_64 = b"\nbegin-base64 644 a\nQ2F0\n====\n";
    let mtree = b"#\xff\n\n/set type=file\n a mode=0644 contents=/etc/passwd\nb\nc\n\0";
    for bytes in [&uuencoded[..], base_64, mtree, b"a type=file\n", b"x/a type=file\rb\rc\r\0"] {
        let found = inspected("a.img", &file(4096, &[(0, bytes)]));
        let whole = inspected("a.img", bytes);
        let ended = bytes.len() > 20 || bytes.ends_with(b"\0");
        assert_eq!(found.finding(Code::Packed).is_some(), ended, "{bytes:?}");
        assert!(whole.finding(Code::Packed).is_some(), "{bytes:?}");
        let raw = InspectOptions::new().claimed("raw").unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), file(4096, &[(0, bytes)])).unwrap();
        assert!(inspect(dir.path().join("a"), &raw).unwrap().is_safe());
    }
    let comments = b"#x\n".repeat(400_000);
    assert!(inspected("a.img", &comments).finding(Code::Packed).is_some());
    let found = inspected("a.iso", &file(1 << 20, &[&VOLUME[..], &[(0, &uuencoded[..])]].concat()));
    assert_eq!(found.other_formats, ["uuencode"]);
    assert!(!found.is_safe());
    // Two lines and other bytes, and text without an end, are not such files.
    for bytes in [&b"boot\nloader\n\x90"[..], b"GRUB loading", b"\n\n\n\0", b"#!\n\0"] {
        assert!(inspected("a.img", &file(4096, &[(0, bytes)])).is_safe(), "{bytes:?}");
    }
}

#[test]
fn archives_behind_the_head_of_a_program_are_found_in_any_disk() {
    let table = [(446, PARTITION), (510, BOOT)];
    for (start, archive) in [b"MZ".as_slice(), b"\x7fELF"].iter().flat_map(|start| {
        [ZIP, SEVEN_ZIP, CABINET, LHA, b"Rar!\x1a\x07\0"].map(|archive| (*start, archive))
    }) {
        let parts = [(0, start), (0x27000, archive)];
        for others in [&[][..], &table, &[(1080, EXT)], &VOLUME] {
            let found = inspected("a.img", &file(1 << 20, &[&parts[..], others].concat()));
            assert!(!found.is_safe(), "{start:?} {archive:?} {others:?}");
        }
    }
    // A program without an archive.
    assert!(inspected("a.img", &file(1 << 20, &[(0, b"MZ")])).is_safe());
}

#[test]
fn archives_are_found_in_the_first_8_mib() {
    // Across the parts in which they are searched, too.
    for at in [1 << 20, (2 << 20) - 3, (3 << 20) - 1, (8 << 20) - 64] {
        for archive in [ZIP, SEVEN_ZIP, LHA] {
            let found = inspected("a.img", &file(9 << 20, &[(at, archive)]));
            let offset = found.finding(Code::Packed).and_then(|finding| finding.offset);
            assert_eq!(offset, Some(at as u64), "{archive:?}");
        }
    }
    assert!(inspected("a.img", &file(9 << 20, &[((8 << 20) + 4096, ZIP)])).is_safe());
}

#[test]
fn only_what_is_a_disk_by_all_fields_may_contain_archives() {
    let partition = |at: usize, value: u8| {
        let mut entry = PARTITION.to_vec();
        entry[at] = value;
        entry
    };
    let inside = |parts: &[(usize, &[u8])]| {
        let archive = [(0x8000, SEVEN_ZIP)];
        inspected("a.img", &file(1 << 20, &[&archive[..], parts].concat()))
    };
    assert!(inside(&[(446, PARTITION), (510, BOOT)]).is_safe());
    // No sectors, the first sector, one that protects a missing GPT, a logical partition.
    for entry in [partition(12, 0), partition(8, 0), partition(4, 0xee), partition(4, 5)] {
        let found = inside(&[(446, &entry), (510, BOOT)]);
        assert!(found.finding(Code::Packed).is_some(), "{entry:?}");
    }
    assert!(inside(&[(1080, EXT)]).finding(Code::Packed).is_some());
    let fat = b"\xeb\x58\x90MSDOS5.0\0\x02\x01\x01\0\x02";
    assert!(inside(&[(0, fat)]).finding(Code::Packed).is_some());
}

#[test]
fn a_zip_archive_at_the_end_is_found_whatever_length_its_directory_states() {
    let directory = b"PK\x01\x02\x0a\0\x0a\0\0\0\0\0\0\0!\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\
                      \0\0\0\0\0\0\0\0\0\0\0\0\0\0x";
    // Behind what is searched for members.
    let start = 9 << 20;
    for (size, behind) in
        [(47u32, 0), (0, 0), (1, 0), (0x7fff, 0), (u32::MAX, 0), (47, 65_990), (47, 74_180)]
    {
        let offset = u32::to_le_bytes(start + 31);
        let end =
            [&b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..], &size.to_le_bytes()[..], &offset, &[0, 0]];
        let archive = [ZIP, directory, &end.concat(), &vec![0; behind]].concat();
        let bytes = [&vec![0; start as usize][..], &archive].concat();
        let found = inspected("a.img", &bytes);
        assert!(found.finding(Code::Packed).is_some(), "{size} {behind}");
        let bytes = [&file(start as usize, &VOLUME)[..], &archive].concat();
        let found = inspected("a.iso", &bytes);
        assert!(found.finding(Code::SeveralFormats).is_some(), "{size} {behind}");
    }
}

#[test]
fn a_zip_archive_at_the_end_is_found_where_bsdtar_searches_its_directory() {
    // Behind what is searched for members.
    let start = 9 << 20;
    let directory = [b"PK\x01\x02\x0a\0\x0a", &[0; 21][..], b"\x01", &[0; 17], b"x"].concat();
    let found = |size: u32, offset: u32, behind: &[u8]| {
        let numbers = [size, offset].map(u32::to_le_bytes).concat();
        let end = [&b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..], &numbers, &[0, 0]].concat();
        let archive = [ZIP, &directory, &[7; 100], &end, behind].concat();
        let disk = inspected("a.img", &[&vec![0; start][..], &archive].concat());
        let volume = inspected("a.iso", &[&file(start, &VOLUME)[..], &archive].concat());
        let severity = volume.finding(Code::SeveralFormats).map(|finding| finding.severity);
        (disk.finding(Code::Packed).is_some(), severity)
    };
    // Neither the length nor the offset leads to the directory, but it is behind one of them.
    for (size, offset) in [(170, 5), (1 << 20, 0), (300, 1 << 19)] {
        assert_eq!(found(size, offset, b""), (true, Some(Severity::Error)), "{size} {offset}");
        assert_eq!(found(size, offset, b"x"), (true, Some(Severity::Warning)), "{size} {offset}");
    }
    // No program accepts a directory that would end behind the record.
    assert_eq!(found(170, 1 << 24, b""), (false, None));
    // An end record behind the archive does not hide that it ends the file.
    let last = [b"PK\x05\x06", &[0; 18][..]].concat();
    let numbers = [47u32, 5].map(u32::to_le_bytes).concat();
    let end = [&b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..], &numbers, &[30, 0]].concat();
    let archive = [ZIP, &directory, &end, &last, &[0; 8]].concat();
    let volume = inspected("a.iso", &[&file(start, &VOLUME)[..], &archive].concat());
    let severity = volume.finding(Code::SeveralFormats).map(|finding| finding.severity);
    assert_eq!(severity, Some(Severity::Error));
}

#[test]
fn errors_in_the_partitions_of_a_volume_without_iso_9660_count() {
    let entry = [0x0a, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0];
    let table = [(446, &entry[..]), (510, BOOT)];
    let udf: [(usize, &[u8]); 2] = [(32768, b"\0BEA01\x01"), (34816, b"\0NSR02\x01")];
    assert!(!inspected("a.img", &file(1 << 20, &[&udf[..], &table].concat())).is_safe());
    let found = inspected("a.img", &file(1 << 20, &[&VOLUME[..], &table].concat()));
    let severity = found.finding(Code::Partitions).map(|finding| finding.severity);
    assert!(severity < Some(Severity::Error), "{found:?}");
}
