//! VHDs that no common program writes, but that exist. They are built by `diskimg_testkit::vhd`.

use super::{bytes_with, our_bytes, write, write_bytes};
use diskimg::inspection::Code;
use diskimg::{ErrorKind, Format, Image, InspectOptions, OpenOptions, Probing, inspect};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::qemu_bytes;
use diskimg_testkit::vhd::{SECTOR, Vhd, fixed, footer, seal};
use std::path::Path;

/// Guest bytes of a block.
const BLOCK: u64 = 64 << 10;

/// A disk of four blocks, of which two are allocated.
fn sample() -> Vhd {
    Vhd::dynamic(4 * BLOCK).block(1, 0x11, 0..128).block(3, 0x33, 0..128)
}

fn sample_bytes() -> Vec<u8> {
    let mut bytes = vec![0; 4 * BLOCK as usize];
    bytes[64 << 10..128 << 10].fill(0x11);
    bytes[192 << 10..].fill(0x33);
    bytes
}

/// The error for reading the whole disk.
fn error(path: &Path) -> diskimg::Error {
    let read = Image::open(path).and_then(|image| {
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(&mut bytes, 0)
    });
    read.unwrap_err()
}

fn warnings(path: &Path) -> String {
    Image::open(path).unwrap().warnings().collect::<Vec<_>>().join("\n")
}

fn findings(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    Image::open(path).unwrap().check(&mut |finding| found.push(finding.message)).unwrap();
    found
}

#[test]
fn a_disk_reads_as_in_other_programs() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.vhd", &sample());
    assert_eq!(our_bytes(&path), sample_bytes());
    assert_eq!(qemu_bytes(&path, "vpc"), sample_bytes());
    assert_eq!(findings(&path), [""; 0]);
}

/// The specification: a sector whose bit is 0 does not have data. QEMU and dissect return what is
/// stored in the block, 7-Zip refuses such a disk, and libvhdi reads it like diskimg, but for bytes
/// of the bitmap that are neither 0 nor ff, in which it takes all bits as set.
#[test]
fn sectors_whose_bit_is_not_set_are_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let odd = vec![0, 1, 5, 8, 9, 15, 16, 64, 127];
    let aligned: Vec<_> = (0..8).chain(24..48).chain(120..128).collect();
    for (sectors, is_aligned) in [(odd, false), (aligned, true)] {
        let image = Vhd::dynamic(2 * BLOCK).block(1, 0xaa, sectors.iter().copied());
        let path = write(dir.path(), "disk.vhd", &image);
        let run = |sector: &usize| Run {
            at: (64 << 10) + *sector as u64 * 512,
            len: 512,
            fill: Fill::Byte(0xaa),
        };
        let disk = Disk { size: 2 * BLOCK, runs: sectors.iter().map(run).collect() };
        assert_eq!(our_bytes(&path), disk.bytes());
        if is_aligned {
            let verdict = Oracle::Libyal.compare("vpc", &path, &disk);
            assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
        }
        assert!(matches!(Oracle::QemuImg.compare("vpc", &path, &disk), Verdict::Differs(_)));
        // Who stands in for qemu-img reads what it reads, and an upload is not accepted.
        let like_qemu = OpenOptions::new().probing(Probing::LikeQemu);
        assert_eq!(bytes_with(&like_qemu, &path), qemu_bytes(&path, "vpc"));
        assert_eq!(codes(&path), [Code::Subformat]);
    }
    // Zeros there are the same to all.
    let image = Vhd::dynamic(2 * BLOCK).block(1, 0, [3]);
    assert_eq!(codes(&write(dir.path(), "disk.vhd", &image)), []);
}

fn codes(path: &Path) -> Vec<Code> {
    let found = inspect(path, &InspectOptions::new()).unwrap();
    found.findings.iter().map(|finding| finding.code).collect()
}

/// The first sector of a fixed disk is the guest's, but QEMU takes it for the footer.
#[test]
fn a_footer_in_the_first_sector_of_a_fixed_disk_is_an_error_if_qemu_would_use_it() {
    let dir = tempfile::tempdir().unwrap();
    let inner = sample().build();
    let path = write_bytes(dir.path(), "disk.vhd", &fixed(&inner));
    assert_eq!(qemu_bytes(&path, "vpc"), sample_bytes());
    let like_qemu = OpenOptions::new().probing(Probing::LikeQemu);
    assert_eq!(like_qemu.open(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(codes(&path).contains(&Code::Footer));
}

/// The guest's last sector is often the last one of the file.
#[test]
fn a_footer_at_the_end_of_another_image_does_not_make_it_a_vhd() {
    let dir = tempfile::tempdir().unwrap();
    for head in [&b"MSWIM\0\0\0"[..], b"PK\x03\x04", b"\x3a\xff\x26\xed\x01\0"] {
        let mut contents = vec![0; 4096];
        contents[..head.len()].copy_from_slice(head);
        let path = write_bytes(dir.path(), "disk", &fixed(&contents));
        assert_eq!(Image::open(&path).unwrap_err().kind(), ErrorKind::Unsupported);
        let named = OpenOptions::new().format(Format::Vhd);
        assert_eq!(bytes_with(&named, &path), contents);
    }
}

/// Sectors that are not allocated now may be written later.
#[test]
fn a_block_that_reaches_beyond_the_footer_is_found_by_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = Vhd::dynamic(2 * BLOCK).block(1, 0x11, 0..8).build();
    let footer = file.split_off(file.len() - SECTOR);
    file.truncate(file.len() - 4096);
    file.extend(footer);
    let path = write_bytes(dir.path(), "disk.vhd", &file);
    our_bytes(&path);
    assert!(findings(&path)[0].contains("beyond the end of the space for blocks"));
    assert_eq!(codes(&path), [Code::Unreadable]);
}

#[test]
fn a_fixed_disk_is_recognized_by_its_footer_and_is_raw_to_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let contents = vec![9; 100 << 10];
    let path = write_bytes(dir.path(), "disk.img", &fixed(&contents));
    assert_eq!(Image::open(&path).unwrap().format(), Format::Vhd);
    assert_eq!(our_bytes(&path), contents);
    assert_eq!(qemu_bytes(&path, "vpc"), contents);
    let like_qemu = OpenOptions::new().probing(Probing::LikeQemu).open(&path).unwrap();
    assert_eq!((like_qemu.format(), like_qemu.size()), (Format::Raw, (100 << 10) + 512));
    // A footer whose checksum is wrong may be anything.
    let mut damaged = fixed(&contents);
    *damaged.last_mut().unwrap() ^= 1;
    let path = write_bytes(dir.path(), "damaged.img", &damaged);
    assert_eq!(Image::open(&path).unwrap().format(), Format::Raw);
}

/// The guest's first sector may be the header of another image.
#[test]
fn the_contents_of_a_fixed_disk_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let inner = sample().build();
    let path = write_bytes(dir.path(), "disk.vhd", &fixed(&inner));
    let options = OpenOptions::new().format(Format::Vhd);
    assert_eq!(bytes_with(&options, &path), inner);
}

#[test]
fn virtual_pc_before_2004_wrote_footers_of_511_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = fixed(&[9; 4096]);
    file.pop();
    let path = write_bytes(dir.path(), "disk.vhd", &file);
    assert_eq!(our_bytes(&path), [9; 4096]);
    let mut file = sample().build();
    file.pop();
    let path = write_bytes(dir.path(), "dynamic.vhd", &file);
    assert_eq!(our_bytes(&path), sample_bytes());
}

#[test]
fn either_footer_suffices_and_the_check_reports_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let whole = sample().build();
    let end = whole.len() - SECTOR;
    type Damage = fn(&mut Vec<u8>, usize);
    let damages: [(&str, Damage); 5] = [
        ("copy of the footer at the start", |file, _| file[..8].fill(0)),
        ("copy of the footer at the start", |file, _| file[50] ^= 1),
        ("footer at the end", |file, end| file[end + 50] ^= 1),
        ("footer at the end", |file, end| file[end..].fill(0)),
        ("footer at the end", |file, end| file.truncate(end)),
    ];
    for (index, (damaged, damage)) in damages.into_iter().enumerate() {
        let mut file = whole.clone();
        damage(&mut file, end);
        let path = write_bytes(dir.path(), "disk.vhd", &file);
        assert_eq!(our_bytes(&path), sample_bytes(), "{index}");
        assert!(warnings(&path).contains(damaged), "{index}: {}", warnings(&path));
        let [finding] = &findings(&path)[..] else { panic!("{index}: {:?}", findings(&path)) };
        assert!(finding.contains(damaged), "{index}: {finding}");
    }
}

#[test]
fn footers_that_contradict_each_other_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = sample().build();
    let grown = Vhd { size: 5 * BLOCK, ..sample() };
    file[..SECTOR].copy_from_slice(&grown.footer());
    let path = write_bytes(dir.path(), "disk.vhd", &file);
    let error = error(&path);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("the size is 327680 bytes in one and 262144"), "{error}");
    // The information can be had nevertheless.
    OpenOptions::new().metadata_only(true).open(&path).unwrap().info(0).unwrap();
}

#[test]
fn blocks_that_overlap_each_other_or_metadata_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let whole = sample().build();
    let table = sample().table_at();
    let entry = |file: &[u8], index: usize| {
        u32::from_be_bytes(file[table + 4 * index..][..4].try_into().unwrap())
    };
    let first = entry(&whole, 1);
    for (sector, message) in [
        (first, "refer to the same block, or to two that overlap"),
        (first + 100, "refer to the same block, or to two that overlap"),
        // These overlap block 1 as well.
        (0, "overlap"),
        (2, "overlap"),
        (3, "overlap"),
        (u32::MAX - 1, "is beyond the end of the file"),
    ] {
        let mut file = whole.clone();
        file[table + 12..table + 16].copy_from_slice(&u32::to_be_bytes(sector));
        let path = write_bytes(dir.path(), "disk.vhd", &file);
        let error = error(&path);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(message), "{sector}: {error}");
        assert!(!findings(&path).is_empty(), "{sector}");
    }
}

/// The disk of 2 1/2 blocks needs only a half of the last block. QEMU refuses such a file.
#[test]
fn a_file_may_end_within_its_last_block_if_the_disk_does() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhd::dynamic(160 << 10).block(2, 0x22, 0..64);
    let mut file = image.build();
    let footer = file.split_off(file.len() - SECTOR);
    file.truncate(file.len() - (32 << 10));
    file.extend(footer);
    let path = write_bytes(dir.path(), "disk.vhd", &file);
    let mut expected = vec![0; 160 << 10];
    expected[128 << 10..].fill(0x22);
    assert_eq!(our_bytes(&path), expected);
    // One sector less is an error, which names the guest bytes that are lost.
    let footer = file.split_off(file.len() - SECTOR);
    file.truncate(file.len() - SECTOR);
    file.extend(footer);
    let error = error(&write_bytes(dir.path(), "short.vhd", &file));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// Old versions of QEMU wrote one entry too many.
#[test]
fn a_table_may_have_more_entries_than_the_disk_needs_but_not_fewer() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "disk.vhd", &Vhd { entries: Some(5), ..sample() });
    assert_eq!(our_bytes(&path), sample_bytes());
    let path =
        write(dir.path(), "disk.vhd", &Vhd { size: 5 * BLOCK, entries: Some(4), ..sample() });
    let error = error(&path);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("the disk has 5 blocks"), "{error}");
}

/// Virtual PC and QEMU record the size of a disk as its geometry, which may be less than its current
/// size. QEMU uses the geometry; the specification and all other programs use the current size.
#[test]
fn the_size_is_the_current_size_and_like_qemu_that_of_the_geometry() {
    let dir = tempfile::tempdir().unwrap();
    let of_geometry = 100 * 4 * 17 * 512;
    let size = of_geometry + (2 << 16);
    for (creator, geometry, like_qemu) in [
        (*b"vpc ", (100, 4, 17), of_geometry),
        (*b"qemu", (100, 4, 17), of_geometry),
        (*b"qem2", (100, 4, 17), size),
        (*b"win ", (100, 4, 17), size),
        (*b"vpc ", (65535, 16, 255), size),
    ] {
        let image = Vhd { creator, geometry, original_size: 512, ..Vhd::dynamic(size) };
        let path = write(dir.path(), "disk.vhd", &image);
        assert_eq!(Image::open(&path).unwrap().size(), size);
        let options = OpenOptions::new().probing(Probing::LikeQemu);
        assert_eq!(options.open(&path).unwrap().size(), like_qemu, "{creator:?}");
        assert_eq!(qemu_bytes(&path, "vpc").len() as u64, like_qemu, "{creator:?}");
        assert_eq!(warnings(&path).contains("which QEMU uses"), like_qemu != size);
    }
}

#[test]
fn damage_is_an_error_that_says_what_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let whole = sample().build();
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 7] = [
        ("VHD dynamic header at offset 0x200: expected \"cxsparse\"", |file| file[512] = 0),
        ("VHD dynamic header at offset 0x224: its checksum is", |file| file[512 + 900] ^= 1),
        ("blocks of 65537 bytes", |file| {
            file[512 + 32..512 + 36].copy_from_slice(&65537u32.to_be_bytes());
            seal(&mut file[512..1536], 36);
        }),
        ("blocks of 0 bytes", |file| {
            file[512 + 32..512 + 36].fill(0);
            seal(&mut file[512..1536], 36);
        }),
        ("its 16 bytes extend beyond the end", |file| {
            file[512 + 16..512 + 24].copy_from_slice(&(u64::MAX - 3).to_be_bytes());
            seal(&mut file[512..1536], 36);
        }),
        ("is beyond the end of the file", |file| {
            let end = file.len() - SECTOR;
            for at in [0, end] {
                file[at + 16..at + 24].copy_from_slice(&(1u64 << 40).to_be_bytes());
                seal(&mut file[at..at + SECTOR], 64);
            }
        }),
        ("disk type 5; expected 2, 3 or 4", |file| {
            let end = file.len() - SECTOR;
            for at in [0, end] {
                file[at + 63] = 5;
                seal(&mut file[at..at + SECTOR], 64);
            }
        }),
    ];
    for (message, damage) in damages {
        let mut file = whole.clone();
        damage(&mut file);
        let error = error(&write_bytes(dir.path(), "disk.vhd", &file));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(message), "{message}: {error}");
    }
}

/// A small file must not claim a table of gigabytes, nor a disk that takes hours to read.
#[test]
fn exabytes_in_a_small_file_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let huge = Vhd { size: 1 << 60, block_bytes: 512, entries: Some(8), ..Vhd::dynamic(0) };
    let error = error(&write(dir.path(), "disk.vhd", &huge));
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let mut fixed = vec![0; 4096];
    fixed.extend(footer(2, 1 << 60, u64::MAX));
    let error = error_of(&write_bytes(dir.path(), "fixed.vhd", &fixed));
    assert!(error.to_string().contains("only 4096 precede the footer"), "{error}");
}

fn error_of(path: &Path) -> diskimg::Error {
    Image::open(path).unwrap_err()
}
