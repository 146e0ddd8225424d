//! A real file system, converted through all formats and back to raw.

use diskimg::{Convert, Format, Image, OpenOptions, Options};
use diskimg_testkit::tool::run;
use std::path::Path;

/// Creates an ext4 file system that contains this crate's sources.
fn create_ext4(path: &Path) {
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    std::fs::File::create(path).unwrap().set_len(48 << 20).unwrap();
    run("mkfs.ext4", ["-q", "-F", "-d", sources, path.to_str().unwrap()]);
}

#[test]
fn a_guest_disk_survives_conversion_through_all_formats() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    create_ext4(&path("0.raw"));
    let original = std::fs::read(path("0.raw")).unwrap();
    let steps = [
        ("1.qcow2", Format::Qcow2, "", false),
        ("2.vmdk", Format::Vmdk, "", false),
        ("3.vmdk", Format::Vmdk, "subformat=streamOptimized", true),
        ("4.qcow2", Format::Qcow2, "", true),
        ("5.raw", Format::Raw, "", false),
    ];
    let mut from = "0.raw";
    for (to, format, options, compress) in steps {
        let image = if from == "0.raw" {
            OpenOptions::new().format(Format::Raw).open(path(from)).unwrap()
        } else {
            Image::open(path(from)).unwrap()
        };
        Convert::new(image)
            .format(format)
            .options(Options::parse(options).unwrap())
            .compress(compress)
            .run(path(to))
            .unwrap();
        if format != Format::Raw {
            run("qemu-img", ["check", "-f", format.name(), path(to).to_str().unwrap()]);
        }
        let to_name = path(to);
        run(
            "qemu-img",
            [
                "compare",
                "-f",
                "raw",
                "-F",
                format.name(),
                path("0.raw").to_str().unwrap(),
                to_name.to_str().unwrap(),
            ],
        );
        from = to;
    }
    assert!(std::fs::read(path("5.raw")).unwrap() == original, "the final bytes differ");
    run("e2fsck", ["-fn", path("5.raw").to_str().unwrap()]);
}
