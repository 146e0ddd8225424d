//! Differencing images: the parent, which is found by its UUID, and which blocks hide its data.

use super::{bytes_with, error, our_bytes, write, write_bytes};
use diskimg::{
    Backing, Convert, Create, ErrorKind, ExternalFiles, Format, Image, Limits, OpenOptions, Remedy,
};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::vdi::{Vdi, ZERO};
use std::path::{Path, PathBuf};

const BLOCK: u64 = 64 << 10;

fn parent() -> Vdi {
    let parent = Vdi::dynamic(5 * BLOCK);
    parent.block(0, 0, 0x10).block(1, 1, 0x11).block(2, 2, 0x12).entry(4, ZERO)
}

/// Hides block 1 by data and block 2 by zeros; the others are the parent's.
fn child() -> Vdi {
    Vdi::child(&parent()).block(1, 0, 0xc1).entry(2, ZERO).block(3, 1, 0xc3)
}

fn chain() -> Disk {
    let run = |block: u64, byte| Run { at: block * BLOCK, len: BLOCK, fill: Fill::Byte(byte) };
    Disk { size: 5 * BLOCK, runs: vec![run(0, 0x10), run(1, 0xc1), run(3, 0xc3)] }
}

/// A directory as VirtualBox's: the disk, and its children in `Snapshots`.
fn virtualbox_dir() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = dir.path().join("Snapshots");
    std::fs::create_dir(&snapshots).unwrap();
    write(dir.path(), "vm.vdi", &parent());
    let child = write(&snapshots, "{33333333-3333-3333-3333-333333333333}.vdi", &child());
    (dir, child)
}

fn with_parents<const N: usize>(paths: [&Path; N]) -> OpenOptions {
    OpenOptions::new().possible_parents(paths)
}

/// qemu-img and 7-Zip refuse a child; dissect reads it if it is given the parent.
#[test]
fn free_blocks_of_a_child_are_the_parents_and_blocks_of_zeros_hide_them() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vdi", &parent());
    for image_type in [4, 3] {
        let path = write(dir.path(), "child.vdi", &Vdi { image_type, ..child() });
        assert_eq!(our_bytes(&path), chain().bytes(), "type {image_type}");
        assert_eq!(Image::open(&path).unwrap().layers().len(), 2);
        let verdict = Oracle::Dissect.compare("vdi", &path, &chain());
        assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
        for oracle in [Oracle::QemuImg, Oracle::SevenZip] {
            let verdict = oracle.compare("vdi", &path, &chain());
            assert!(matches!(verdict, Verdict::Refuses(_)), "{verdict}");
        }
    }
}

#[test]
fn a_chain_of_children_is_read() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vdi", &parent());
    write(dir.path(), "middle.vdi", &child());
    let top = Vdi { uuid: [0x55; 16], modification: [0x66; 16], ..Vdi::child(&child()) };
    let path = write(dir.path(), "top.vdi", &top.block(0, 0, 0xd0).entry(3, ZERO));
    let mut expected = chain();
    expected.runs.push(Run { at: 0, len: BLOCK, fill: Fill::Byte(0xd0) });
    expected.runs.push(Run { at: 3 * BLOCK, len: BLOCK, fill: Fill::Byte(0) });
    assert_eq!(our_bytes(&path), expected.bytes());
    assert_eq!(Image::open(&path).unwrap().layers().len(), 3);
    let verdict = Oracle::Dissect.compare("vdi", &path, &expected);
    assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
}

/// The parent is one level up, which the default policy does not allow.
#[test]
fn the_parent_of_a_snapshot_is_in_the_directory_above() {
    let (dir, path) = virtualbox_dir();
    let found = error(&path);
    assert_eq!(found.kind(), ErrorKind::Invalid, "{found}");
    assert_eq!(found.remedy(), Some(Remedy::SearchParentDirectory));
    let any = OpenOptions::new().external_files(ExternalFiles::Any);
    assert_eq!(bytes_with(&any, &path), chain().bytes());
    std::fs::rename(dir.path().join("vm.vdi"), dir.path().join("vm.img")).unwrap();
    assert_eq!(any.open(&path).unwrap_err().remedy(), Some(Remedy::NameParents));
}

/// They may be in any directory and have any name.
#[test]
fn the_parent_is_searched_among_the_files_that_the_caller_names() {
    let (dir, path) = virtualbox_dir();
    let vm = dir.path().join("vm.vdi");
    let other = write(dir.path(), "other.vdi", &Vdi { uuid: [9; 16], ..parent() });
    let none = write_bytes(dir.path(), "no.vdi", b"not a VDI");
    let named = dir.path().join("disk.img");
    std::fs::copy(&vm, &named).unwrap();
    assert_eq!(bytes_with(&with_parents([&vm]), &path), chain().bytes());
    assert_eq!(bytes_with(&with_parents([&none, &other, &named]), &path), chain().bytes());
    // Also if no file may be searched.
    let strict = with_parents([&vm]).external_files(ExternalFiles::None);
    assert_eq!(bytes_with(&strict, &path), chain().bytes());
    // None of them is the parent.
    let found = with_parents([&other, &path]).open(&path).unwrap_err();
    assert!(found.to_string().contains("whose parent has the UUID 11111111-1111-"), "{found}");
    let found = with_parents([&vm, &named]).open(&path).unwrap_err();
    assert!(found.to_string().contains("several files have it"), "{found}");
    let missing = with_parents([&dir.path().join("gone.vdi")]).open(&path).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Io);
    assert!(missing.to_string().contains("gone.vdi"), "{missing}");
}

#[test]
fn a_parent_that_was_modified_is_refused_unless_the_caller_ignores_it() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vdi", &Vdi { modification: [7; 16], ..parent() });
    let path = write(dir.path(), "child.vdi", &child());
    let found = error(&path);
    assert_eq!(found.kind(), ErrorKind::Corrupt, "{found}");
    for part in ["modification 07070707", "expects 11111111", "modification 22222222"] {
        assert!(found.to_string().contains(part), "{found}");
    }
    let ignoring = OpenOptions::new().ignore_content_id(true);
    assert_eq!(bytes_with(&ignoring, &path), chain().bytes());
    // Of two copies, the one that was not modified is the parent.
    write(dir.path(), "copy.vdi", &parent());
    assert_eq!(our_bytes(&path), chain().bytes());
}

/// Version 0.2 has no place for it.
#[test]
fn a_child_may_not_record_the_modification_of_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vdi", &parent());
    for image in [Vdi { version: 2, ..child() }, Vdi { parent_modification: [0; 16], ..child() }] {
        let path = write(dir.path(), "child.vdi", &image);
        assert_eq!(our_bytes(&path), chain().bytes());
    }
}

#[test]
fn without_its_parent_a_child_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "child.vdi", &child());
    let found = error(&path);
    assert_eq!(found.kind(), ErrorKind::Invalid, "{found}");
    assert!(found.to_string().contains("no .vdi file beside it has this UUID"), "{found}");
    let none = OpenOptions::new().external_files(ExternalFiles::None);
    assert_eq!(none.open(&path).unwrap_err().kind(), ErrorKind::Refused);
    // The metadata is there.
    let info = OpenOptions::new().metadata_only(true).open(&path).unwrap();
    let text = format!("{:?}", info.info(0).unwrap());
    assert!(text.contains("11111111-1111-1111-1111-111111111111"), "{text}");
    // Detached: a child that records no parent.
    let path = write(dir.path(), "child.vdi", &Vdi { parent: [0; 16], ..child() });
    let found = error(&path);
    assert_eq!(found.kind(), ErrorKind::Corrupt, "{found}");
    assert!(found.to_string().contains("without the UUID of its parent"), "{found}");
}

/// A base that records a parent's UUID is complete: VirtualBox reads its free blocks as zeros.
#[test]
fn a_base_image_has_no_parent_even_if_it_records_a_uuid() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "base.vdi", &Vdi { parent: [9; 16], ..parent() });
    assert_eq!(our_bytes(&path)[..BLOCK as usize], [0x10; BLOCK as usize]);
    assert_eq!(Image::open(&path).unwrap().layers().len(), 1);
}

#[test]
fn loops_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let own = Vdi { parent: child().uuid, parent_modification: child().modification, ..child() };
    let path = write(dir.path(), "child.vdi", &own);
    // The file itself is not a candidate.
    assert_eq!(error(&path).kind(), ErrorKind::Invalid);
    let a = Vdi { uuid: [1; 16], parent: [2; 16], parent_modification: [0; 16], ..child() };
    let b = Vdi { uuid: [2; 16], parent: [1; 16], ..a.clone() };
    write(dir.path(), "b.vdi", &b);
    let found = error(&write(dir.path(), "a.vdi", &a));
    assert!(found.to_string().contains("it loops"), "{found}");
}

#[test]
fn depth_and_search_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vdi", &parent());
    let path = write(dir.path(), "child.vdi", &child());
    let limited = |name: &str, value| {
        let mut limits = Limits::default();
        limits.set(name, value).unwrap();
        OpenOptions::new().limits(limits).open(&path).unwrap_err()
    };
    assert_eq!(limited("chain_depth", 1).exceeded(), Some("chain_depth"));
    std::fs::rename(dir.path().join("base.vdi"), dir.path().join("z.vdi")).unwrap();
    assert_eq!(limited("sibling_files", 1).exceeded(), Some("sibling_files"));
}

/// A file that is found by its UUID may refer only to files in its own directory.
#[test]
fn a_parent_found_by_its_uuid_refers_to_no_file_in_other_directories() {
    let (dir, _) = virtualbox_dir();
    let below = dir.path().join("Snapshots");
    let top = Vdi { uuid: [0x55; 16], ..Vdi::child(&child()) };
    let path = write(&below, "top.vdi", &top);
    // The middle image was found beside it; its parent is one level up, as always in VirtualBox.
    let any = OpenOptions::new().external_files(ExternalFiles::Any);
    assert_eq!(bytes_with(&any, &path), chain().bytes());
}

#[test]
fn a_parent_may_be_smaller_than_its_child() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.vdi", &Vdi { size: BLOCK + 512, ..parent() });
    let path = write(dir.path(), "child.vdi", &child());
    assert_eq!(our_bytes(&path), chain().bytes());
    let path = write(dir.path(), "other.vdi", &Vdi { map: [(1, 0)].into(), ..child() });
    let mut expected = vec![0; 5 * BLOCK as usize];
    expected[..BLOCK as usize].fill(0x10);
    expected[BLOCK as usize..][..BLOCK as usize].fill(0xc1);
    assert_eq!(our_bytes(&path), expected);
}

/// VirtualBox#850: a block of zeros that is recorded as free shows the parent's data again.
#[test]
fn a_conversion_with_a_backing_file_writes_a_child_whose_zeros_hide_data() {
    let dir = tempfile::tempdir().unwrap();
    let run = |at, len, fill| Run { at, len, fill };
    let mut disk = Disk {
        size: (9 << 20) + 512,
        runs: vec![
            run(100, 4_000_000, Fill::Noise(1)),
            run(8 << 20, 512 + (1 << 20), Fill::Words(2)),
        ],
    };
    let raw = dir.path().join("disk.raw");
    disk.write(&raw);
    let base = dir.path().join("base.vdi");
    Convert::new(Image::open(&raw).unwrap()).format(Format::Vdi).run(&base).unwrap();
    // Zeros in a whole block and in a part of one, a changed sector, data where there was none.
    disk.runs.extend([
        run(1 << 20, 1 << 20, Fill::Byte(0)),
        run((2 << 20) + 4096, 8192, Fill::Byte(0)),
        run(5 << 20, 4096, Fill::Noise(4)),
        run(9 << 20, 512, Fill::Byte(0)),
    ]);
    disk.write(&raw);
    let child = dir.path().join("child.vdi");
    Convert::new(Image::open(&raw).unwrap())
        .format(Format::Vdi)
        .backing(Backing::new("base.vdi").with_format("vdi"))
        .verify(true)
        .run(&child)
        .unwrap();
    assert_eq!(our_bytes(&child), disk.bytes());
    let verdict = Oracle::Dissect.compare("vdi", &child, &disk);
    assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
    let file = std::fs::read(&child).unwrap();
    let entry =
        |block: usize| u32::from_le_bytes(file[4096 + 4 * block..][..4].try_into().unwrap());
    let entries: Vec<_> = (0..10).map(entry).collect();
    const FREE: u32 = u32::MAX;
    assert_eq!(entries, [FREE, ZERO, 0, FREE, FREE, 1, FREE, FREE, FREE, ZERO]);
    assert_eq!(file.len(), 3 << 20, "only blocks that differ are stored");
    let ids = |path: &Path| Image::open(path).unwrap().layers().next().unwrap().content_ids();
    assert_ne!(ids(&base), ids(&child));
    // A child that shows the same as its parent is another image.
    Convert::new(Image::open(&base).unwrap())
        .format(Format::Vdi)
        .backing(Backing::new("base.vdi").with_format("vdi"))
        .run(&child)
        .unwrap();
    assert_ne!(ids(&base)[1], ids(&child)[1]);
    assert_eq!(our_bytes(&child), our_bytes(&base));
}

#[test]
fn a_new_empty_child_shows_its_parent_and_has_a_uuid_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let base = write(dir.path(), "base.vdi", &parent());
    let create = |name: &str| {
        let path = dir.path().join(name);
        let backing = Backing::new("base.vdi").with_format("vdi");
        Create::new(Format::Vdi).backing(backing).run(&path).unwrap();
        assert_eq!(our_bytes(&path), our_bytes(&base));
        path
    };
    let (a, b) = (create("a.vdi"), create("b.vdi"));
    let uuid = |path: &Path| Image::open(path).unwrap().layers().next().unwrap().content_ids();
    assert_ne!(uuid(&a), uuid(&b));
    for (backing, message) in [
        (Backing::new("base.vdi").with_format("raw"), "must be a VDI, not raw"),
        (Backing::new("gone.vdi").with_format("vdi"), "gone.vdi"),
    ] {
        let found = Create::new(Format::Vdi).size(1 << 20).backing(backing).run(&a).unwrap_err();
        assert!(found.to_string().contains(message), "{found}");
    }
}

/// A VDI can be the backing file of a format that records names.
#[test]
fn a_qcow2_image_over_a_vdi_is_read_by_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vdi { block_bytes: 1 << 20, ..Vdi::dynamic(3 << 20) }.block(2, 0, 0x12);
    let base = write(dir.path(), "base.vdi", &image);
    let path = dir.path().join("overlay.qcow2");
    let backing = Backing::new("base.vdi").with_format("vdi");
    Create::new(Format::Qcow2).backing(backing).run(&path).unwrap();
    assert_eq!(diskimg_testkit::tool::qemu_bytes(&path, "qcow2"), our_bytes(&base));
}
