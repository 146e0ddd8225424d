//! Images that qemu-img does not write.

use super::{bytes_with, error, findings, our_bytes, write, write_bytes};
use diskimg::inspection::Code;
use diskimg::{ErrorKind, Format, Image, InspectOptions, OpenOptions, Probing, inspect};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{qemu_bytes, try_run};
use diskimg_testkit::vdi::{ALLOCATED_AT, FREE, Vdi, ZERO};
use std::path::Path;

/// Guest bytes of a block.
const BLOCK: u64 = 64 << 10;

/// A disk of five blocks: one at the end of the file, one of zeros, one at its start.
fn sample() -> Vdi {
    Vdi::dynamic(5 * BLOCK).block(0, 1, 0x10).entry(2, ZERO).block(4, 0, 0x14)
}

fn sample_disk() -> Disk {
    let run = |block: u64, byte| Run { at: block * BLOCK, len: BLOCK, fill: Fill::Byte(byte) };
    Disk { size: 5 * BLOCK, runs: vec![run(0, 0x10), run(4, 0x14)] }
}

fn codes(path: &Path) -> Vec<Code> {
    let found = inspect(path, &InspectOptions::new()).unwrap();
    found.findings.iter().map(|finding| finding.code).collect()
}

fn assert_read_by(oracles: &[Oracle], image: &Path, disk: &Disk) {
    for oracle in oracles {
        let verdict = oracle.compare("vdi", image, disk);
        let expected = matches!(verdict, Verdict::Same | Verdict::NotInstalled);
        assert!(expected, "{}: {verdict}", oracle.name());
    }
}

/// VirtualBox reads blocks of 128 KiB to 128 MiB, QEMU and 7-Zip only 1 MiB.
#[test]
fn blocks_may_have_other_sizes_than_1_mib() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.vdi", &sample());
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    assert_eq!(findings(&path), [""; 0]);
    assert_eq!(codes(&path), []);
    assert_read_by(&[Oracle::Dissect], &path, &sample_disk());
    for block_bytes in [512u32, 4096, 128 << 10, 4 << 20] {
        let size = 3 * u64::from(block_bytes);
        let image = Vdi { block_bytes, ..Vdi::dynamic(size) };
        let image = image.block(2, 0, 0x12).block(0, 1, 0x10);
        let path = write(dir.path(), "disk.vdi", &image);
        let run = |block: u64, byte| Run {
            at: block * u64::from(block_bytes),
            len: block_bytes.into(),
            fill: Fill::Byte(byte),
        };
        let disk = Disk { size, runs: vec![run(0, 0x10), run(2, 0x12)] };
        assert_eq!(our_bytes(&path), disk.bytes(), "{block_bytes}");
        assert_read_by(&[Oracle::Dissect], &path, &disk);
        if block_bytes >= 128 << 10 {
            assert_read_by(&[Oracle::VirtualBox], &path, &disk);
        }
    }
    let args = ["info", "-f", "vdi", path.to_str().unwrap()];
    let theirs = String::from_utf8(try_run("qemu-img", args).stderr).unwrap();
    assert!(
        theirs.contains("unsupported VDI image (block size 4194304 is not 1048576)"),
        "{theirs}"
    );
}

/// VirtualBox skips the bytes that precede each block; QEMU, 7-Zip and dissect do not and read
/// other data, without an error.
#[test]
fn extra_bytes_before_each_block_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let block = 1 << 20;
    let image = Vdi { block_bytes: block, block_extra: 512, ..Vdi::dynamic(3 << 20) };
    let image = image.block(0, 1, 0x10).block(2, 0, 0x12);
    let path = write(dir.path(), "disk.vdi", &image);
    let run = |at: u64, byte| Run { at: at << 20, len: 1 << 20, fill: Fill::Byte(byte) };
    let disk = Disk { size: 3 << 20, runs: vec![run(0, 0x10), run(2, 0x12)] };
    assert_eq!(our_bytes(&path), disk.bytes());
    assert_read_by(&[Oracle::VirtualBox], &path, &disk);
    for wrong in [Oracle::QemuImg, Oracle::Dissect] {
        let verdict = wrong.compare("vdi", &path, &disk);
        let expected = matches!(verdict, Verdict::Differs(_) | Verdict::NotInstalled);
        assert!(expected, "{}: {verdict}", wrong.name());
    }
    assert_eq!(codes(&path), [Code::Subformat]);
}

/// The map at a fixed place, the data directly after it: neither is aligned.
#[test]
fn version_0_2_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vdi { version: 2, ..sample() };
    let file = image.build();
    assert_eq!((image.map_at(), image.data_at()), (420, 440));
    let path = write_bytes(dir.path(), "disk.vdi", &file);
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    assert_eq!(findings(&path), [""; 0]);
    // VirtualBox requires larger blocks.
    let image = Vdi { version: 2, block_bytes: 1 << 20, ..Vdi::dynamic(2 << 20) };
    let path = write(dir.path(), "large.vdi", &image.block(1, 0, 0x11));
    let disk = Disk {
        size: 2 << 20,
        runs: vec![Run { at: 1 << 20, len: 1 << 20, fill: Fill::Byte(0x11) }],
    };
    assert_eq!(our_bytes(&path), disk.bytes());
    assert_read_by(&[Oracle::VirtualBox], &path, &disk);
}

#[test]
fn map_and_data_may_be_at_any_offset_and_the_header_of_any_length() {
    let dir = tempfile::tempdir().unwrap();
    for (header_bytes, map_at, data_at) in [
        (384, 456, None),
        (384, 457, Some(700)),
        (400, 472, Some(493)),
        (400, 1 << 20, Some(2 << 20)),
        // A later version may have a longer header.
        (440, 512, Some(1024)),
    ] {
        let image = Vdi { header_bytes, map_at, data_at, ..sample() };
        let path = write(dir.path(), "disk.vdi", &image);
        assert_eq!(our_bytes(&path), sample_disk().bytes(), "{map_at}");
        assert_read_by(&[Oracle::Dissect], &path, &sample_disk());
    }
}

/// Programs write different texts before the signature, and change them.
#[test]
fn the_text_before_the_signature_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    for text in [
        "",
        "<<< innotek VirtualBox Disk Image >>>\n",
        "<<< Sun xVM VirtualBox Disk Image >>>\n",
        "<<< Oracle VirtualBox Disk Image >>>\n",
        "<<< QEMU VM Virtual Disk Image >>>\n",
        "<<< CloneVDI VirtualBox Disk Image >>>\n",
        "conectix",
    ] {
        let image = Vdi { text: text.to_owned(), ..sample() };
        let path = write(dir.path(), "disk.img", &image);
        // The signature of VHD is at the start of the text.
        let format = if text == "conectix" { Format::Vhd } else { Format::Vdi };
        let source = diskimg::storage::source::FileSource::open(&path).unwrap();
        assert_eq!(Format::probe(&source).unwrap(), format, "{text}");
        let named = OpenOptions::new().format(Format::Vdi);
        assert_eq!(bytes_with(&named, &path), sample_disk().bytes(), "{text}");
    }
}

/// Old versions of VirtualBox made such disks. VirtualBox rounds their size down to whole sectors,
/// which loses bytes; QEMU rounds it up, and so does diskimg.
#[test]
fn a_size_that_is_not_whole_sectors_is_rounded_up() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vdi { block_bytes: 1 << 20, ..Vdi::dynamic((1 << 20) + 100) };
    let path = write(dir.path(), "disk.vdi", &image.block(1, 0, 0x11));
    let bytes = our_bytes(&path);
    assert_eq!(bytes.len(), (1 << 20) + 512);
    assert!(bytes[1 << 20..].iter().all(|&byte| byte == 0x11));
    assert_eq!(qemu_bytes(&path, "vdi"), bytes);
    let image = Image::open(&path).unwrap();
    let warning = image.warnings().next().unwrap().to_string();
    assert!(warning.contains("rounded up to 1049088"), "{warning}");
    assert_eq!(codes(&path), [Code::PartialSector]);
}

/// VirtualBox returns an error for such a block and its repair removes it. QEMU reads zeros.
#[test]
fn a_block_beyond_the_end_of_the_file_is_an_error_and_zeros_like_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let large = Vdi { block_bytes: 1 << 20, ..Vdi::dynamic(3 << 20) };
    let image = large.block(0, 0, 0x10).block(1, 1, 0x11).entry(2, 2);
    let path = write(dir.path(), "disk.vdi", &image);
    let found = error(&path);
    assert_eq!(found.kind(), ErrorKind::Corrupt);
    assert_eq!(found.lost(), Some(2 << 20..3 << 20));
    assert!(found.to_string().contains("block 2 extends to"), "{found}");
    assert!(findings(&path)[0].contains("beyond the end of the file"));
    assert_eq!(codes(&path), [Code::Unreadable]);
    let like_qemu = OpenOptions::new().probing(Probing::LikeQemu);
    assert_eq!(bytes_with(&like_qemu, &path), qemu_bytes(&path, "vdi"));
    // Cut off within a block.
    let mut file = image.build();
    file.truncate(file.len() - (512 << 10));
    let path = write_bytes(dir.path(), "cut.vdi", &file);
    assert_eq!(error(&path).lost(), Some(1 << 20..2 << 20));
    assert_eq!(bytes_with(&like_qemu, &path), qemu_bytes(&path, "vdi"));
    let disk = Disk { size: 3 << 20, runs: vec![] };
    let verdict = Oracle::VirtualBox.compare("vdi", &path, &disk);
    assert!(matches!(verdict, Verdict::Refuses(_) | Verdict::NotInstalled), "{verdict}");
}

#[test]
fn a_file_may_end_within_its_last_block_if_the_disk_does() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vdi { size: 4 * BLOCK + 1024, ..sample() }.block(0, 0, 0x10).block(4, 1, 0x14);
    let mut file = image.build();
    file.truncate(file.len() - (BLOCK as usize - 1024));
    let path = write_bytes(dir.path(), "disk.vdi", &file);
    let bytes = our_bytes(&path);
    assert_eq!(bytes[4 * BLOCK as usize..], [0x14; 1024]);
    file.pop();
    let found = error(&write_bytes(dir.path(), "short.vdi", &file));
    assert_eq!(found.kind(), ErrorKind::Corrupt, "{found}");
}

#[test]
fn entries_that_refer_to_the_same_block_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.vdi", &sample().entry(3, 1));
    let found = error(&path);
    assert_eq!(found.kind(), ErrorKind::Corrupt);
    assert!(found.to_string().contains("entries 0 and 3 refer to the same block"), "{found}");
    assert_eq!(findings(&path).len(), 2, "{:?}", findings(&path));
    assert_eq!(codes(&path), [Code::Unreadable]);
}

/// As qemu-img: the number of blocks bounds their indices, and the header counts them.
#[test]
fn the_check_finds_what_qemu_img_finds() {
    let dir = tempfile::tempdir().unwrap();
    let large = || Vdi { block_bytes: 1 << 20, ..Vdi::dynamic(3 << 20) };
    let good = || large().block(0, 0, 0x10).block(1, 1, 0x11);
    for (image, message) in [
        (good(), None),
        (large().block(0, 3, 0x10), Some("block 0 has the index 3, but the image has only 3")),
        (good().entry(2, 1), Some("refer to the same block")),
        (
            Vdi { allocated: Some(1), ..good() },
            Some("2 blocks are allocated, but the header counts 1"),
        ),
        (
            Vdi { allocated: Some(3), ..good() },
            Some("2 blocks are allocated, but the header counts 3"),
        ),
    ] {
        let path = write(dir.path(), "disk.vdi", &image);
        let theirs = try_run("qemu-img", ["check", "-f", "vdi", path.to_str().unwrap()]);
        assert_eq!(theirs.status.code() == Some(0), message.is_none(), "{message:?}");
        let opened = Image::open(&path).unwrap();
        let report = opened.check(&mut |_| {}).unwrap().unwrap();
        // A counter that is too large costs only space.
        let found = report.corruptions + report.leaks;
        assert_eq!(found > 0, message.is_some(), "{message:?}");
        if let Some(message) = message {
            let found = findings(&path);
            assert!(found.iter().any(|found| found.contains(message)), "{message}: {found:?}");
        }
    }
}

/// What a discarded block leaves in images of some programs. See `in_place.rs` for what QEMU does.
#[test]
fn a_gap_in_which_other_programs_would_overwrite_a_block_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vdi::dynamic(4 * BLOCK).block(1, 1, 0x11).block(2, 2, 0x12);
    let path = write(dir.path(), "disk.vdi", &image);
    let [finding] = &findings(&path)[..] else { panic!("{:?}", findings(&path)) };
    assert!(finding.contains("block 2 has the index 2, but 2 blocks are allocated"), "{finding}");
    let opened = Image::open(&path).unwrap();
    let report = opened.check(&mut |_| {}).unwrap().unwrap();
    assert_eq!((report.corruptions, report.warnings), (0, 1));
    assert_eq!(codes(&path), []);
}

#[test]
fn a_map_may_have_more_entries_than_the_disk_needs_but_not_fewer() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.vdi", &Vdi { entries: Some(9), ..sample() });
    assert_eq!(our_bytes(&path), sample_disk().bytes());
    let path =
        write(dir.path(), "disk.vdi", &Vdi { size: 6 * BLOCK, entries: Some(5), ..sample() });
    let found = error(&path);
    assert_eq!(found.kind(), ErrorKind::Corrupt);
    assert!(found.to_string().contains("the disk has 6 blocks"), "{found}");
}

#[test]
fn damage_is_an_error_that_says_what_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let set = |at: usize, number: u32| {
        move |file: &mut Vec<u8>| file[at..at + 4].copy_from_slice(&number.to_le_bytes())
    };
    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    let damages: Vec<(&str, ErrorKind, Damage)> = vec![
        ("signature", ErrorKind::Corrupt, Box::new(set(64, 0))),
        ("version 2.1 of the format", ErrorKind::Unsupported, Box::new(set(68, 0x2_0001))),
        ("version 0.1 of the format", ErrorKind::Unsupported, Box::new(set(68, 1))),
        ("a header of 383 bytes", ErrorKind::Corrupt, Box::new(set(72, 383))),
        ("image type 5", ErrorKind::Corrupt, Box::new(set(76, 5))),
        ("image type 0", ErrorKind::Corrupt, Box::new(set(76, 0))),
        ("the block map at 0x1c7 overlaps the header", ErrorKind::Corrupt, Box::new(set(340, 455))),
        ("the data at 0x213 overlaps the block map", ErrorKind::Corrupt, Box::new(set(344, 531))),
        ("blocks of 0 bytes", ErrorKind::Corrupt, Box::new(set(376, 0))),
        ("blocks of 256 bytes", ErrorKind::Corrupt, Box::new(set(376, 256))),
        ("blocks of 65537 bytes", ErrorKind::Corrupt, Box::new(set(376, 65537))),
        ("blocks of 2147483648 bytes", ErrorKind::Corrupt, Box::new(set(376, 1 << 31))),
        ("3 extra bytes per block", ErrorKind::Corrupt, Box::new(set(380, 3))),
        ("the disk has 5 blocks", ErrorKind::Corrupt, Box::new(set(384, 0))),
        ("beyond the end of the file", ErrorKind::Corrupt, Box::new(|file| file.truncate(455))),
        ("beyond the end of the file", ErrorKind::Corrupt, Box::new(|file| file.truncate(520))),
    ];
    for (message, kind, damage) in damages {
        let mut file = sample().build();
        damage(&mut file);
        let path = write_bytes(dir.path(), "disk.vdi", &file);
        let found = OpenOptions::new().format(Format::Vdi).open(&path).unwrap_err();
        assert_eq!(found.kind(), kind, "{message}: {found}");
        assert!(found.to_string().contains(message), "{message}: {found}");
        assert!(found.to_string().contains("VDI "), "{found}");
    }
}

/// A small file must not claim a map of gigabytes, nor a disk that takes hours to read.
#[test]
fn exabytes_in_a_small_file_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let set = |file: &mut Vec<u8>, at: usize, number: u64, len: usize| {
        file[at..at + len].copy_from_slice(&number.to_le_bytes()[..len]);
    };
    let mut file = sample().build();
    set(&mut file, 368, u64::MAX, 8);
    assert_eq!(error(&write_bytes(dir.path(), "a.vdi", &file)).kind(), ErrorKind::Corrupt);
    // As many blocks as the map can have, each of 1 GiB.
    set(&mut file, 368, (1 << 62) - (2 << 30), 8);
    set(&mut file, 376, 1 << 30, 4);
    set(&mut file, 384, u32::MAX.into(), 4);
    assert_eq!(error(&write_bytes(dir.path(), "b.vdi", &file)).kind(), ErrorKind::Corrupt);
    set(&mut file, 340, 512, 4);
    set(&mut file, 344, u32::MAX.into(), 4);
    set(&mut file, 384, 0x3fff_0000, 4);
    set(&mut file, 368, 0x3fff_0000u64 << 30, 8);
    let found = error(&write_bytes(dir.path(), "c.vdi", &file));
    assert_eq!((found.kind(), found.exceeded()), (ErrorKind::Limit, Some("table_bytes")));
    // A map within the limit, but beyond the end of the file.
    set(&mut file, 368, 1 << 50, 8);
    let found = error(&write_bytes(dir.path(), "d.vdi", &file));
    assert_eq!(found.kind(), ErrorKind::Corrupt, "{found}");
    assert!(found.to_string().contains("block map"), "{found}");
}

#[test]
fn the_largest_index_does_not_overflow() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.vdi", &sample().entry(3, ZERO - 1));
    let found = error(&path);
    assert!(found.to_string().contains("block 3 extends to"), "{found}");
    assert_eq!(findings(&path).len(), 2, "{:?}", findings(&path));
    assert_eq!(FREE - 2, ZERO - 1);
}

#[test]
fn the_counter_is_where_the_tests_change_it() {
    let file = sample().build();
    assert_eq!(file[ALLOCATED_AT..ALLOCATED_AT + 4], 2u32.to_le_bytes());
}
