//! Hosted sparse and stream-optimized extents that the installed tools cannot write, but other
//! programs do. They are built by the test (`build`), and qemu-img or 7-Zip must read the expected
//! bytes from them too.

use crate::formats::vmdk::esx::{cid, create_parent};
use crate::verified;
use diskimg::{Image, OpenOptions};
use diskimg_testkit::disk::noise;
use diskimg_testkit::esx::{Grain, Grains, guest, put};
use diskimg_testkit::hosted::{Sparse, Stream, Writer, descriptor, extent_line};
use diskimg_testkit::tool::{qemu_bytes, try_run};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Writes `file` to `disk.vmdk` in a temporary directory.
fn write_disk(file: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    std::fs::write(&path, file).unwrap();
    (dir, path)
}

/// Returns all guest bytes and runs the conformance checks.
fn our_bytes(path: &Path) -> Vec<u8> {
    let image = verified::open(&OpenOptions::new(), path);
    let mut bytes = vec![1; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn assert_consistent(path: &Path) {
    let image = Image::open(path).unwrap();
    image.check(&mut |finding| panic!("{}: {}", path.display(), finding.message)).unwrap();
}

fn notes(path: &Path) -> Vec<String> {
    Image::open(path).unwrap().info(0).unwrap().notes
}

/// Returns grains at the boundaries of grain tables and of the disk.
fn grains(params: &Sparse) -> Grains {
    let (gtes, grains) = (u64::from(params.gtes), params.capacity.div_ceil(params.grain_sectors));
    [0, 1, 5, gtes - 1, gtes, gtes * 3 / 2, grains - 1]
        .into_iter()
        .filter(|&number| number < grains)
        .map(|number| (number, Grain::Data((number % 250 + 1) as u8)))
        .collect()
}

#[test]
fn sparse_extents_with_any_parameters_read_as_in_qemu_img() {
    let plain = Sparse::plain(3 * 65536 + 128);
    let of = |sectors, grain_sectors| Sparse { grain_sectors, ..Sparse::plain(sectors) };
    let variants = [
        ("128 entries a table", Sparse { gtes: 128, ..plain.clone() }),
        ("256 entries a table", Sparse { gtes: 256, ..plain.clone() }),
        ("grains of 4 KiB", of(3 * 4096 + 8, 8)),
        ("grains of 1 MiB", of(20 * 2048, 2048)),
        ("an incomplete last grain", Sparse::plain(70_001)),
        ("less than a grain", Sparse::plain(3)),
        ("no redundant directory", Sparse { flags: 1, ..plain.clone() }),
        ("version 2", Sparse { version: 2, flags: 7, ..plain.clone() }),
        ("version 3, not compressed", Sparse { version: 3, ..plain.clone() }),
        ("not closed", Sparse { unclean: 1, ..plain }),
    ];
    for (name, params) in variants {
        let grains = grains(&params);
        let (_dir, path) = write_disk(&params.build(&grains));
        let expected =
            guest(vec![0; params.capacity as usize * 512], params.grain_sectors, &grains);
        assert!(qemu_bytes(&path, "vmdk") == expected, "{name}: not what qemu-img reads");
        assert!(our_bytes(&path) == expected, "{name}");
        assert_consistent(&path);
        assert_eq!(notes(&path).iter().any(|n| n.contains("close")), params.unclean != 0, "{name}");
    }
}

#[test]
fn a_zeroed_grain_hides_the_parents_data() {
    const SECTORS: u64 = 10 * 128;
    for (version, flags) in [(1, 7), (2, 7)] {
        let dir = tempfile::tempdir().unwrap();
        let base = create_parent(dir.path(), SECTORS);
        let cid = cid(&dir.path().join("base.vmdk"));
        let params = Sparse {
            version,
            flags,
            descriptor: descriptor(
                "monolithicSparse",
                &extent_line(SECTORS),
                Some((&cid, "base.vmdk")),
            ),
            ..Sparse::plain(SECTORS)
        };
        let grains = [(1, Grain::Zero), (4, Grain::Data(9)), (9, Grain::Zero)].into();
        let path = dir.path().join("disk.vmdk");
        std::fs::write(&path, params.build(&grains)).unwrap();
        let expected = guest(base, 128, &grains);
        assert!(
            qemu_bytes(&path, "vmdk") == expected,
            "version {version}: not what qemu-img reads"
        );
        assert!(our_bytes(&path) == expected, "version {version}");
    }
}

#[test]
fn a_valid_redundant_directory_replaces_a_damaged_one() {
    let params = Sparse::plain(3 * 65536);
    let grains = grains(&params);
    let whole = params.build(&grains);
    let expected = guest(vec![0; params.capacity as usize * 512], 128, &grains);
    let gd = u64::from_le_bytes(whole[56..64].try_into().unwrap()) as usize * 512;
    let damaged = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        put(&mut file, at, bytes);
        write_disk(&file)
    };
    for (name, (_dir, path)) in [
        ("one entry beyond the end of the file", damaged(gd + 4, &[0xff; 4])),
        ("all entries", damaged(gd, &[0xff; 512])),
        ("the directory's offset", damaged(56, &(1u64 << 40).to_le_bytes())),
    ] {
        assert!(our_bytes(&path) == expected, "{name}");
        assert!(notes(&path).iter().any(|note| note.contains("redundant")), "{name}");
    }
}

#[test]
fn a_valid_redundant_directory_replaces_a_zeroed_one() {
    let params = Sparse::plain(3 * 65536);
    let grains = grains(&params);
    let mut file = params.build(&grains);
    let gd = u64::from_le_bytes(file[56..64].try_into().unwrap()) as usize * 512;
    put(&mut file, gd, &[0; 512]);
    let (_dir, path) = write_disk(&file);
    let expected = guest(vec![0; params.capacity as usize * 512], 128, &grains);
    assert!(our_bytes(&path) == expected);
    assert!(notes(&path).iter().any(|note| note.contains("redundant")));
}

/// Creates a sparse extent with capacity 0, whose embedded descriptor lists the extents of the
/// disk.
fn descriptor_in_empty_extent() -> (TempDir, PathBuf, Vec<u8>) {
    let (first, second) = (Sparse::plain(1280), Sparse::plain(256));
    let extents = "RW 1280 SPARSE \"disk-s001.vmdk\"\nRW 256 SPARSE \"disk-s002.vmdk\"";
    let outer = Sparse {
        descriptor: descriptor("twoGbMaxExtentSparse", extents, None),
        ..Sparse::plain(0)
    };
    let (dir, path) = write_disk(&outer.build(&Grains::new()));
    let mut expected = Vec::new();
    for (name, params) in [("disk-s001.vmdk", first), ("disk-s002.vmdk", second)] {
        let params = Sparse { descriptor: String::new(), ..params };
        let grains = grains(&params);
        std::fs::write(dir.path().join(name), params.build(&grains)).unwrap();
        expected.extend(guest(vec![0; params.capacity as usize * 512], 128, &grains));
    }
    (dir, path, expected)
}

#[test]
fn qemu_img_uses_the_descriptor_in_an_extent_of_capacity_zero() {
    let (_dir, path, expected) = descriptor_in_empty_extent();
    assert!(qemu_bytes(&path, "vmdk") == expected);
}

#[test]
fn the_descriptor_in_an_extent_of_capacity_zero_is_used() {
    let (_dir, path, expected) = descriptor_in_empty_extent();
    assert!(our_bytes(&path) == expected);
}

/// Returns a disk with data in a few of 1100 grains and an incomplete last grain.
fn stream_content() -> Vec<u8> {
    let mut disk = vec![0; 1100 * 65536 + 1536];
    for (i, grain) in [0usize, 1, 3, 511, 512, 1099, 1100].into_iter().enumerate() {
        let end = disk.len().min((grain + 1) * 65536);
        let bytes = &mut disk[grain * 65536..end];
        match i % 3 {
            0 => bytes.fill(i as u8 + 1),
            1 => bytes.copy_from_slice(&noise(grain as u64, bytes.len())),
            _ => bytes[700] = 7,
        }
    }
    disk
}

/// Returns all guest bytes, read with 7-Zip.
fn sevenzip_bytes(path: &Path) -> Vec<u8> {
    let output = try_run("7zz", ["x", "-so", path.to_str().unwrap()]);
    assert!(output.status.success(), "7zz: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn streams_of_every_writer_are_read() {
    let disk = stream_content();
    for writer in [Writer::VSphere, Writer::Vmdktool, Writer::OpenVmdk, Writer::Qemu] {
        let plain = Stream::of(writer);
        for (name, params) in [
            ("in order", plain.clone()),
            ("out of order", Stream { reversed: true, ..plain.clone() }),
            ("padded", Stream { padding: 3000, ..plain.clone() }),
            ("grains of 4 KiB", Stream { grain_sectors: 8, ..plain }),
        ] {
            let name = format!("{writer:?}, {name}");
            let (_dir, path) = write_disk(&params.build(&disk));
            // The other readers do not find the footer before padding; 7-Zip does not support
            // tables before the grains.
            let footer_lost = writer == Writer::VSphere && params.padding > 0;
            if !footer_lost {
                assert!(qemu_bytes(&path, "vmdk") == disk, "{name}: not what qemu-img reads");
            }
            if !footer_lost && matches!(writer, Writer::VSphere | Writer::Vmdktool) {
                assert!(sevenzip_bytes(&path) == disk, "{name}: not what 7-Zip reads");
            }
            assert!(our_bytes(&path) == disk, "{name}");
            assert_consistent(&path);
        }
    }
}
