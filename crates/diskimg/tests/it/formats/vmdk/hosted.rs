//! Hosted sparse disks and streams of shapes that no tool here writes, but
//! others do: put together (`build`), shown to qemu-img or 7-Zip, then read.

use crate::formats::vmdk::esx::{cid, parent};
use diskimg::{Image, OpenOptions};
use diskimg_testkit::disk::noise;
use diskimg_testkit::esx::{Grain, Grains, guest, put};
use diskimg_testkit::hosted::{Sparse, Stream, Writer, descriptor, extent_line};
use diskimg_testkit::opened;
use diskimg_testkit::tool::{qemu_bytes, try_run};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder with `file` in it.
fn folder(file: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    std::fs::write(&path, file).unwrap();
    (dir, path)
}

/// What the guest sees; the image keeps every promise and is consistent.
fn our_bytes(path: &Path) -> Vec<u8> {
    let image = opened::verified(&OpenOptions::new(), path);
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

/// Grains at the edges of tables and of the disk.
fn grains(shape: &Sparse) -> Grains {
    let (gtes, grains) = (u64::from(shape.gtes), shape.capacity.div_ceil(shape.grain_sectors));
    [0, 1, 5, gtes - 1, gtes, gtes * 3 / 2, grains - 1]
        .into_iter()
        .filter(|&number| number < grains)
        .map(|number| (number, Grain::Data((number % 250 + 1) as u8)))
        .collect()
}

#[test]
fn sparse_disks_of_every_geometry_read_as_qemu_img_reads_them() {
    let plain = Sparse::plain(3 * 65536 + 128);
    let of = |sectors, grain_sectors| Sparse { grain_sectors, ..Sparse::plain(sectors) };
    let shapes = [
        ("128 entries a table", Sparse { gtes: 128, ..plain.clone() }),
        ("256 entries a table", Sparse { gtes: 256, ..plain.clone() }),
        ("grains of 4 KiB", of(3 * 4096 + 8, 8)),
        ("grains of 1 MiB", of(20 * 2048, 2048)),
        ("a part of a grain at the end", Sparse::plain(70_001)),
        ("less than a grain", Sparse::plain(3)),
        ("no redundant directory", Sparse { flags: 1, ..plain.clone() }),
        ("version 2", Sparse { version: 2, flags: 7, ..plain.clone() }),
        ("version 3, not compressed", Sparse { version: 3, ..plain.clone() }),
        ("not closed", Sparse { unclean: 1, ..plain }),
    ];
    for (name, shape) in shapes {
        let grains = grains(&shape);
        let (_dir, path) = folder(&shape.build(&grains));
        let wanted = guest(vec![0; shape.capacity as usize * 512], shape.grain_sectors, &grains);
        assert!(qemu_bytes(&path, "vmdk") == wanted, "{name}: not what qemu-img reads");
        assert!(our_bytes(&path) == wanted, "{name}");
        assert_consistent(&path);
        assert_eq!(notes(&path).iter().any(|n| n.contains("close")), shape.unclean != 0, "{name}");
    }
}

#[test]
fn a_zeroed_grain_hides_what_the_parent_has() {
    const SECTORS: u64 = 10 * 128;
    for (version, flags) in [(1, 7), (2, 7)] {
        let dir = tempfile::tempdir().unwrap();
        let base = parent(dir.path(), SECTORS);
        let cid = cid(&dir.path().join("base.vmdk"));
        let shape = Sparse {
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
        std::fs::write(&path, shape.build(&grains)).unwrap();
        let wanted = guest(base, 128, &grains);
        assert!(qemu_bytes(&path, "vmdk") == wanted, "version {version}: not what qemu-img reads");
        assert!(our_bytes(&path) == wanted, "version {version}");
    }
}

#[test]
fn a_good_redundant_directory_stands_in_for_a_damaged_one() {
    let shape = Sparse::plain(3 * 65536);
    let grains = grains(&shape);
    let whole = shape.build(&grains);
    let wanted = guest(vec![0; shape.capacity as usize * 512], 128, &grains);
    let gd = u64::from_le_bytes(whole[56..64].try_into().unwrap()) as usize * 512;
    let damaged = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        put(&mut file, at, bytes);
        folder(&file)
    };
    for (name, (_dir, path)) in [
        ("one entry out of the file", damaged(gd + 4, &[0xff; 4])),
        ("all of them", damaged(gd, &[0xff; 512])),
        ("the directory itself", damaged(56, &(1u64 << 40).to_le_bytes())),
    ] {
        assert!(our_bytes(&path) == wanted, "{name}");
        assert!(notes(&path).iter().any(|note| note.contains("redundant")), "{name}");
    }
}

#[test]
fn a_good_redundant_directory_stands_in_for_a_zeroed_one() {
    let shape = Sparse::plain(3 * 65536);
    let grains = grains(&shape);
    let mut file = shape.build(&grains);
    let gd = u64::from_le_bytes(file[56..64].try_into().unwrap()) as usize * 512;
    put(&mut file, gd, &[0; 512]);
    let (_dir, path) = folder(&file);
    let wanted = guest(vec![0; shape.capacity as usize * 512], 128, &grains);
    assert!(our_bytes(&path) == wanted);
    assert!(notes(&path).iter().any(|note| note.contains("redundant")));
}

/// A header without capacity is the envelope of a descriptor.
fn envelope() -> (TempDir, PathBuf, Vec<u8>) {
    let (first, second) = (Sparse::plain(1280), Sparse::plain(256));
    let extents = "RW 1280 SPARSE \"disk-s001.vmdk\"\nRW 256 SPARSE \"disk-s002.vmdk\"";
    let outer = Sparse {
        descriptor: descriptor("twoGbMaxExtentSparse", extents, None),
        ..Sparse::plain(0)
    };
    let (dir, path) = folder(&outer.build(&Grains::new()));
    let mut wanted = Vec::new();
    for (name, shape) in [("disk-s001.vmdk", first), ("disk-s002.vmdk", second)] {
        let shape = Sparse { descriptor: String::new(), ..shape };
        let grains = grains(&shape);
        std::fs::write(dir.path().join(name), shape.build(&grains)).unwrap();
        wanted.extend(guest(vec![0; shape.capacity as usize * 512], 128, &grains));
    }
    (dir, path, wanted)
}

#[test]
fn a_header_without_capacity_is_to_qemu_img_the_envelope_of_a_descriptor() {
    let (_dir, path, wanted) = envelope();
    assert!(qemu_bytes(&path, "vmdk") == wanted);
}

#[test]
fn a_header_without_capacity_is_the_envelope_of_a_descriptor() {
    let (_dir, path, wanted) = envelope();
    assert!(our_bytes(&path) == wanted);
}

/// Something in a few of 1100 grains, a part of a grain at the end.
fn streamed() -> Vec<u8> {
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

/// The guest's bytes according to 7-Zip.
fn sevenzip_bytes(path: &Path) -> Vec<u8> {
    let output = try_run("7zz", ["x", "-so", path.to_str().unwrap()]);
    assert!(output.status.success(), "7zz: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn streams_of_every_writer_are_read() {
    let disk = streamed();
    for writer in [Writer::VSphere, Writer::Vmdktool, Writer::OpenVmdk, Writer::Qemu] {
        let plain = Stream::of(writer);
        for (name, shape) in [
            ("in order", plain.clone()),
            ("out of order", Stream { reversed: true, ..plain.clone() }),
            ("padded", Stream { padding: 3000, ..plain.clone() }),
            ("grains of 4 KiB", Stream { grain_sectors: 8, ..plain }),
        ] {
            let name = format!("{writer:?}, {name}");
            let (_dir, path) = folder(&shape.build(&disk));
            // Behind padding nobody else finds a footer; tables in front are
            // nothing that 7-Zip looks for.
            let footer_lost = writer == Writer::VSphere && shape.padding > 0;
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
