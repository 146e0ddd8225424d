//! Tests of Apple's sparse images.

use crate::support::{Lab, diskimg};
use diskimg_testkit::asif::Asif;
use diskimg_testkit::sparsebundle::SparseBundle;
use diskimg_testkit::sparseimage::SparseImage;
use std::process::Command;

const BAND: u64 = 4096;

/// A disk of 400 bands, every second of which has a file.
fn bundle() -> SparseBundle {
    let empty = SparseBundle::new(400 * BAND, BAND);
    (0..200).fold(empty, |bundle, index| bundle.band(2 * index, 1 + index as u8))
}

fn disk() -> Vec<u8> {
    let mut disk = vec![0; 400 * BAND as usize];
    for (index, bands) in (0u8..).zip(disk.chunks_mut(2 * BAND as usize)) {
        bands[..BAND as usize].fill(index + 1);
    }
    disk
}

/// Bands are opened after the sandbox has restricted the files.
#[test]
fn a_sparse_bundle_is_read_in_the_sandbox() {
    let lab = Lab::new();
    bundle().write(&lab.path("disk.sparsebundle"));
    std::fs::write(lab.path("disk.raw"), disk()).expect("writes");
    for policy in ["same-dir", "any"] {
        for name in ["disk.sparsebundle", "disk.sparsebundle/Info.plist"] {
            let options = format!("--external-files {policy}");
            lab.line(&format!("convert {options} {name} out.raw")).ok();
            assert!(lab.read("out.raw") == disk(), "{policy}, {name}");
            lab.line(&format!("compare {options} -F raw {name} disk.raw")).ok();
            lab.line(&format!("check {options} {name}")).ok();
            let map = lab.line(&format!("map {options} --output json {name}")).ok();
            assert_eq!(map.matches("\"start\"").count(), 400, "{map}");
            let info = lab.line(&format!("info {options} {name}")).ok();
            assert!(info.contains("file format: sparsebundle"), "{info}");
        }
    }
    lab.line("convert --external-files none disk.sparsebundle out.raw").fails(1);
}

/// The bands are not all open at the same time.
#[test]
#[cfg(unix)]
fn a_sparse_bundle_of_many_bands_needs_few_open_files() {
    let lab = Lab::new();
    bundle().write(&lab.path("disk.sparsebundle"));
    let script = "ulimit -n 100 && exec \"$0\" convert -m 4 disk.sparsebundle out.raw";
    let mut command: Command = lab.command("sh");
    let ran = command.args(["-c", script]).arg(diskimg()).output().expect("runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(lab.read("out.raw") == disk());
}

#[test]
fn a_check_has_the_exit_codes_of_qemu_img() {
    let lab = Lab::new();
    for (bundle, code) in [
        (bundle(), 0),
        (bundle().band(1000, 1), 3),
        (bundle().band_of(1, vec![1; BAND as usize + 1]), 2),
    ] {
        let path = lab.path("disk.sparsebundle");
        bundle.write(&path);
        let ran = lab.line("check disk.sparsebundle");
        assert_eq!(ran.code, Some(code), "{ran:?}");
        std::fs::remove_dir_all(path).expect("removes");
    }
    let image = SparseImage::new(64 << 10, 8);
    for (image, code) in [
        (image.clone().band(1, 1), 0),
        (image.clone().band(1, 1).band(99, 1), 3),
        (image.band(1, 1).band(1, 2), 2),
    ] {
        std::fs::write(lab.path("disk.sparseimage"), image.build()).expect("writes");
        assert_eq!(lab.line("check disk.sparseimage").code, Some(code));
    }
    let image = Asif::new(1 << 20).full(1, 1);
    for (image, code) in [(image.clone(), 0), (image.entry(2, 1 << 62 | 2), 2)] {
        std::fs::write(lab.path("disk.asif"), image.build()).expect("writes");
        assert_eq!(lab.line("check disk.asif").code, Some(code));
    }
}

#[test]
fn sparse_images_are_not_written() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for name in ["b.sparseimage", "b.sparsebundle", "b.backupbundle", "b.asif"] {
        let error = lab.line(&format!("convert a.raw {name}")).fails(1);
        assert!(error.contains("does not support image creation"), "{error}");
        assert!(!lab.path(name).exists());
    }
    lab.line("create -f asif b 1M").fails(1);
}
