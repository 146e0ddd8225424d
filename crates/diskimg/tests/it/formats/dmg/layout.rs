//! Where things are in a file: the trailer, the tables, their order, the size of the disk.

use super::{
    assert_misread_by, assert_read_by, assert_refused_by, error, findings, our_bytes, sample,
    write, write_bytes,
};
use diskimg::inspection::Code;
use diskimg::{ErrorKind, Format, Image, InspectOptions, OpenOptions, Probing, inspect};
use diskimg_testkit::disk::{Disk, Fill};
use diskimg_testkit::dmg::{COMMENT, Chunk, Dmg, IGNORE, Place, RAW, Table, ZERO, ZLIB};
use diskimg_testkit::oracles::Oracle;
use diskimg_testkit::tool::run;
use std::path::Path;

fn codes(path: &Path) -> Vec<Code> {
    let found = inspect(path, &InspectOptions::new()).unwrap();
    found.findings.iter().map(|finding| finding.code).collect()
}

/// Two partitions with a gap between them; the first one in three chunks.
fn partitions() -> (Dmg, Disk) {
    let disk = sample();
    let bytes = disk.bytes();
    let (first, second) = (&bytes[..40 * 512], &bytes[60 * 512..]);
    let chunks = vec![
        Chunk::empty(COMMENT, 0, 0),
        Chunk::new(ZLIB, 0, &first[..10 * 512]),
        Chunk::empty(ZERO, 10, 10),
        Chunk::new(RAW, 20, &first[20 * 512..]),
    ];
    let last = Table::new(60, second, vec![Chunk::new(ZLIB, 0, second)]);
    (Dmg::of(vec![Table::new(0, first, chunks), last]), disk)
}

/// 7-Zip has no gaps: it lists the partitions only. libmodi refuses such tables.
#[test]
fn what_is_between_the_tables_is_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let (image, disk) = partitions();
    let path = write(dir.path(), "disk.dmg", &image);
    assert_eq!(our_bytes(&path), disk.bytes());
    assert_eq!(findings(&path), [""; 0]);
    assert_eq!(codes(&path), []);
    // QEMU does not read a sector that no chunk has.
    assert_refused_by(&[Oracle::QemuImg, Oracle::Libyal], &path, &disk);
}

/// QEMU searches the chunk of a sector as if they were sorted, and does not find it. To 7-Zip, such a
/// table is not valid.
#[test]
fn tables_and_chunks_in_any_order_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let disk = sample();
    let bytes = disk.bytes();
    let chunk =
        |start: usize, end: usize| Chunk::new(ZLIB, start as u64, &bytes[start * 512..end * 512]);
    let chunks = vec![chunk(50, 100), chunk(0, 20), chunk(30, 50), chunk(20, 30)];
    let path = write(dir.path(), "disk.dmg", &Dmg::of(vec![Table::new(0, &bytes, chunks)]));
    assert_eq!(our_bytes(&path), bytes);
    assert_eq!(findings(&path), [""; 0]);
    assert_refused_by(&[Oracle::QemuImg, Oracle::SevenZip], &path, &disk);
    let (mut image, disk) = partitions();
    image.tables.reverse();
    let path = write(dir.path(), "disk.dmg", &image);
    assert_eq!(our_bytes(&path), disk.bytes());
    assert_eq!(findings(&path), [""; 0]);
}

/// QEMU returns an empty disk and reports success. 7-Zip and libmodi read the tables.
#[test]
fn a_trailer_without_a_size_has_the_size_of_the_tables() {
    let dir = tempfile::tempdir().unwrap();
    let disk = sample();
    for sectors in [0, 1, 99] {
        let image = Dmg { sectors: Some(sectors), ..Dmg::whole(ZLIB, &disk.bytes(), 8) };
        let path = write(dir.path(), "disk.dmg", &image);
        assert_eq!(our_bytes(&path), disk.bytes(), "{sectors}");
        assert_eq!(findings(&path).len(), 1, "{sectors}");
        assert_eq!(codes(&path), [Code::CopiesDiffer], "{sectors}");
        assert_read_by(&[Oracle::SevenZip], &path, &disk);
        let raw = dir.path().join("raw");
        let paths = [path.to_str().unwrap(), raw.to_str().unwrap()];
        run("qemu-img", ["convert", "-f", "dmg", "-O", "raw"].iter().chain(&paths));
        assert_eq!(std::fs::metadata(&raw).unwrap().len(), sectors * 512);
    }
    // A larger size is right: what no table has is zeros.
    let image = Dmg { sectors: Some(300), ..Dmg::whole(ZLIB, &disk.bytes(), 8) };
    let path = write(dir.path(), "disk.dmg", &image);
    let disk = Disk { size: 300 * 512, ..disk };
    assert_eq!(our_bytes(&path), disk.bytes());
}

/// The length of the file need not be whole sectors, and bytes may follow the trailer.
#[test]
fn the_trailer_is_found_near_the_end_and_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let disk = sample();
    let image = Dmg::whole(ZLIB, &disk.bytes(), 8);
    for offset in 0..8 {
        let image = Dmg { data_fork_offset: offset, ..image.clone() };
        let path = write(dir.path(), "disk.dmg", &image);
        assert_eq!(our_bytes(&path), disk.bytes(), "{offset}");
        assert_read_by(&[Oracle::SevenZip, Oracle::QemuImg], &path, &disk);
        assert_eq!(codes(&path), [], "{offset}");
    }
    for trailing in [1, 200, 511, 512, 1024] {
        let path = write(dir.path(), "disk.dmg", &Dmg { trailing, ..image.clone() });
        assert_eq!(our_bytes(&path), disk.bytes(), "{trailing}");
        assert!(codes(&path).contains(&Code::Footer), "{trailing}");
    }
    let path = write(dir.path(), "disk.dmg", &Dmg { trailing: 1025, ..image.clone() });
    // By its name, which says what it should be.
    assert_eq!(Image::open(&path).unwrap_err().kind(), ErrorKind::Unsupported);
    let other = dir.path().join("disk");
    std::fs::copy(&path, &other).unwrap();
    assert_eq!(Image::open(&other).unwrap().format(), Format::Raw);
    let first = Dmg { trailer_first: true, ..image };
    let path = write(dir.path(), "disk.dmg", &first);
    assert_eq!(our_bytes(&path), disk.bytes());
    assert_read_by(&[Oracle::SevenZip], &path, &disk);
}

/// libmodi and QEMU add both offsets, as well.
#[test]
fn the_offsets_of_the_data_fork_and_of_a_table_are_added() {
    let dir = tempfile::tempdir().unwrap();
    let disk = sample();
    let mut image = Dmg { data_fork_offset: 700, ..Dmg::whole(ZLIB, &disk.bytes(), 8) };
    // Before the data of this table is that of another one.
    let (first, second) = (disk.bytes()[..8 * 512].to_vec(), disk.bytes()[8 * 512..].to_vec());
    let chunk = Chunk::new(ZLIB, 0, &first);
    let data_offset = chunk.stored.len() as u64;
    let second = Table::new(8, &second, vec![Chunk::new(RAW, 0, &second)]);
    image.tables = vec![Table::new(0, &first, vec![chunk]), Table { data_offset, ..second }];
    let path = write(dir.path(), "disk.dmg", &image);
    assert_eq!(our_bytes(&path), disk.bytes());
    assert_eq!(findings(&path), [""; 0]);
    assert_read_by(&[Oracle::SevenZip, Oracle::QemuImg], &path, &disk);
}

#[test]
fn the_tables_of_old_files_are_in_a_resource_fork() {
    let dir = tempfile::tempdir().unwrap();
    let (image, disk) = partitions();
    let plist = write(dir.path(), "plist.dmg", &image);
    for place in [Place::ResourceFork, Place::Both] {
        let path = write(dir.path(), "disk.dmg", &Dmg { place, ..image.clone() });
        assert_eq!(our_bytes(&path), disk.bytes(), "{place:?}");
        assert_eq!(findings(&path), [""; 0], "{place:?}");
        assert_eq!(codes(&path), [], "{place:?}");
        let specific = |path| {
            format!("{:?}", Image::open(path).unwrap().layers().next().unwrap().details().specific)
        };
        assert_eq!(specific(&path), specific(&plist));
    }
    let image = Dmg { place: Place::ResourceFork, ..Dmg::whole(ZLIB, &disk.bytes(), 8) };
    let path = write(dir.path(), "disk.dmg", &image);
    assert_eq!(our_bytes(&path), disk.bytes());
    assert_read_by(&[Oracle::SevenZip, Oracle::QemuImg], &path, &disk);
}

/// QEMU reads the tables of the resource fork, everyone else those of the property list.
#[test]
fn a_resource_fork_that_differs_from_the_property_list_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let disk = sample();
    let image = Dmg::whole(RAW, &disk.bytes(), 50);
    let mut file = Dmg { place: Place::Both, ..image }.build();
    // The second chunk of the resource fork gets the type zero.
    let entry = b"\x00\x00\x00\x01    \0\0\0\0\0\0\0\x32";
    let at = file.windows(entry.len()).position(|bytes| bytes == entry).unwrap();
    file[at + 3] = 0;
    let path = write_bytes(dir.path(), "disk.dmg", &file);
    assert_eq!(our_bytes(&path), disk.bytes());
    assert!(findings(&path)[0].contains("its chunks differ from those of the property list"));
    assert_eq!(codes(&path), [Code::Unreadable]);
    assert_misread_by(&[Oracle::QemuImg], &path, &disk);
    assert_read_by(&[Oracle::SevenZip], &path, &disk);
}

#[test]
fn segments_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let image = Dmg { segments: (2, 3), ..Dmg::whole(RAW, &sample().bytes(), 8) };
    let error = error(&write(dir.path(), "disk.002.dmgpart", &image));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("segment 2 of 3") && text.contains("hdiutil convert"), "{text}");
}

/// The header is that of an image that hdiutil encrypted with AES-256, the trailer that of version 1.
#[test]
fn encrypted_images_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut v2 = b"encrcdsa\0\0\0\x02\0\0\0\x10\0\0\0\x05\x80\0\0\x01\0\0\x01\0\0\0\0\x5b".to_vec();
    v2.resize(5000, 0xa7);
    let v1 = [&[0xa7; 5000][..], b"cdsaencr"].concat();
    for bytes in [v2, v1] {
        let path = write_bytes(dir.path(), "disk.dmg", &bytes);
        for options in [OpenOptions::new(), OpenOptions::new().format(Format::Dmg)] {
            let error = options.open(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let text = error.to_string();
            assert!(text.contains("encrypted") && text.contains("hdiutil convert"), "{text}");
        }
        assert!(codes(&path).contains(&Code::Encrypted));
    }
}

/// hdiutil's types UDRW and UDTO are the bytes of the disk, whatever the file's name. QEMU fails if
/// it is `.dmg`.
#[test]
fn an_image_without_a_trailer_is_a_raw_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = sample();
    for name in ["disk.dmg", "disk.cdr"] {
        let path = write_bytes(dir.path(), name, &disk.bytes());
        for probing in [Probing::All, Probing::LikeQemu] {
            let image = OpenOptions::new().probing(probing).open(&path).unwrap();
            assert_eq!((image.format(), image.size()), (Format::Raw, disk.size));
        }
    }
    let named = OpenOptions::new().format(Format::Dmg).open(dir.path().join("disk.dmg"));
    let text = named.unwrap_err().to_string();
    assert!(text.contains("DMG trailer") && text.contains("such an image is raw"), "{text}");
}

/// QEMU goes by the name only: a DMG of another name is a raw disk to it.
#[test]
fn probing_like_qemu_requires_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let image = Dmg::whole(ZLIB, &sample().bytes(), 8);
    for (name, like_qemu) in [("disk.dmg", Format::Dmg), ("disk.img", Format::Raw)] {
        let path = write(dir.path(), name, &image);
        assert_eq!(Image::open(&path).unwrap().format(), Format::Dmg);
        let image = OpenOptions::new().probing(Probing::LikeQemu).open(&path).unwrap();
        assert_eq!(image.format(), like_qemu, "{name}");
    }
}

/// Chunks of the type "ignore" are sectors that are not in use.
#[test]
fn unused_sectors_are_unallocated_and_zeros_are_not() {
    use diskimg::extent::Kind;
    let dir = tempfile::tempdir().unwrap();
    let guest = Fill::Words(4).bytes(4 * 512);
    let chunks = vec![
        Chunk::new(RAW, 0, &guest),
        Chunk::empty(ZERO, 4, 4),
        Chunk::empty(IGNORE, 8, 1 << 30),
    ];
    let mut image = Dmg::of(vec![Table::new(0, &[&guest[..], &[0; 4 * 512]].concat(), Vec::new())]);
    image.tables[0].chunks = chunks;
    image.tables[0].sectors = 8 + (1 << 30);
    let path = write(dir.path(), "disk.dmg", &image);
    let image = Image::open(&path).unwrap();
    let kinds: Vec<_> = image.extents(0..image.size()).unwrap().map(|e| e.unwrap().kind).collect();
    assert!(matches!(kinds[..], [Kind::Data(_), Kind::Zero(None), Kind::Unallocated]), "{kinds:?}");
}

/// What `info` says has no more than other programs, but for the names.
#[test]
fn info_has_compression_and_the_names_of_the_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.dmg", &partitions().0);
    let image = Image::open(&path).unwrap();
    let text = format!("{:?}", image.layers().next().unwrap().details().specific);
    for part in ["zlib", "whole disk (Apple_HFS : 60)", "(\"stored-chunks\", Number(3))"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
