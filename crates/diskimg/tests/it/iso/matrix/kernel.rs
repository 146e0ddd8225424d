//! What the Linux kernel reads, which is the most faithful reader there is; where this one can.

use super::tree::{self, Lab};
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

/// What the kernel reads; `None` if it has no such file system.
fn read(lab: &Lab, image: &Path, kind: &str, options: &str) -> Option<Tree> {
    let at = lab.path("mnt");
    std::fs::create_dir_all(&at).unwrap();
    let options = format!("loop,ro{options}");
    let words = ["-t", kind, "-o", &options].map(std::ffi::OsStr::new);
    let output = try_run("mount", words.into_iter().chain([image.as_os_str(), at.as_os_str()]));
    if !output.status.success() {
        let known = std::fs::read_to_string("/proc/filesystems").unwrap();
        assert!(!known.contains(kind), "mount: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let _mount = Mount(&at);
    Some(reference::host(&at))
}

#[test]
#[ignore = "needs root, to mount images, and a kernel that reads them"]
#[allow(clippy::print_stderr)]
fn the_kernel_reads_what_we_read() {
    let mut report = Report::new("Linux");
    let posix = Lab::new(tree::posix);
    let deep = Lab::new(tree::deep);
    let names = Lab::new(tree::names);
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
    for (name, lab, image, options, namespace) in images {
        let Some(wanted) = read(lab, &image, "iso9660", options) else {
            eprintln!("skipped: this kernel does not read ISO 9660");
            return;
        };
        // Where nothing is recorded, the kernel makes something up.
        let rock = namespace == Namespace::RockRidge;
        let wanted = if rock { wanted } else { tree::bare(&wanted) };
        report.see(&View {
            name,
            image: &image,
            namespace,
            preferred: true,
            wanted: &wanted,
            agree: &[],
        });
    }
    let image = genisoimage::make(&names, "u", "-udf");
    if let Some(wanted) = read(&names, &image, "udf", "") {
        let wanted = tree::bare(&wanted);
        report.see(&View {
            name: "genisoimage, UDF",
            image: &image,
            namespace: Namespace::Udf,
            preferred: false,
            wanted: &wanted,
            agree: &[],
        });
    }
    report.done();
}
