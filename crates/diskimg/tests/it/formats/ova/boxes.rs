//! Archives of disk images without a descriptor.

use crate::formats::ova::assert_guest_bytes;
use diskimg::{ErrorKind, Format, Image, Limits, OpenOptions};
use diskimg_testkit::appliance::{PackageBuilder, guest_bytes, single_disk_descriptor};
use std::os::unix::fs::FileExt;

const LIBVIRT: &str = r#"{"provider": "libvirt", "format": "qcow2", "virtual_size": 1}"#;

/// Packs files with GNU tar and gzip.
fn tar_gz(package: &PackageBuilder, archive: &str, files: &[&str]) {
    let mut args = vec!["-czf", archive, "--"];
    args.extend_from_slice(files);
    package.tool("tar", &args);
}

#[test]
fn a_box_of_each_provider_is_read_whatever_its_name() {
    let package = PackageBuilder::new();
    let libvirt = package.create_disk("box.img", 1, "qcow2", &["-c"]);
    package.write("metadata.json", LIBVIRT);
    package.write("Vagrantfile", "");
    let virtualbox = package.create_vmdk("box-disk001.vmdk", 2);
    package.write("box.ovf", single_disk_descriptor("box-disk001.vmdk"));
    let virtualbox_files = ["./Vagrantfile", "./box.ovf", "./metadata.json", "./box-disk001.vmdk"];
    for name in ["a.box", "download", "a.tar.gz"] {
        tar_gz(&package, name, &["./metadata.json", "./Vagrantfile", "./box.img"]);
        assert_guest_bytes(&package.path(name), &libvirt);
        tar_gz(&package, name, &virtualbox_files);
        assert_guest_bytes(&package.path(name), &virtualbox);
    }
    // Vagrant also accepts boxes that are not compressed.
    for name in ["plain.box", "plain"] {
        let ova = package.tar(name, "ustar", &["metadata.json", "Vagrantfile", "box.img"]);
        assert_guest_bytes(&ova, &libvirt);
    }
}

#[test]
fn several_disks_are_those_that_the_metadata_lists() {
    let package = PackageBuilder::new();
    let first = package.create_disk("box_0.img", 1, "qcow2", &[]);
    let second = package.create_disk("box_1.img", 2, "qcow2", &[]);
    let disks = |second: &str| {
        format!(
            r#"{{"disks": [{{"path": "box_0.img", "format": "qcow2"}},
                {{"path": "{second}", "format": "qcow2"}}]}}"#
        )
    };
    package.write("metadata.json", disks("box_1.img"));
    let files = ["metadata.json", "box_0.img", "box_1.img"];
    tar_gz(&package, "two.box", &files);
    let path = package.path("two.box");
    assert_eq!(Image::open(&path).unwrap_err().kind(), ErrorKind::Invalid);
    for (disk, bytes) in [("1", &first), ("box_1.img", &second)] {
        let image = OpenOptions::new().disk(disk.to_owned()).open(&path).unwrap();
        assert!(guest_bytes(&image) == *bytes, "{disk}");
    }
    package.write("metadata.json", disks("box_2.img"));
    tar_gz(&package, "two.box", &files);
    let error = Image::open(&path).unwrap_err();
    assert!(error.to_string().contains("'box_2.img', which is not in the archive"), "{error}");
}

#[test]
fn the_size_of_a_disk_without_a_descriptor_is_that_of_its_image() {
    let package = PackageBuilder::new();
    let bytes = package.create_disk("image.raw", 1, "raw", &[]);
    tar_gz(&package, "image.tar.gz", &["image.raw"]);
    let image = OpenOptions::new().metadata_only(true).open(package.path("image.tar.gz")).unwrap();
    assert_eq!((image.format(), image.size()), (Format::Ova, bytes.len() as u64));
    assert_guest_bytes(&package.path("image.tar.gz"), &bytes);
}

#[test]
fn the_format_of_a_disk_is_the_stated_one_or_that_of_its_contents() {
    let package = PackageBuilder::new();
    let bytes = package.create_disk("box.img", 1, "vmdk", &["-o", "subformat=streamOptimized"]);
    tar_gz(&package, "a.box", &["box.img"]);
    assert_guest_bytes(&package.path("a.box"), &bytes);
    package.write("metadata.json", LIBVIRT);
    tar_gz(&package, "a.box", &["metadata.json", "box.img"]);
    let error = Image::open(package.path("a.box")).unwrap_err();
    assert!(error.to_string().contains("declared as qcow2, but its first bytes are vmdk"));
    assert!(error.to_string().contains("open 'box.img' by itself"), "{error}");
    // A guest can write any header to a raw disk.
    let qcow2 = package.create_disk("q.qcow2", 2, "qcow2", &[]);
    std::fs::rename(package.path("q.qcow2"), package.path("disk.raw")).unwrap();
    tar_gz(&package, "a.tar.gz", &["disk.raw"]);
    let stored = std::fs::read(package.path("disk.raw")).unwrap();
    assert_guest_bytes(&package.path("a.tar.gz"), &stored);
    assert!(stored != qcow2);
}

/// Creates a raw disk with `pieces` pieces of data between holes, and returns its bytes.
fn sparse_disk(package: &PackageBuilder, pieces: usize) -> Vec<u8> {
    package.write("disk.raw", "");
    let file = std::fs::File::options().write(true).open(package.path("disk.raw")).unwrap();
    let mut bytes = vec![0; pieces * (128 << 10) + 4096];
    for (n, part) in bytes.chunks_exact_mut(128 << 10).enumerate() {
        part[64 << 10..][..5000].copy_from_slice(&diskimg_testkit::disk::noise(n as u64, 5000));
        let at = (n * (128 << 10) + (64 << 10)) as u64;
        file.write_all_at(&part[64 << 10..][..5000], at).unwrap();
    }
    file.set_len(bytes.len() as u64).unwrap();
    bytes
}

#[test]
fn a_sparse_disk_is_read_as_google_cloud_packs_it() {
    let package = PackageBuilder::new();
    // The header has room for 4 pieces, each of the following ones for 21.
    for pieces in [0, 1, 3, 4, 5, 24, 25, 26, 100] {
        let bytes = sparse_disk(&package, pieces);
        for (name, compress) in [("a.tar.gz", "-czSf"), ("a.ova", "-cSf")] {
            package.tool("tar", &["--format=oldgnu", compress, name, "disk.raw"]);
            assert_guest_bytes(&package.path(name), &bytes);
        }
        let listed = package.tool("tar", &["-tzf", "a.tar.gz"]);
        assert_eq!(listed, "disk.raw\n");
    }
    let bytes = sparse_disk(&package, 2);
    package.tool("tar", &["--format=pax", "-czSf", "a.tar.gz", "disk.raw"]);
    let error = Image::open(package.path("a.tar.gz")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error} ({} bytes)", bytes.len());
}

#[test]
fn archives_without_a_disk_and_disks_in_several_files_are_errors() {
    let package = PackageBuilder::new();
    package.write("README", "text");
    tar_gz(&package, "source.tar.gz", &["README"]);
    let error = Image::open(package.path("source.tar.gz")).unwrap_err();
    assert!(error.to_string().contains("neither an .ovf member nor a disk image"), "{error}");
    package.create_disk("disk.vmdk", 1, "vmdk", &["-o", "subformat=twoGbMaxExtentSparse"]);
    package.write("metadata.json", r#"{"provider": "vmware_desktop"}"#);
    tar_gz(&package, "vmware.box", &["metadata.json", "disk.vmdk", "disk-s001.vmdk"]);
    let error = Image::open(package.path("vmware.box")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("unpack it"), "{error}");
}

#[test]
fn the_work_for_an_archive_is_limited() {
    let package = PackageBuilder::new();
    package.write("disk.raw", vec![0; 4 << 20]);
    tar_gz(&package, "bomb.tar.gz", &["disk.raw"]);
    for metadata_only in [false, true] {
        let mut limits = Limits::default();
        limits.unpacked_bytes = 1 << 20;
        let options = OpenOptions::new().limits(limits).metadata_only(metadata_only);
        let error = options.open(package.path("bomb.tar.gz")).unwrap_err();
        assert_eq!(error.exceeded(), Some("unpacked_bytes"), "{error}");
    }
}

#[test]
fn what_a_program_that_unpacks_a_box_might_read_otherwise_is_an_error() {
    let package = PackageBuilder::new();
    package.create_disk("other.img", 1, "raw", &[]);
    let link = |name: &str, to: &str| {
        let _ = std::fs::remove_file(package.path(name));
        std::os::unix::fs::symlink(to, package.path(name)).unwrap();
    };
    let refused = |files: &[&str], fragment: &str| {
        tar_gz(&package, "a.box", files);
        let error = Image::open(package.path("a.box")).unwrap_err().to_string();
        assert!(error.contains(fragment), "{error}");
        let options = diskimg::InspectOptions::default();
        let found = diskimg::inspect(package.path("a.box"), &options);
        assert!(found.is_err() || !found.unwrap().is_safe());
    };
    package.write("metadata.json", r#"{"format": "raw"}"#);
    link("box.img", "/etc/passwd");
    refused(&["metadata.json", "other.img", "box.img"], "'box.img' is a link");
    for text in ["\u{feff}{}", "/* */ {}", "", "{\"format\": \"raw\"} x"] {
        package.write("metadata.json", text);
        refused(&["metadata.json", "other.img"], "metadata.json");
    }
    package.write("metadata.json", format!("{{{}}}", " ".repeat(40 << 20)));
    refused(&["metadata.json", "other.img"], "metadata.json");
    std::fs::remove_file(package.path("metadata.json")).unwrap();
    link("metadata.json", "m");
    refused(&["metadata.json", "other.img"], "'metadata.json' is a link");
}

#[test]
fn the_length_of_a_sparse_member_is_limited() {
    let package = PackageBuilder::new();
    package.write("disk.raw", "");
    let file = std::fs::File::options().write(true).open(package.path("disk.raw")).unwrap();
    file.set_len(1 << 40).unwrap();
    package.tool("tar", &["--format=oldgnu", "-cSf", "a.ova", "disk.raw"]);
    let error = Image::open(package.path("a.ova")).unwrap_err();
    assert_eq!(error.exceeded(), Some("unpacked_ratio"), "{error}");
}
