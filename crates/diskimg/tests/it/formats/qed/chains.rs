//! Backing files of QED.

use super::{assert_consistent, our_bytes, write};
use diskimg::{Backing, Convert, Create, ErrorKind, ExternalFiles, Format, Image, OpenOptions};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::qed::{BACKING_FILE, BACKING_IS_RAW, Cluster, Qed};
use diskimg_testkit::tool::{assert_qemu_check, qemu_bytes, run};

const CLUSTER: u64 = 4096;

fn overlay(features: u64) -> Qed {
    Qed { features, backing: "base".into(), header_size: 2, ..Qed::new(6 * CLUSTER) }
        .cluster(1, Cluster::Data(0x11))
        .cluster(2, Cluster::Zero)
        .cluster(4, Cluster::Data(0x44))
}

#[test]
fn zeros_hide_the_backing_file_and_unallocated_clusters_show_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base"), vec![0xbb; 6 * CLUSTER as usize]).unwrap();
    let image = overlay(BACKING_FILE | BACKING_IS_RAW);
    let path = write(dir.path(), "disk.qed", &image);
    assert!(our_bytes(&path) == image.bytes(0xbb));
    assert!(qemu_bytes(&path, "qed") == image.bytes(0xbb));
    assert_consistent(&path);
}

/// Beyond the end of a shorter backing file are zeros.
#[test]
fn a_backing_file_may_be_shorter_than_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base"), [0xbb; 512 * 3]).unwrap();
    let image = overlay(BACKING_FILE | BACKING_IS_RAW);
    let path = write(dir.path(), "disk.qed", &image);
    let mut expected = image.bytes(0);
    expected[..512 * 3].fill(0xbb);
    assert!(our_bytes(&path) == expected);
    assert!(qemu_bytes(&path, "qed") == expected);
}

/// A guest may write the header of another format into a raw backing file.
#[test]
fn a_backing_file_marked_as_raw_is_not_probed() {
    let dir = tempfile::tempdir().unwrap();
    let inner = Qed::new(6 * CLUSTER).cluster(0, Cluster::Data(0x77)).build();
    std::fs::write(dir.path().join("base"), &inner).unwrap();
    let raw = write(dir.path(), "raw.qed", &overlay(BACKING_FILE | BACKING_IS_RAW));
    assert!(our_bytes(&raw)[..64] == inner[..64]);
    let probed = write(dir.path(), "probed.qed", &overlay(BACKING_FILE));
    assert!(our_bytes(&probed)[..64] == [0x77; 64]);
    for path in [&raw, &probed] {
        assert!(our_bytes(path) == qemu_bytes(path, "qed"), "{}", path.display());
    }
}

/// The name is there, but the image does not have a backing file.
#[test]
fn without_the_feature_the_backing_file_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let image = overlay(BACKING_IS_RAW);
    let path = write(dir.path(), "disk.qed", &image);
    assert!(our_bytes(&path) == image.bytes(0));
    assert!(qemu_bytes(&path, "qed") == image.bytes(0));
}

#[test]
fn backing_files_outside_of_the_directory_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["/etc/passwd", "../base", "json:{\"driver\":\"null-co\"}", "nbd:localhost:10809"] {
        let image = Qed { backing: name.into(), ..overlay(BACKING_FILE | BACKING_IS_RAW) };
        let path = write(dir.path(), "disk.qed", &image);
        let error = Image::open(&path).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Refused | ErrorKind::Io), "{name}: {error}");
    }
    std::fs::write(dir.path().join("base"), []).unwrap();
    let path = write(dir.path(), "disk.qed", &overlay(BACKING_FILE | BACKING_IS_RAW));
    let none = OpenOptions::new().external_files(ExternalFiles::None).open(&path);
    assert_eq!(none.unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn an_image_that_is_its_own_backing_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let image = Qed { backing: "disk.qed".into(), ..overlay(BACKING_FILE) };
    let path = write(dir.path(), "disk.qed", &image);
    let error = Image::open(&path).unwrap_err();
    assert!(error.to_string().contains("loops"), "{error}");
}

/// Only the clusters that differ are stored, in clusters as large as the image has.
#[test]
fn an_overlay_has_what_differs_from_its_backing_file() {
    let dir = tempfile::tempdir().unwrap();
    let run_at = |at, len, fill| Run { at, len, fill };
    let base = Disk { size: 3 << 20, runs: vec![run_at(0, 2 << 20, Fill::Noise(1))] };
    base.write(&dir.path().join("base"));
    let mut disk = Disk { size: (3 << 20) + 512, ..base.clone() };
    disk.runs.extend([
        run_at(5000, 3, Fill::Byte(7)),
        run_at(1 << 20, 200_000, Fill::Byte(0)),
        run_at((3 << 20) - 512, 1024, Fill::Byte(9)),
    ]);
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.qed"));
    disk.write(&raw);
    for cluster_size in ["4k", "64k", "2M"] {
        let options = diskimg::Options::parse(&format!("cluster_size={cluster_size}")).unwrap();
        Convert::new(Image::open(&raw).unwrap())
            .format(Format::Qed)
            .options(options)
            .backing(Backing::new("base").with_format("raw"))
            .verify(true)
            .run(&out)
            .unwrap();
        assert!(our_bytes(&out) == disk.bytes(), "{cluster_size}");
        assert!(qemu_bytes(&out, "qed") == disk.bytes(), "{cluster_size}");
        assert_qemu_check(&out, "qed");
        assert_consistent(&out);
        let image = Image::open(&out).unwrap();
        if cluster_size == "4k" {
            let depth = |at: u64| image.extents(at..at + 512).unwrap().next().unwrap().unwrap();
            let extents = [0, 4096, 8192, 1 << 20, 2 << 20].map(depth);
            assert_eq!(extents.clone().map(|extent| extent.depth), [1, 0, 1, 0, 1]);
            assert_eq!(extents[3].kind, diskimg::extent::Kind::Zero(None));
        }
    }
}

/// A raw backing file is marked as such; the format of others is probed.
#[test]
fn created_overlays_equal_those_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    run("qemu-img", ["create", "-f", "qcow2", &path("base.qcow2"), "1M"]);
    run("qemu-img", ["create", "-f", "raw", &path("base.raw"), "1M"]);
    for format in ["raw", "qcow2"] {
        let (base, theirs) = (format!("base.{format}"), path("theirs"));
        run("qemu-img", ["create", "-f", "qed", "-b", &base, "-F", format, &theirs]);
        Create::new(Format::Qed)
            .backing(Backing::new(&base).with_format(format))
            .run(path("ours"))
            .unwrap();
        let [ours, theirs] = ["ours", "theirs"].map(|name| std::fs::read(path(name)).unwrap());
        assert!(ours == theirs, "{format}");
    }
}
