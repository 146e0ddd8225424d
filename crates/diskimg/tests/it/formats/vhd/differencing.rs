//! Differencing disks: the parent, and which sectors hide those of the parent.

use super::{bytes_with, our_bytes, write, write_bytes};
use diskimg::{Backing, Convert, Create, ErrorKind, ExternalFiles, Format, Image, OpenOptions};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::qemu_bytes;
use diskimg_testkit::vhd::{Locator, Vhd};
use std::path::Path;

const BLOCK: usize = 64 << 10;

fn parent() -> Vhd {
    Vhd::dynamic(4 * BLOCK as u64).block(0, 0x10, 0..128).block(1, 0x11, 0..128)
}

fn child() -> Vhd {
    let locators = vec![Locator::windows(b"W2ru", ".\\base.vhd")];
    let child = Vhd::child(4 * BLOCK as u64, parent().uuid, "C:\\vm\\base.vhd");
    Vhd { locators, ..child.block(1, 0xc1, 8..24).block(2, 0, [0, 5]).block(3, 0xc3, 0..128) }
}

/// The disk that the child shows.
fn chain() -> Disk {
    let run = |at, len, byte| Run { at: at as u64, len: len as u64, fill: Fill::Byte(byte) };
    let runs = vec![
        run(0, 2 * BLOCK, 0x10),
        run(BLOCK, BLOCK, 0x11),
        run(BLOCK + 8 * 512, 16 * 512, 0xc1),
        run(3 * BLOCK, BLOCK, 0xc3),
    ];
    Disk { size: 4 * BLOCK as u64, runs }
}

fn error(path: &Path) -> diskimg::Error {
    Image::open(path).unwrap_err()
}

/// qemu-img and dissect read a child as if it had no parent, without an error. 7-Zip and libvhdi
/// agree with diskimg.
#[test]
fn sectors_that_a_child_does_not_have_are_the_parents() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhd", &parent());
    let path = write(dir.path(), "child.vhd", &child());
    assert_eq!(our_bytes(&path), chain().bytes());
    for oracle in [Oracle::SevenZip, Oracle::Libyal] {
        let verdict = oracle.compare("vpc", &path, &chain());
        assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
    }
    assert_ne!(qemu_bytes(&path, "vpc"), chain().bytes());
    assert_eq!(Image::open(&path).unwrap().layers().len(), 2);
}

/// Bits that differ within a byte, which libvhdi does not tell apart.
#[test]
fn single_sectors_of_a_child_hide_those_of_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhd", &parent());
    let path = write(dir.path(), "child.vhd", &child().block(0, 0xc0, [0, 3, 4, 7, 9, 126]));
    let mut disk = chain();
    for sector in [0, 3, 4, 7, 9, 126] {
        disk.runs.push(Run { at: sector * 512, len: 512, fill: Fill::Byte(0xc0) });
    }
    assert_eq!(our_bytes(&path), disk.bytes());
    assert_eq!(Oracle::SevenZip.compare("vpc", &path, &disk), Verdict::Same);
}

/// Not relative to the working directory.
#[test]
fn names_are_relative_to_the_directory_of_the_child() {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["vm", "disks"] {
        std::fs::create_dir(dir.path().join(sub)).unwrap();
    }
    write(&dir.path().join("disks"), "base.vhd", &parent());
    let locators = vec![Locator::windows(b"W2ru", "..\\disks\\base.vhd")];
    let path = write(&dir.path().join("vm"), "child.vhd", &Vhd { locators, ..child() });
    // In another directory, which the default policy does not allow.
    let refused = error(&path);
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    let any = OpenOptions::new().external_files(ExternalFiles::Any);
    assert_eq!(bytes_with(&any, &path), chain().bytes());
}

#[test]
fn every_kind_of_name_finds_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhd", &parent());
    let url = format!("file://{}/base.vhd", dir.path().canonicalize().unwrap().display());
    let names: [(&str, Vec<Locator>, &str); 6] = [
        ("relative", vec![Locator::windows(b"W2ru", ".\\base.vhd")], ""),
        ("absolute, moved", vec![Locator::windows(b"W2ku", "D:\\x\\base.vhd")], ""),
        ("a share", vec![Locator::windows(b"W2ku", "\\\\host\\share\\base.vhd")], ""),
        ("a URL", vec![Locator { code: *b"MacX", bytes: url.into_bytes() }], ""),
        ("the header's", vec![], "E:\\disks\\base.vhd"),
        (
            "the second one",
            vec![
                Locator { code: *b"Wi2k", bytes: b"old".to_vec() },
                Locator::windows(b"W2ru", ".\\gone.vhd"),
                Locator::windows(b"W2ku", "D:\\x\\base.vhd"),
            ],
            "",
        ),
    ];
    for (kind, locators, parent_name) in names {
        let image = Vhd { locators, parent_name: parent_name.to_owned(), ..child() };
        let path = write(dir.path(), "child.vhd", &image);
        assert_eq!(our_bytes(&path), chain().bytes(), "{kind}");
    }
}

#[test]
fn a_file_with_another_uuid_is_not_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhd", &Vhd { uuid: [1; 16], ..parent() });
    let path = write(dir.path(), "child.vhd", &child());
    let refused = error(&path);
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    for part in ["07070707-0707", "'base.vhd' is not it: its UUID is 01010101-0101"] {
        assert!(refused.to_string().contains(part), "{refused}");
    }
    let ignoring = OpenOptions::new().ignore_content_id(true);
    assert_eq!(bytes_with(&ignoring, &path), chain().bytes());
    // The parent is preferred to another file, even if that is named first.
    write(dir.path(), "parent.vhd", &parent());
    let names =
        [Locator::windows(b"W2ru", ".\\base.vhd"), Locator::windows(b"W2ku", "D:\\parent.vhd")];
    let both = write(dir.path(), "both.vhd", &Vhd { locators: names.to_vec(), ..child() });
    for options in [OpenOptions::new(), ignoring] {
        let image = options.open(&both).unwrap();
        let parent = image.layers().nth(1).unwrap().files()[0].path().unwrap().to_owned();
        assert_eq!(parent.file_name().unwrap(), "parent.vhd");
    }
    // A file that is no VHD, under the name of the parent.
    write_bytes(dir.path(), "base.vhd", b"root:x:0:0\n");
    let refused = error(&path);
    assert!(!refused.to_string().contains("root"), "{refused}");
}

#[test]
fn the_policy_for_other_files_applies() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vhd", &parent());
    let path = write(dir.path(), "child.vhd", &child());
    let none = OpenOptions::new().external_files(ExternalFiles::None);
    assert_eq!(none.open(&path).unwrap_err().kind(), ErrorKind::Refused);
    let absolute = vec![Locator::windows(b"W2ku", "\\etc\\passwd")];
    let path = write(dir.path(), "evil.vhd", &Vhd { locators: absolute, ..child() });
    // The name in the header is the parent's.
    assert_eq!(our_bytes(&path), chain().bytes());
    let only = Vhd {
        locators: vec![Locator::windows(b"W2ku", "\\etc\\passwd")],
        parent_name: String::new(),
        ..child()
    };
    let refused = error(&write(dir.path(), "evil.vhd", &only));
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
}

#[test]
fn a_child_that_is_its_own_parent_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let locators = vec![Locator::windows(b"W2ru", ".\\child.vhd")];
    let image = Vhd { locators, parent_uuid: child().uuid, ..child() };
    let refused = error(&write(dir.path(), "child.vhd", &image));
    assert!(refused.to_string().contains("it loops"), "{refused}");
}

#[test]
fn a_parent_may_be_smaller_than_its_child() {
    let dir = tempfile::tempdir().unwrap();
    let small = Vhd::dynamic(BLOCK as u64 + 512).block(0, 0x10, 0..128).block(1, 0x11, 0..1);
    write(dir.path(), "base.vhd", &small);
    let path = write(dir.path(), "child.vhd", &child());
    let mut expected = chain().bytes();
    expected[BLOCK + 512..2 * BLOCK].fill(0);
    expected[BLOCK + 8 * 512..BLOCK + 24 * 512].fill(0xc1);
    assert_eq!(our_bytes(&path), expected);
}

/// Written by diskimg, read by all programs that read differencing disks.
#[test]
fn a_conversion_with_a_backing_file_writes_a_child() {
    let dir = tempfile::tempdir().unwrap();
    let run = |at, len, fill| Run { at, len, fill };
    let mut disk = Disk {
        size: (9 << 20) + 512,
        runs: vec![run(100, 3_000_000, Fill::Noise(1)), run(8 << 20, 1 << 20, Fill::Words(2))],
    };
    let raw = dir.path().join("disk.raw");
    disk.write(&raw);
    let base = dir.path().join("base.vhd");
    Convert::new(Image::open(&raw).unwrap()).format(Format::Vhd).run(&base).unwrap();
    // A changed sector, zeros that hide data, and data where there was none.
    disk.runs.extend([
        run(1 << 20, 512, Fill::Noise(3)),
        run((2 << 20) + 4096, 8192, Fill::Byte(0)),
        run(5 << 20, 4096, Fill::Noise(4)),
    ]);
    disk.write(&raw);
    let child = dir.path().join("child.vhd");
    Convert::new(Image::open(&raw).unwrap())
        .format(Format::Vhd)
        .backing(Backing::new("base.vhd").with_format("vpc"))
        .run(&child)
        .unwrap();
    assert_eq!(our_bytes(&child), disk.bytes());
    for oracle in [Oracle::SevenZip, Oracle::Libyal] {
        let verdict = oracle.compare("vpc", &child, &disk);
        assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
    }
    let len = std::fs::metadata(&child).unwrap().len();
    assert!(len < 7 << 20, "only the blocks that differ are stored: {len}");
}

#[test]
fn a_new_empty_child_shows_its_parent_and_has_a_uuid_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let base = write(dir.path(), "base.vhd", &parent());
    let create = |name: &str| {
        let path = dir.path().join(name);
        Create::new(Format::Vhd)
            .backing(Backing::new("base.vhd").with_format("vpc"))
            .run(&path)
            .unwrap();
        path
    };
    Create::new(Format::Vhd)
        .backing(Backing::new("file:base.vhd").with_format("vpc"))
        .run(dir.path().join("c.vhd"))
        .unwrap();
    assert_eq!(our_bytes(&dir.path().join("c.vhd")), our_bytes(&base));
    let (a, b) = (create("a.vhd"), create("b.vhd"));
    assert_eq!(our_bytes(&a), our_bytes(&base));
    let uuid = |path: &Path| Image::open(path).unwrap().layers().next().unwrap().content_ids();
    assert_ne!(uuid(&a), uuid(&b));
}

#[test]
fn a_child_with_the_contents_of_its_parent_has_another_uuid() {
    let dir = tempfile::tempdir().unwrap();
    let [raw, base, child] = ["a.raw", "base.vhd", "child.vhd"].map(|name| dir.path().join(name));
    std::fs::write(&raw, vec![7; 4 << 20]).unwrap();
    let open = |path: &Path| Image::open(path).unwrap();
    Convert::new(open(&raw)).format(Format::Vhd).run(&base).unwrap();
    let convert = Convert::new(open(&raw)).format(Format::Vhd);
    convert.backing(Backing::new("base.vhd").with_format("vpc")).run(&child).unwrap();
    let uuids = [&base, &child].map(|path| open(path).layers().next().unwrap().content_ids());
    assert_ne!(uuids[0], uuids[1]);
    assert!(our_bytes(&child) == std::fs::read(&raw).unwrap());
}

/// QEMU does not know the name `vhd`.
#[test]
fn a_qcow2_image_over_a_vhd_records_qemus_name_of_the_format() {
    let dir = tempfile::tempdir().unwrap();
    let base = write(dir.path(), "base.vhd", &parent());
    let path = dir.path().join("overlay.qcow2");
    let backing = Backing::new("base.vhd").with_format("vhd");
    Create::new(Format::Qcow2).backing(backing).run(&path).unwrap();
    assert_eq!(qemu_bytes(&path, "qcow2"), our_bytes(&base));
}
