//! New clusters and grains take the space of what is written to them, however large they are.

use super::Lab;
use diskimg::{Compare, Comparison, Convert, ErrorKind, Format, OpenOptions};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::esx::Grains;
use diskimg_testkit::hosted::Sparse;
use diskimg_testkit::tool::assert_qemu_check;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Creates a raw file with a block of 4 KiB at each offset, and holes.
fn create(path: &Path, size: u64, blocks: impl IntoIterator<Item = (u64, u8)>) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, value) in blocks {
        file.write_all_at(&[value; 4096], at).unwrap();
    }
}

/// Writes the file `source` of the lab into the target, and compares them.
fn write(lab: &Lab, source: &str, threads: usize) {
    let open = || OpenOptions::new().format(Format::Raw).open(lab.path(source)).unwrap();
    let convert = Convert::new(open()).format(lab.format.parse().unwrap()).threads(threads);
    convert.run_existing(lab.target()).unwrap();
    let found = Compare::new(&open(), &lab.open()).run().map_err(|e| e.error).unwrap();
    assert_eq!(found, Comparison::Identical { size_mismatch: false }, "{source}");
}

fn allocated(lab: &Lab) -> u64 {
    lab.target().metadata().unwrap().blocks() * 512
}

#[test]
fn new_clusters_have_holes_where_nothing_is_written() {
    let lab = Lab::new("qcow2");
    let size = 300 * 2 * MIB;
    for options in ["cluster_size=2M", "cluster_size=2M,extended_l2=on"] {
        assert!(lab.create(options, size, None));
        create(&lab.path("a"), size, (0..300).map(|n| (n * 2 * MIB + n * 4096, n as u8 | 1)));
        write(&lab, "a", 2);
        assert_qemu_check(&lab.target(), "qcow2");
        assert!(allocated(&lab) < 16 * MIB, "{options}: {} bytes", allocated(&lab));
        // In the same clusters, and elsewhere: what was there is overwritten.
        create(&lab.path("b"), size, (0..300).map(|n| (n * 2 * MIB + MIB, n as u8 | 2)));
        write(&lab, "b", 2);
        assert_qemu_check(&lab.target(), "qcow2");
    }
}

fn grains_of_a_gibibyte(grains: u64) -> Vec<u8> {
    let (sectors, grain_sectors) = (grains * (GIB / 512), GIB / 512);
    let Sparse { descriptor, .. } = Sparse::plain(sectors);
    // The tables are those of a smaller disk with as many grains.
    let mut file = Sparse { descriptor, ..Sparse::plain(grains * 128) }.build(&Grains::new());
    file[12..20].copy_from_slice(&sectors.to_le_bytes());
    file[20..28].copy_from_slice(&grain_sectors.to_le_bytes());
    file
}

#[test]
fn grains_of_any_size_are_written_in_parts() {
    let lab = Lab::new("vmdk");
    std::fs::write(lab.target(), grains_of_a_gibibyte(400)).unwrap();
    let size = 400 * GIB;
    let at = [0, GIB, GIB + 5 * MIB, 2 * GIB + 4096, 100 * GIB, 300 * GIB];
    create(&lab.path("a"), size, at.map(|at| (at, 7)));
    write(&lab, "a", 2);
    assert!(allocated(&lab) < 16 * MIB, "{} bytes", allocated(&lab));
    lab.assert_clean();
    let at = [GIB / 2, GIB + 5 * MIB, 3 * GIB, 100 * GIB + 4096];
    create(&lab.path("b"), size, at.map(|at| (at, 8)));
    write(&lab, "b", 1);
    assert!(allocated(&lab) < 32 * MIB, "{} bytes", allocated(&lab));
    lab.assert_clean();
}

#[test]
fn grains_that_cannot_be_written_in_parts_are_limited() {
    let lab = Lab::new("vmdk");
    // The rest of a new grain on a device does not read as zeros.
    let image = grains_of_a_gibibyte(2);
    let storage = Arc::new(RecordingStorage::device(image.clone()));
    let outcome = lab.convert(&[7; 4096]).run_existing_on(Arc::clone(&storage) as _, "t");
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.exceeded()), (ErrorKind::Limit, Some("unit_bytes")), "{error}");
    assert!(storage.to_vec()[..image.len()] == image);
}
