//! Output files: identities, replacing, locks, names.

use crate::lab::{Lab, pattern, sha256};
use std::fs::{self, File};
use std::path::Path;

#[test]
fn the_source_is_not_overwritten_under_any_of_its_names() {
    let lab = Lab::new();
    lab.write("disk.raw", pattern(1 << 20));
    fs::create_dir(lab.path("d")).unwrap();
    fs::hard_link(lab.path("disk.raw"), lab.path("link.raw")).unwrap();
    let before = sha256(&lab.read("disk.raw"));
    let absolute = lab.path("disk.raw").canonicalize().unwrap();
    let mut names = vec!["disk.raw", "./disk.raw", "d/../disk.raw", "link.raw"];
    names.push(absolute.to_str().unwrap());
    if lab.path("DISK.RAW").exists() {
        names.extend(["DISK.RAW", r"d\..\Disk.raw", r".\disk.raw"]);
    }
    for name in names {
        let error = lab.run(["convert", "-f", "raw", "-O", "qcow2", "disk.raw", name]).fails();
        assert!(error.contains("source") || error.contains("same file"), "{name}: {error}");
        assert_eq!(sha256(&lab.read("disk.raw")), before, "{name}");
    }
    assert_eq!(lab.names(), ["d", "disk.raw", "link.raw"]);
}

#[test]
fn an_existing_file_is_replaced_and_its_other_names_keep_their_contents() {
    let lab = Lab::new();
    lab.testdata("ext4-zlib.qcow2");
    lab.write("out.raw", "old");
    lab.line("convert -O raw ext4-zlib.qcow2 out.raw").ok();
    assert_eq!(lab.path("out.raw").metadata().unwrap().len(), 8 << 20);
    assert_eq!(lab.names(), ["ext4-zlib.qcow2", "out.raw"]);
    // A failed run leaves the old file.
    let before = sha256(&lab.read("out.raw"));
    let damaged = lab.read("ext4-zlib.qcow2");
    lab.write("damaged.qcow2", &damaged[..damaged.len() / 2]);
    lab.line("convert -O raw damaged.qcow2 out.raw").fails();
    assert_eq!(sha256(&lab.read("out.raw")), before);
    assert_eq!(lab.names(), ["damaged.qcow2", "ext4-zlib.qcow2", "out.raw"]);
}

#[test]
fn a_read_only_file_is_not_replaced() {
    let lab = Lab::new();
    lab.testdata("ext4-zlib.qcow2");
    lab.write("out.raw", "precious");
    let mut permissions = lab.path("out.raw").metadata().unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(lab.path("out.raw"), permissions.clone()).unwrap();
    if File::options().write(true).open(lab.path("out.raw")).is_ok() {
        eprintln!("skipped: this user may write read-only files");
        return;
    }
    lab.line("convert -O raw ext4-zlib.qcow2 out.raw").fails();
    assert_eq!(lab.read("out.raw"), b"precious");
    #[allow(clippy::permissions_set_readonly_false, reason = "so that it can be removed")]
    permissions.set_readonly(false);
    fs::set_permissions(lab.path("out.raw"), permissions).unwrap();
}

/// Several files are renamed, and old ones deleted.
#[test]
fn an_image_of_several_files_replaces_an_older_one() {
    let lab = Lab::new();
    lab.testdata("ext4-zlib.qcow2");
    let convert = "convert -O vmdk -o subformat=twoGbMaxExtentSparse ext4-zlib.qcow2 out.vmdk";
    lab.line(convert).ok();
    let (names, before) = (lab.names(), sha256(&lab.read("out-s001.vmdk")));
    lab.line(convert).ok();
    assert_eq!(lab.names(), names);
    assert_eq!(sha256(&lab.read("out-s001.vmdk")), before);
    lab.line("compare ext4-zlib.qcow2 out.vmdk").ok();
    // Its extents are its own files, which are not replaced while they are read.
    lab.line("convert -O raw out.vmdk out-s001.vmdk").fails();
    assert_eq!(sha256(&lab.read("out-s001.vmdk")), before);
}

#[test]
fn a_temporary_file_that_a_killed_process_left_is_removed() {
    let lab = Lab::new();
    lab.testdata("ext4-zlib.qcow2");
    lab.write(".out.raw.Ab1Cd2.diskimg-tmp", "left");
    lab.write(".other.raw.Ab1Cd2.diskimg-tmp", "of another output");
    lab.line("convert -O raw ext4-zlib.qcow2 out.raw").ok();
    assert_eq!(lab.names(), [".other.raw.Ab1Cd2.diskimg-tmp", "ext4-zlib.qcow2", "out.raw"]);
}

#[test]
fn names_may_be_long_and_in_any_script() {
    let lab = Lab::new();
    lab.testdata("ext4-zlib.qcow2");
    let deep = ["Ünïcödé", "磁盘", "🖴"].map(|name| name.repeat(20)).join("/");
    let directory = lab.path("deep").join(deep);
    // The prefix `\\?\` lets the test create it; the command gets the path with and without it.
    let directory = match lab.path("").canonicalize() {
        Ok(root) if cfg!(windows) => {
            let below = directory.strip_prefix(lab.path("")).unwrap().to_str().unwrap();
            root.join(below.replace('/', "\\"))
        }
        _ => directory,
    };
    fs::create_dir_all(&directory).unwrap();
    let output = directory.join("образ.qcow2");
    assert!(output.as_os_str().len() > 260);
    let convert = |output: &Path| {
        let (verb, format) = ("convert".as_ref(), "qcow2".as_ref());
        lab.run([verb, "-O".as_ref(), format, "ext4-zlib.qcow2".as_ref(), output.as_os_str()])
    };
    convert(&output).ok();
    let error = lab.run(["info".as_ref(), output.as_os_str()]).ok();
    assert!(error.contains("образ.qcow2"), "{error}");
    let plain = output.to_str().unwrap().trim_start_matches(r"\\?\");
    convert(Path::new(plain)).ok();
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
}
