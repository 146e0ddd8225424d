//! What only Windows has: share modes, other computers' names, devices' names.

use crate::lab::{Lab, pattern, sha256};
use std::fs::{self, File};
use std::os::windows::fs::OpenOptionsExt;

const SHARE_READ: u32 = 1;
const SHARE_WRITE: u32 = 2;
const SHARE_DELETE: u32 = 4;

/// As a virtual machine monitor opens its disks.
#[test]
fn a_file_that_another_program_writes_is_not_read_unless_that_is_requested() {
    let lab = Lab::new();
    lab.write("disk.raw", pattern(1 << 20));
    let open = |share| {
        File::options().read(true).write(true).share_mode(share).open(lab.path("disk.raw")).unwrap()
    };
    for share in [SHARE_READ, SHARE_READ | SHARE_WRITE | SHARE_DELETE] {
        let held = open(share);
        let error = lab.line("convert -f raw -O qcow2 disk.raw out.qcow2").fails();
        assert!(error.contains("lock"), "{error}");
        lab.line("convert -U -f raw -O qcow2 disk.raw out.qcow2").ok();
        drop(held);
    }
    let held = File::options().read(true).open(lab.path("disk.raw")).unwrap();
    lab.line("convert -f raw -O qcow2 disk.raw out.qcow2").ok();
    drop(held);
}

#[test]
fn a_file_that_is_in_use_is_neither_replaced_nor_changed() {
    let lab = Lab::new();
    lab.testdata("ext4-zlib.qcow2");
    lab.write("out.raw", "in use");
    lab.line("create -f qcow2 a.qcow2 1M").ok();
    let before = sha256(&lab.read("a.qcow2"));
    // Open to be read, by a program that lets nobody else write or delete it.
    let open = |name| File::options().read(true).share_mode(SHARE_READ).open(lab.path(name));
    let held = [open("out.raw").unwrap(), open("a.qcow2").unwrap()];
    let error = lab.line("convert -O raw ext4-zlib.qcow2 out.raw").fails();
    assert!(error.contains("out.raw"), "{error}");
    let error = lab.line("resize a.qcow2 2M").fails();
    assert!(error.contains("a.qcow2"), "{error}");
    drop(held);
    assert_eq!(lab.read("out.raw"), b"in use");
    assert_eq!(sha256(&lab.read("a.qcow2")), before);
    assert_eq!(lab.names(), ["a.qcow2", "ext4-zlib.qcow2", "out.raw"]);
}

/// Programs that open files as Rust's standard library does allow them to be replaced.
#[test]
fn a_file_that_is_open_may_be_replaced_if_its_reader_allows_it() {
    let lab = Lab::new();
    lab.testdata("ext4-zlib.qcow2");
    lab.write("out.raw", "old");
    let held = File::open(lab.path("out.raw")).unwrap();
    let ran = lab.line("convert -O raw ext4-zlib.qcow2 out.raw");
    if ran.code != Some(0) {
        // FileRenameInfoEx, of Windows 10, which Wine 8 does not have.
        eprintln!("skipped: this system does not replace open files: {}", ran.err.trim_end());
        assert_eq!(lab.read("out.raw"), b"old");
        return;
    }
    assert_eq!(std::io::read_to_string(&held).unwrap(), "old", "the reader keeps the old file");
    assert_eq!(lab.path("out.raw").metadata().unwrap().len(), 8 << 20);
}

/// Opening one would send the user's credentials to another computer.
#[test]
fn an_image_cannot_name_files_of_other_computers_or_devices() {
    let lab = Lab::new();
    for name in [
        r"\\attacker\share\x.raw",
        "//attacker/share/x.raw",
        r"\\?\UNC\attacker\share\x.raw",
        r"\??\UNC\attacker\share\x.raw",
        r"\\.\PhysicalDrive0",
        "NUL",
        "con.raw",
    ] {
        let create = ["create", "-u", "-f", "qcow2", "-b", name, "-F", "raw", "a.qcow2", "1M"];
        lab.run(create).ok();
        for policy in ["same-dir", "any"] {
            let convert = format!("convert --external-files {policy} -O raw a.qcow2 out.raw");
            let error = lab.line(&convert).fails();
            assert!(error.contains("not the name of a file on this computer"), "{name}: {error}");
        }
    }
    assert_eq!(lab.names(), ["a.qcow2"]);
}

#[test]
fn the_output_is_not_a_device_by_its_name() {
    let lab = Lab::new();
    lab.testdata("ext4-zlib.qcow2");
    // The null device takes everything, as on Unix; a reserved name with an extension is a file
    // since Windows 11 only. In both cases no file of this directory is left or lost.
    let ran = lab.line("convert -O raw ext4-zlib.qcow2 NUL");
    assert!(matches!(ran.code, Some(0 | 1)), "{ran:?}");
    assert_eq!(lab.names(), ["ext4-zlib.qcow2"]);
}

#[test]
fn preallocation_reserves_space_or_says_that_it_cannot() {
    let lab = Lab::new();
    for mode in ["falloc", "full"] {
        let ran = lab.line(&format!("create -f raw -o preallocation={mode} {mode}.raw 4M"));
        if ran.code == Some(0) {
            let file = lab.path(&format!("{mode}.raw"));
            assert_eq!(file.metadata().unwrap().len(), 4 << 20);
            assert!(lab.actual_size(&format!("{mode}.raw")).is_none_or(|size| size >= 4 << 20));
        } else {
            assert!(mode == "falloc" && ran.err.contains("cannot reserve space"), "{}", ran.err);
            eprintln!("skipped: preallocation={mode}: {}", ran.err.trim_end());
            assert!(!lab.path("falloc.raw").exists());
        }
    }
    fs::remove_file(lab.path("full.raw")).unwrap();
}

/// The file's attribute, and not only its allocated size, which Wine does not distinguish.
#[test]
fn outputs_are_sparse_files() {
    use std::os::windows::fs::MetadataExt;
    const SPARSE: u32 = 0x200;
    let lab = Lab::new();
    lab.line("create -f qcow2 a.qcow2 1G").ok();
    lab.line("convert -O raw a.qcow2 b.raw").ok();
    if lab.path("b.raw").metadata().unwrap().file_attributes() & SPARSE == 0 {
        eprintln!("skipped: FSCTL_SET_SPARSE has no effect on this system");
        return;
    }
    assert!(lab.actual_size("b.raw").unwrap() < 1 << 20);
}
