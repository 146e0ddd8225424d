//! Images that programs create, which must be safe.

use diskimg::{Convert, Format, InspectOptions, OpenOptions, Options, inspect};
use diskimg_testkit::appliance::{PackageBuilder, single_disk_descriptor};
use diskimg_testkit::disk::noise;
use diskimg_testkit::tool::{run, try_run};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory in which images are made.
struct Lab(TempDir);

impl Lab {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a disk whose data begins with text and contains archives at usual places.
    fn raw(&self) -> PathBuf {
        let mut bytes = vec![0; 4 << 20];
        bytes[..300_000].copy_from_slice(&noise(1, 300_000));
        bytes[3 << 20..][..4].copy_from_slice(b"PK\x03\x04");
        let path = self.path("disk.raw");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

#[track_caller]
fn assert_safe(path: &Path, claimed: &str) {
    for options in [InspectOptions::new(), InspectOptions::new().claimed(claimed).unwrap()] {
        let found = inspect(path, &options).unwrap();
        assert!(found.is_safe(), "{}: {:?}", path.display(), found.findings);
        assert_eq!(found.format, claimed, "{}", path.display());
    }
}

#[test]
fn images_of_qemu_img_are_safe() {
    let lab = Lab(tempfile::tempdir().unwrap());
    let raw = lab.raw();
    let cases = [
        ("qcow2", ""),
        ("qcow2", "compat=0.10"),
        ("qcow2", "cluster_size=512"),
        ("qcow2", "cluster_size=2M"),
        ("qcow2", "compression_type=zstd"),
        ("qcow2", "lazy_refcounts=on,refcount_bits=1"),
        ("qcow2", "preallocation=full"),
        ("vmdk", ""),
        ("vmdk", "subformat=streamOptimized"),
        ("vmdk", "zeroed_grain=on"),
        ("vmdk", "compat6=on"),
        ("vmdk", "adapter_type=lsilogic,hwversion=13,toolsversion=2147483647"),
    ];
    for (format, options) in cases {
        let path = lab.path("a.img");
        let mut args = vec!["convert", "-f", "raw", "-O", format];
        args.extend(options.split_terminator(' ').flat_map(|options| ["-o", options]));
        run("qemu-img", args.into_iter().chain([text(&raw), text(&path)]).collect::<Vec<_>>());
        assert_safe(&path, format);
        std::fs::remove_file(&path).unwrap();
        let mut args = vec!["create", "-q", "-f", format];
        args.extend(options.split_terminator(' ').flat_map(|options| ["-o", options]));
        let size = if options.contains("cluster_size=512") { "8M" } else { "70M" };
        run("qemu-img", args.into_iter().chain([text(&path), size]).collect::<Vec<_>>());
        assert_safe(&path, format);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn images_of_large_disks_are_safe() {
    let lab = Lab(tempfile::tempdir().unwrap());
    for (format, size) in [("vmdk", "8T"), ("vmdk", "40T"), ("qcow2", "64T")] {
        let path = lab.path("a.img");
        run("qemu-img", ["create", "-q", "-f", format, text(&path), size]);
        assert_safe(&path, format);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn images_of_this_library_are_safe() {
    let lab = Lab(tempfile::tempdir().unwrap());
    let raw = lab.raw();
    for (format, options) in [
        (Format::Qcow2, ""),
        (Format::Qcow2, "compat=0.10"),
        (Format::Vmdk, ""),
        (Format::Vmdk, "subformat=streamOptimized"),
        (Format::Vmdk, "zeroed_grain=on"),
        (Format::Ova, ""),
    ] {
        let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
        let options = Options::parse(options).unwrap();
        let path = lab.path(&format!("a.{}", format.name()));
        Convert::new(image).format(format).options(options).run(&path).unwrap();
        assert_safe(&path, format.name());
    }
}

#[test]
fn disks_and_file_systems_are_safe() {
    let lab = Lab(tempfile::tempdir().unwrap());
    for (name, command) in [
        ("gpt", "truncate -s 8M \"$1\" && printf 'label: gpt\\n,1M\\n,,\\n' | sfdisk -q \"$1\""),
        ("mbr", "truncate -s 8M \"$1\" && printf 'label: dos\\n,1M,83,*\\n' | sfdisk -q \"$1\""),
        ("ext4", "truncate -s 8M \"$1\" && mkfs.ext4 -q \"$1\""),
        ("fat", "mformat -C -T 16384 -i \"$1\" ::"),
        ("zeros", "truncate -s 8M \"$1\""),
        ("random", "head -c 8M /dev/urandom > \"$1\""),
    ] {
        let path = lab.path(name);
        run("sh", ["-c", command, "sh", text(&path)]);
        assert_safe(&path, "raw");
    }
}

#[test]
fn iso_images_are_safe() {
    let lab = Lab(tempfile::tempdir().unwrap());
    let dir = lab.path("files");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("a.txt"), noise(3, 70_000)).unwrap();
    std::fs::write(dir.join("boot.img"), [0x90; 2048]).unwrap();
    let boot = ["-b", "boot.img", "-no-emul-boot", "-boot-load-size", "4"];
    let (path, boot_image) = (lab.path("a.iso"), dir.join("boot.img"));
    let dir = text(&dir);
    let xorriso: [&[&str]; 4] = [
        &["-R", "-J"],
        &boot,
        &["-appid", "x", "-isohybrid-gpt-basdat", "-partition_offset", "16"],
        &["-append_partition", "2", "0xef", text(&boot_image), "-appended_part_as_gpt"],
    ];
    for options in xorriso {
        let args = ["-as", "mkisofs", "-quiet", "-o", text(&path)];
        run("xorriso", args.iter().chain(options).chain([&dir]).copied().collect::<Vec<_>>());
        assert_safe(&path, "iso");
    }
    for options in [&["-R", "-J"][..], &["-udf"], &boot] {
        let args = ["-quiet", "-o", text(&path)];
        run("genisoimage", args.iter().chain(options).chain([&dir]).copied().collect::<Vec<_>>());
        assert_safe(&path, "iso");
    }
    // Not every installation has the modules of a platform.
    if try_run("grub-mkrescue", ["-o", text(&path), dir]).status.success() {
        assert_safe(&path, "iso");
    }
}

#[test]
fn appliances_of_every_tar_are_safe() {
    let package = PackageBuilder::new();
    package.create_vmdk("a-disk1.vmdk", 1);
    // Without holes, which bsdtar would store in one of pax's formats.
    let disk = std::fs::read(package.path("a-disk1.vmdk")).unwrap();
    std::fs::remove_file(package.path("a-disk1.vmdk")).unwrap();
    package.write("a-disk1.vmdk", disk);
    package.write("a.ovf", single_disk_descriptor("a-disk1.vmdk"));
    package.manifest("a.mf", "sha256sum", &["a.ovf", "a-disk1.vmdk"]);
    let files = ["a.ovf", "a.mf", "a-disk1.vmdk"];
    for format in ["v7", "oldgnu", "gnu", "ustar", "posix"] {
        let path = package.tar("a.ova", format, &files);
        assert_safe(&path, "ova");
    }
    for format in ["ustar", "pax", "gnutar"] {
        package.tool("bsdtar", &[&["-cf", "b.ova", "--format", format][..], &files].concat());
        assert_safe(&package.path("b.ova"), "ova");
    }
    for format in ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"] {
        let program = format!(
            "import tarfile\nwith tarfile.open('c.ova', 'w', format=tarfile.{format}) as t:\n \
             for n in ('a.ovf', 'a.mf', 'a-disk1.vmdk'): t.add(n)"
        );
        package.tool("python3", &["-c", &program]);
        assert_safe(&package.path("c.ova"), "ova");
    }
    // With a directory, as `tar -C DIR .` writes it.
    package.tool("tar", &["-cf", "d.ova", "./a.ovf", "./a.mf", "./a-disk1.vmdk"]);
    assert_safe(&package.path("d.ova"), "ova");
    // In records of 2 MiB.
    package.tool("tar", &["-b", "4096", "-cf", "d.ova", "a.ovf", "a.mf", "a-disk1.vmdk"]);
    assert_safe(&package.path("d.ova"), "ova");
    // With AppleDouble files of macOS.
    package.write("._a-disk1.vmdk", b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ");
    let path = package.tar("e.ova", "ustar", &["a.ovf", "._a-disk1.vmdk", "a-disk1.vmdk"]);
    assert_safe(&path, "ova");
}

#[test]
fn real_images_are_safe() {
    let Some(dir) = std::env::var_os("DISKIMG_REAL_IMAGES") else { return };
    let manifest = std::fs::read_to_string(Path::new(&dir).join("MANIFEST.tsv")).unwrap();
    for line in manifest.lines().skip(1) {
        let fields: Vec<_> = line.split('\t').collect();
        let (file, format, guest_read_by) = (fields[0], fields[1], fields[5]);
        let is_part = matches!(format, "ovf") && !file.ends_with(".vmdk");
        // Appliances of test suites have disks of a few bytes.
        if is_part || format == "ova" || guest_read_by.is_empty() && format == "vmdk" {
            continue;
        }
        let found = inspect(Path::new(&dir).join(file), &InspectOptions::new()).unwrap();
        assert!(found.is_safe(), "{file}: {:?}", found.findings);
    }
}
