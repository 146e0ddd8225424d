//! Bundles of Parallels: disks that are directories.

use crate::support::Lab;
use diskimg_testkit::parallels::{Bundle, NIL, Parallels, TOP};

const FIRST: &str = "{11111111-1111-1111-1111-111111111111}";

fn bundle() -> Bundle {
    let image = |byte| Parallels::new(64).cluster(u32::from(byte), byte).build();
    Bundle::new(64)
        .storage(0, 64, &[(FIRST, "Compressed", "a.hds"), (TOP, "Compressed", "b.hds")])
        .shot(FIRST, NIL)
        .shot(TOP, FIRST)
        .file("a.hds", image(1))
        .file("b.hds", image(2))
}

/// Also in the sandbox, which allows the files of the bundle.
#[test]
fn a_bundle_is_read_by_every_command_that_reads_disks() {
    let lab = Lab::new();
    bundle().write(&lab.path("disk.hdd"));
    for name in ["disk.hdd", "disk.hdd/disk.hdd", "disk.hdd/DiskDescriptor.xml"] {
        lab.line(&format!("convert -O raw {name} out.raw")).ok();
        let disk = lab.read("out.raw");
        assert_eq!((disk.len(), disk[4096], disk[8192]), (64 * 512, 1, 2), "{name}");
        lab.line(&format!("compare {name} out.raw")).ok();
        lab.line(&format!("check {name}")).ok();
        lab.line(&format!("map {name}")).ok();
        let info = lab.line(&format!("info {name}")).ok();
        assert!(info.contains(FIRST) && info.contains("b.hds"), "{info}");
    }
    lab.line(&format!("convert -l {FIRST} -O raw disk.hdd first.raw")).ok();
    let disk = lab.read("first.raw");
    assert_eq!((disk[4096], disk[8192]), (1, 0));
}

#[test]
fn a_directory_that_is_no_bundle_is_an_error() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("dir.hdd")).expect("creates");
    let error = lab.line("info dir.hdd").fails(1);
    assert!(error.contains("dir.hdd"), "{error}");
}
