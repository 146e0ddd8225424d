//! Images compared with what the Linux kernel reads, if it supports the file system.

use super::tree::{self, TestDir};
use super::{Report, View, genisoimage, xorriso};
use crate::iso::reference::{self, Tree};
use diskimg::iso::Namespace;
use diskimg_testkit::tool::try_run;
use std::path::Path;

/// A mounted image.
struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        try_run("umount", [self.0]);
    }
}

/// Mounts the image and reads it. Returns `None` if the kernel does not support the file system.
fn read(dir: &TestDir, image: &Path, kind: &str, options: &str) -> Option<Tree> {
    let at = dir.path("mnt");
    std::fs::create_dir_all(&at).unwrap();
    let options = format!("loop,ro{options}");
    let args = ["-t", kind, "-o", &options].map(std::ffi::OsStr::new);
    let output = try_run("mount", args.into_iter().chain([image.as_os_str(), at.as_os_str()]));
    if !output.status.success() {
        let supported = std::fs::read_to_string("/proc/filesystems").unwrap();
        assert!(!supported.contains(kind), "mount: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let _mount = Mount(&at);
    Some(reference::host(&at))
}

#[test]
#[ignore = "needs root to mount images and a kernel that supports them"]
#[allow(clippy::print_stderr)]
fn the_kernel_reads_the_same_trees() {
    let mut report = Report::new("Linux");
    let posix = TestDir::new(tree::posix);
    let deep = TestDir::new(tree::deep);
    let names = TestDir::new(tree::names);
    let images = [
        ("xorriso, Rock Ridge", &posix, xorriso::make(&posix, "x", "-R"), "", Namespace::RockRidge),
        (
            "genisoimage, Rock Ridge",
            &posix,
            genisoimage::make(&posix, "g", "-R"),
            "",
            Namespace::RockRidge,
        ),
        ("xorriso, relocated", &deep, xorriso::make(&deep, "d", "-R"), "", Namespace::RockRidge),
        (
            "genisoimage, relocated",
            &deep,
            genisoimage::make(&deep, "e", "-R"),
            "",
            Namespace::RockRidge,
        ),
        (
            "genisoimage, Joliet",
            &names,
            genisoimage::make(&names, "j", "-J"),
            ",iocharset=utf8",
            Namespace::Joliet,
        ),
        (
            "genisoimage, version 2",
            &names,
            genisoimage::make(&names, "v", "-iso-level 4"),
            ",map=off",
            Namespace::Iso,
        ),
    ];
    for (name, dir, image, options, namespace) in images {
        let Some(wanted) = read(dir, &image, "iso9660", options) else {
            eprintln!("skipped: this kernel does not read ISO 9660");
            return;
        };
        // The kernel reports default values for attributes that are not recorded.
        let rock = namespace == Namespace::RockRidge;
        let wanted = if rock { wanted } else { tree::bare(&wanted) };
        report.check(&View {
            name,
            image: &image,
            namespace,
            preferred: true,
            wanted: &wanted,
            readers: &[],
        });
    }
    let image = genisoimage::make(&names, "u", "-udf");
    if let Some(wanted) = read(&names, &image, "udf", "") {
        let wanted = tree::bare(&wanted);
        report.check(&View {
            name: "genisoimage, UDF",
            image: &image,
            namespace: Namespace::Udf,
            preferred: false,
            wanted: &wanted,
            readers: &[],
        });
    }
    report.finish();
}
