//! Differencing disks: the parent, and which sectors hide those of the parent.
//!
//! QEMU opens no image with a parent. The answers here are those of MS-VHDX, and of 7-Zip and
//! libvhdi where these read such images.

use super::write_bytes;
use super::{BLOCK, blocks, bytes_with, error, findings, open_error, our_bytes, write};
use diskimg::inspection::Code;
use diskimg::{ErrorKind, ExternalFiles, Format, Image, InspectOptions, OpenOptions, inspect};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::vhdx::{
    self, Block, MIB, NOT_PRESENT, PARTIAL, PRESENT, UNDEFINED, UNMAPPED, Vhdx, ZERO, braced, put,
};
use std::path::Path;

fn parent() -> Vhdx {
    (0..6).fold(Vhdx::dynamic(6 * MIB), |image, i| image.filled(i, 0x10 + i as u8))
}

/// A child with a block in each state.
fn child() -> Vhdx {
    Vhdx::child(&parent(), ".\\base.vhdx")
        .filled(1, 0xc1)
        .partial(2, 0xc2, [0, 1, 2, 3, 4, 5, 6, 7])
        .state(3, ZERO)
        .state(4, UNMAPPED)
        .state(5, UNDEFINED)
}

fn chain() -> Vec<u8> {
    let mut bytes = blocks(&[0x10, 0xc1, 0x12, 0, 0, 0]);
    bytes[2 * BLOCK..2 * BLOCK + 4096].fill(0xc2);
    bytes
}

/// The same for the other readers.
fn chain_disk(runs: &[(u64, u64, u8)]) -> Disk {
    let run = |&(at, len, byte): &(u64, u64, u8)| Run { at, len, fill: Fill::Byte(byte) };
    Disk { size: 6 * MIB, runs: runs.iter().map(run).collect() }
}

#[test]
fn each_state_of_a_block_hides_the_parents_or_not() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &parent());
    let path = write(dir.path(), "child.avhdx", &child());
    assert_eq!(our_bytes(&path), chain());
    assert_eq!(findings(&path), [""; 0]);
    let image = Image::open(&path).unwrap();
    assert_eq!(image.layers().len(), 2);
    assert_eq!(Format::from_extension(&path), Some(Format::Vhdx));
}

/// 7-Zip and libvhdi agree on blocks that are whole, partial or the parent's.
#[test]
fn other_readers_agree_on_whole_and_partial_blocks() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &parent());
    let image = Vhdx::child(&parent(), ".\\base.vhdx")
        .filled(1, 0xc1)
        .partial(2, 0xc2, 0..8)
        .partial(4, 0xc4, 1024..2048);
    let path = write(dir.path(), "child.vhdx", &image);
    let disk = chain_disk(&[
        (0, MIB, 0x10),
        (MIB, MIB, 0xc1),
        (2 * MIB, MIB, 0x12),
        (2 * MIB, 4096, 0xc2),
        (3 * MIB, MIB, 0x13),
        (4 * MIB, MIB, 0x14),
        (4 * MIB + MIB / 2, MIB / 2, 0xc4),
        (5 * MIB, MIB, 0x15),
    ]);
    assert_eq!(our_bytes(&path), disk.bytes());
    for oracle in [Oracle::SevenZip, Oracle::Libyal] {
        let verdict = oracle.compare("vhdx", &path, &disk);
        assert!(
            matches!(verdict, Verdict::Same | Verdict::NotInstalled),
            "{}: {verdict}",
            oracle.name()
        );
    }
    let verdict = Oracle::QemuImg.compare("vhdx", &path, &disk);
    assert!(matches!(verdict, Verdict::Refuses(_)), "{verdict}");
}

/// The bit of the first sector is the least significant one of its byte, unlike VHD's.
#[test]
fn single_sectors_of_a_child_hide_those_of_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &parent());
    let sectors = [0, 3, 4, 7, 9, 126, 2047];
    let image = Vhdx::child(&parent(), "base.vhdx").partial(2, 0xc2, sectors);
    let path = write(dir.path(), "child.vhdx", &image);
    let mut wanted = blocks(&[0x10, 0x11, 0x12, 0x13, 0x14, 0x15]);
    for sector in sectors {
        let at = 2 * BLOCK + sector as usize * 512;
        wanted[at..at + 512].fill(0xc2);
    }
    assert_eq!(our_bytes(&path), wanted);
    let verdict = Oracle::SevenZip.compare("vhdx", &path, &disk_of(&wanted));
    assert_eq!(verdict, Verdict::Same);
}

/// A disk with the given bytes: a run for each sector.
fn disk_of(bytes: &[u8]) -> Disk {
    let run = |(i, sector): (usize, &[u8])| Run {
        at: i as u64 * 512,
        len: 512,
        fill: Fill::Byte(sector[0]),
    };
    Disk { size: bytes.len() as u64, runs: bytes.chunks(512).enumerate().map(run).collect() }
}

/// A bit stands for a logical sector, and the bitmap of a chunk for 2^23 of them.
#[test]
fn bits_stand_for_logical_sectors_in_every_chunk() {
    let dir = tempfile::tempdir().unwrap();
    for (sector, block_bytes) in [(512, 1 << 20), (4096, 1 << 20), (512, 8 << 20), (4096, 32 << 20)]
    {
        let base = Vhdx { sector, block_bytes, ..Vhdx::dynamic(70 << 30) };
        let block = u64::from(block_bytes);
        let (ratio, last) = (base.chunk_ratio(), base.block_count() - 1);
        // Blocks at the borders of chunks, and of the pages of bitmaps that are read at once.
        let of_page = (64 << 10) * 8 * u64::from(sector) / block;
        let stored = [0, of_page.max(1), ratio - 1, ratio, ratio + 1, last];
        let base = stored.iter().fold(base, |image, &i| image.filled(i, 0x5a));
        base.write(&dir.path().join("base.vhdx"));
        let per_block = block / u64::from(sector);
        let sectors = [0, per_block / 2, per_block - 1];
        let image = stored
            .iter()
            .fold(Vhdx::child(&base, "base.vhdx"), |image, &i| image.partial(i, 0xc3, sectors));
        let path = dir.path().join("child.vhdx");
        image.write(&path);
        let opened = crate::verified::open(&OpenOptions::new(), &path);
        let mut buf = vec![0; sector as usize];
        for index in stored {
            for number in [0, 1, per_block / 2 - 1, per_block / 2, per_block - 2, per_block - 1] {
                opened.read_at(&mut buf, index * block + number * u64::from(sector)).unwrap();
                let wanted = if sectors.contains(&number) { 0xc3 } else { 0x5a };
                assert!(
                    buf.iter().all(|&byte| byte == wanted),
                    "sector {number} of block {index}, {sector}, {block_bytes}"
                );
            }
        }
        assert_eq!(findings(&path), [""; 0]);
    }
}

#[test]
fn a_partial_block_without_a_bitmap_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &parent());
    let image = child();
    for raw in [0_u64, 1, 2, 3, 4, 6 | 8 | image.bitmap_at(0), 6 | 1 << 40, 6, 6 | image.bat_at()] {
        let mut file = image.build();
        put(&mut file, image.bitmap_entry_at(0) as usize, &raw.to_le_bytes());
        let path = write_bytes(dir.path(), "child.vhdx", &file);
        let failed = error(&path);
        assert_eq!(failed.kind(), ErrorKind::Corrupt, "{raw:#x}");
        assert_eq!(failed.lost(), Some(2 * MIB..3 * MIB), "{raw:#x}: {failed}");
        assert!(!findings(&path).is_empty(), "{raw:#x}");
    }
    // Some programs write the state of a partial block for a bitmap.
    let mut file = image.build();
    let raw = u64::from(PARTIAL) | image.bitmap_at(0);
    put(&mut file, image.bitmap_entry_at(0) as usize, &raw.to_le_bytes());
    assert_eq!(our_bytes(&write_bytes(dir.path(), "child.vhdx", &file)), chain());
}

#[test]
fn a_block_over_a_bitmap_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &parent());
    let mut image = child();
    let bitmap = image.bitmap_at(0) / MIB;
    let block = Block { state: PRESENT, data: None, megabyte: Some(bitmap) };
    image.blocks.insert(0, block);
    let path = write(dir.path(), "child.vhdx", &image);
    let failed = error(&path);
    assert!(failed.to_string().contains("overlaps another block"), "{failed}");
}

/// Beyond the end of a parent that is smaller, the disk reads as zeros.
#[test]
fn a_child_may_be_larger_than_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &parent());
    let image = Vhdx { size: 9 * MIB, ..Vhdx::child(&parent(), "base.vhdx") };
    let path = write(dir.path(), "child.vhdx", &image.filled(8, 0xc8));
    assert_eq!(our_bytes(&path), blocks(&[0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0, 0, 0xc8]));
}

#[test]
fn a_chain_of_checkpoints_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let middle = Vhdx::child(&parent(), "base.vhdx").filled(0, 0xa0).partial(1, 0xa1, 0..2);
    let top = Vhdx { data_write_guid: [0xd3; 16], ..Vhdx::child(&middle, "disk_1.avhdx") };
    let top = top.partial(1, 0xb1, 1..3).state(2, ZERO);
    write(dir.path(), "base.vhdx", &parent());
    write(dir.path(), "disk_1.avhdx", &middle);
    let path = write(dir.path(), "disk_2.avhdx", &top);
    let mut wanted = blocks(&[0xa0, 0x11, 0, 0x13, 0x14, 0x15]);
    wanted[BLOCK..BLOCK + 512].fill(0xa1);
    wanted[BLOCK + 512..BLOCK + 1536].fill(0xb1);
    assert_eq!(our_bytes(&path), wanted);
    assert_eq!(Image::open(&path).unwrap().layers().len(), 3);
}

fn locator(entries: &[(&str, &str)]) -> Vec<(String, String)> {
    let linkage = ("parent_linkage".to_owned(), braced(parent().data_write_guid));
    let entries = entries.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
    std::iter::once(linkage).chain(entries).collect()
}

#[test]
fn every_kind_of_path_finds_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &parent());
    write(dir.path(), "other.vhdx", &Vhdx { data_write_guid: [0xee; 16], ..parent() });
    for entries in [
        &[("relative_path", ".\\base.vhdx")][..],
        &[("relative_path", "..\\elsewhere\\base.vhdx")],
        &[("absolute_win32_path", "D:\\vm\\base.vhdx")],
        &[("absolute_win32_path", "\\\\?\\D:\\vm\\base.vhdx")],
        &[("volume_path", "\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\vm\\base.vhdx")],
        // The file with the first name has another identifier.
        &[("relative_path", "other.vhdx"), ("absolute_win32_path", "C:\\base.vhdx")],
        &[("absolute_win32_path", "C:\\none.vhdx"), ("relative_path", ".\\base.vhdx")],
    ] {
        let path = write(dir.path(), "child.vhdx", &Vhdx { locator: locator(entries), ..child() });
        assert_eq!(our_bytes(&path), chain(), "{entries:?}");
    }
}

#[test]
fn a_parent_in_another_directory_is_refused_by_default() {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["vm", "disks"] {
        std::fs::create_dir(dir.path().join(sub)).unwrap();
    }
    write(&dir.path().join("disks"), "base.vhdx", &parent());
    let locator = locator(&[("relative_path", "..\\disks\\base.vhdx")]);
    let path = write(&dir.path().join("vm"), "child.vhdx", &Vhdx { locator, ..child() });
    let refused = open_error(&path);
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    let any = OpenOptions::new().external_files(ExternalFiles::Any);
    assert_eq!(bytes_with(&any, &path), chain());
    let none = OpenOptions::new().external_files(ExternalFiles::None);
    assert_eq!(none.open(&path).unwrap_err().kind(), ErrorKind::Refused);
}

/// The parent was changed after the child was created, or replaced.
#[test]
fn a_parent_with_another_data_write_guid_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &Vhdx { data_write_guid: [0xee; 16], ..parent() });
    let path = write(dir.path(), "child.vhdx", &child());
    let failed = open_error(&path);
    assert_eq!(failed.kind(), ErrorKind::Invalid);
    assert!(failed.to_string().contains("EEEEEEEE"), "{failed}");
    let ignoring = OpenOptions::new().ignore_content_id(true);
    assert_eq!(bytes_with(&ignoring, &path), chain());
    // Changes of the file that do not change the guest's data have another GUID.
    write(dir.path(), "base.vhdx", &Vhdx { file_write_guid: [0xee; 16], ..parent() });
    assert_eq!(our_bytes(&path), chain());
}

/// While a parent is merged with its own, the child records both identifiers.
#[test]
fn either_linkage_identifies_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    let base = parent();
    let entry = |key: &str, guid: [u8; 16]| (key.to_owned(), braced(guid));
    let path_entry = ("relative_path".to_owned(), "base.vhdx".to_owned());
    for (linkage, linkage2, is_found) in [
        (base.data_write_guid, [1; 16], true),
        ([1; 16], base.data_write_guid, true),
        ([1; 16], [2; 16], false),
        ([0; 16], [0; 16], false),
    ] {
        let locator = vec![
            entry("parent_linkage", linkage),
            entry("parent_linkage2", linkage2),
            path_entry.clone(),
        ];
        write(dir.path(), "base.vhdx", &base);
        let path = write(dir.path(), "child.vhdx", &Vhdx { locator, ..child() });
        match is_found {
            true => assert_eq!(our_bytes(&path), chain()),
            false => {
                let failed = open_error(&path);
                assert!(matches!(failed.kind(), ErrorKind::Invalid | ErrorKind::Corrupt));
            }
        }
    }
}

/// Each rule of the locator, broken one at a time.
#[test]
fn locators_that_cannot_be_followed_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &parent());
    for (image, kind, message) in [
        (
            Vhdx { locator_type: [1; 16], ..child() },
            ErrorKind::Unsupported,
            "a locator of the type",
        ),
        (Vhdx { locator: locator(&[]), ..child() }, ErrorKind::Corrupt, "no path"),
        (
            Vhdx { locator: vec![("relative_path".into(), "base.vhdx".into())], ..child() },
            ErrorKind::Corrupt,
            "no parent_linkage",
        ),
        (
            Vhdx { locator: [locator(&[]), locator(&[])].concat(), ..child() },
            ErrorKind::Corrupt,
            "two entries 'parent_linkage'",
        ),
        (
            Vhdx { without: vec![vhdx::PARENT_LOCATOR], ..child() },
            ErrorKind::Corrupt,
            "without a parent locator",
        ),
        (
            Vhdx { locator: locator(&[("relative_path", "missing.vhdx")]), ..child() },
            ErrorKind::Io,
            "missing.vhdx",
        ),
    ] {
        let failed = open_error(&write(dir.path(), "child.vhdx", &image));
        assert_eq!(failed.kind(), kind, "{failed}");
        assert!(failed.to_string().contains(message), "{failed}");
    }
    let many: Vec<_> = (0..257).map(|i| (format!("key{i}"), "value".to_owned())).collect();
    let failed = open_error(&write(dir.path(), "child.vhdx", &Vhdx { locator: many, ..child() }));
    assert!(failed.to_string().contains("257 entries; at most 256"), "{failed}");
}

#[test]
fn a_disk_that_is_its_own_parent_is_a_loop() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhdx { data_write_guid: parent().data_write_guid, ..child() };
    let path = write(dir.path(), "base.vhdx", &image);
    let failed = open_error(&path);
    assert!(failed.to_string().contains("loops"), "{failed}");
}

/// Nothing opens a parent that an untrusted image names.
#[test]
fn inspect_names_the_parents_paths() {
    let dir = tempfile::tempdir().unwrap();
    let locator = locator(&[
        ("relative_path", "..\\secret.vhdx"),
        ("absolute_win32_path", "C:\\Windows\\secret.vhdx"),
    ]);
    let path = write(dir.path(), "child.vhdx", &Vhdx { locator, ..child() });
    let found = inspect(&path, &InspectOptions::new()).unwrap();
    assert!(found.finding(Code::Parent).is_some() && !found.is_safe());
    let text = format!("{:?}", found.references);
    assert!(text.contains("..\\\\secret.vhdx") && text.contains("C:\\\\Windows"), "{text}");
}

#[test]
fn info_needs_no_parent() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "child.vhdx", &child());
    let image = OpenOptions::new().metadata_only(true).open(&path).unwrap();
    let info = serde_json::to_value(image.info(0).unwrap()).unwrap();
    assert_eq!(info["format-specific"]["data"]["subformat"], "differencing");
    assert_eq!(info["backing-filename"], ".\\base.vhdx");
    assert_eq!(info["backing-filename-format"], "vhdx");
    assert_eq!(findings(&path), [""; 0]);
    assert_eq!(open_error(Path::new(&path)).kind(), ErrorKind::Io);
}

/// A block that was never written is the parent's, and the state of its own may be written out.
#[test]
fn blocks_that_are_not_present_are_the_parents() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhdx", &parent());
    let image = Vhdx::child(&parent(), "base.vhdx").state(1, NOT_PRESENT);
    let path = write(dir.path(), "child.vhdx", &image);
    assert_eq!(our_bytes(&path), blocks(&[0x10, 0x11, 0x12, 0x13, 0x14, 0x15]));
}
