//! Reading appliances created with tar, gzip, 7-Zip and qemu-img.

use crate::formats::ova::assert_guest_bytes;
use crate::verified;
use diskimg::{Convert, Error, ErrorKind, ExternalFiles, Format, Image, OpenOptions, Remedy};
use diskimg_testkit::appliance::{
    OvfDisk, OvfFile, PackageBuilder, VMDK_FORMAT, descriptor, guest_bytes, single_disk_descriptor,
};
use std::path::Path;

fn open(path: &Path, disk: &str) -> Result<Image, Error> {
    OpenOptions::new().disk(disk.to_owned()).open(path)
}

#[test]
fn every_tar_format_is_read_in_place() {
    let package = PackageBuilder::new();
    let long = format!("{}/{}.vmdk", "folder".repeat(12), "long-name".repeat(14));
    for name in ["a-disk1.vmdk", &long] {
        let bytes = package.create_vmdk(name, 1);
        package.write("a.ovf", single_disk_descriptor(name));
        for format in ["v7", "ustar", "gnu", "oldgnu", "pax"] {
            // These formats cannot store names of more than 255 bytes, or with a last component of
            // more than 100.
            if name.len() > 100 && ["v7", "ustar"].contains(&format) {
                continue;
            }
            let ova = package.tar("a.ova", format, &["a.ovf", name]);
            assert_guest_bytes(&ova, &bytes);
            let image = Image::open(&ova).unwrap();
            let file = &image.layers().next().unwrap().files()[0];
            assert_eq!(file.path(), Some(&*ova));
            let (_, offset) = file.as_file().expect("not stored in the archive's file");
            assert!(offset > 0 && offset.is_multiple_of(512), "{format}");
        }
    }
}

#[test]
fn the_size_of_a_member_of_9_gib_is_read_from_base_256_or_pax() {
    use std::os::unix::fs::FileExt;
    const SIZE: u64 = (9 << 30) + 512;
    let package = PackageBuilder::new();
    let disk = OvfDisk {
        file: Some(1),
        format: "http://en.wikipedia.org/wiki/Byte",
        attributes: "ovf:capacity=\"9663677952\"",
    };
    let ovf = descriptor(&[OvfFile { href: "big", attributes: "" }], &[disk]);
    package.write("a.ovf", &ovf);
    for pax in [false, true] {
        let front = package.tar("a.ova", "ustar", &["a.ovf"]);
        let file = std::fs::OpenOptions::new().write(true).open(&front).unwrap();
        let mut at = 512 + (ovf.len() as u64).next_multiple_of(512);
        let mut header = tar::Header::new_ustar();
        header.set_path("big").unwrap();
        header.set_mode(0o644);
        if pax {
            let record = format!("19 size={SIZE}\n");
            assert_eq!(record.len(), 19);
            let mut extended = tar::Header::new_ustar();
            extended.set_path("x").unwrap();
            extended.set_entry_type(tar::EntryType::XHeader);
            extended.set_size(record.len() as u64);
            extended.set_cksum();
            file.write_all_at(extended.as_bytes(), at).unwrap();
            file.write_all_at(record.as_bytes(), at + 512).unwrap();
            at += 1024;
            header.set_size(0);
        } else {
            header.set_size(SIZE);
        }
        header.set_cksum();
        file.write_all_at(header.as_bytes(), at).unwrap();
        file.set_len(at + 512 + SIZE + 1024).unwrap();
        file.write_all_at(b"the end", at + 512 + SIZE - 7).unwrap();
        let listed = package.tool("tar", &["-tvf", "a.ova"]);
        assert!(listed.contains(&SIZE.to_string()), "{listed}");
        let image = Image::open(&front).unwrap();
        assert_eq!(image.size(), SIZE);
        let mut end = [0; 7];
        image.read_at(&mut end, SIZE - 7).unwrap();
        assert_eq!(&end, b"the end");
    }
}

#[test]
fn members_may_be_in_a_directory_in_any_order_with_others_between_them() {
    let package = PackageBuilder::new();
    let bytes = package.create_vmdk("vm/disks/d 1.vmdk", 1);
    let (vm, other) = ("vm/a.ovf", "vm/disks/notes.txt");
    package.write(vm, single_disk_descriptor("disks/d%201.vmdk"));
    package.write(other, "hello");
    package.write("vm/a.cert", "no certificate");
    let disk = "vm/disks/d 1.vmdk";
    for files in [
        vec!["vm", vm, "vm/disks", disk],
        vec!["./vm", "./vm/a.ovf", "./vm/disks/d 1.vmdk"],
        vec![disk, other, "vm/a.cert", vm],
    ] {
        assert_guest_bytes(&package.tar("a.ova", "gnu", &files), &bytes);
    }
}

#[test]
fn a_gzip_or_zip_archive_is_decompressed_only_when_its_data_is_read() {
    let package = PackageBuilder::new();
    let (ova, bytes) = package.single_disk_ova();
    package.tool("gzip", &["-k", "a.ova"]);
    let zip = |name: &str, level: &str| {
        let args = ["a", "-tzip", level, name, "a.ovf", "a-disk1.vmdk"];
        package.tool("7zz", &args);
        std::fs::rename(package.path(name), package.path("zip.ova")).unwrap();
        package.path("zip.ova")
    };
    assert_guest_bytes(&ova, &bytes);
    assert_guest_bytes(&package.path("a.ova.gz"), &bytes);
    std::fs::rename(package.path("a.ova.gz"), package.path("packed.ova")).unwrap();
    assert_guest_bytes(&package.path("packed.ova"), &bytes);
    assert_guest_bytes(&zip("stored.zip", "-mx0"), &bytes);
    assert_guest_bytes(&zip("deflated.zip", "-mx9"), &bytes);
    // Reading metadata decompresses no disk: a limit that suffices for the descriptor is enough.
    let mut limits = diskimg::Limits::default();
    limits.unpacked_bytes = 4096;
    let options = OpenOptions::new().limits(limits);
    let image = options.clone().metadata_only(true).open(package.path("zip.ova")).unwrap();
    assert_eq!(image.info(0).unwrap().virtual_size, 2 << 20);
    let error = options.open(package.path("zip.ova")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    package.tool("xz", &["-k", "a.ova"]);
    assert_guest_bytes(&package.path("a.ova.xz"), &bytes);
}

#[test]
fn a_file_may_be_compressed_chunked_or_both() {
    let package = PackageBuilder::new();
    let bytes = package.create_vmdk("d.vmdk", 1);
    package.tool("gzip", &["-k", "d.vmdk"]);
    let size = |name: &str| std::fs::metadata(package.path(name)).unwrap().len();
    for (name, gzip) in [("d.vmdk", ""), ("d.vmdk.gz", "ovf:compression=\"gzip\"")] {
        package.tool("split", &["-b", "30000", "-d", "-a", "9", name, &format!("{name}.")]);
        let whole = format!("{gzip} ovf:size=\"{}\"", size(name));
        let cut = format!("{whole} ovf:chunkSize=\"30000\"");
        let chunks: Vec<_> =
            (0..size(name).div_ceil(30_000)).map(|i| format!("{name}.{i:09}")).collect();
        assert!(chunks.len() > 3);
        for (attributes, files) in
            [(whole, vec![name]), (cut, chunks.iter().map(String::as_str).collect())]
        {
            let disk = OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes: "" };
            package.write(
                "a.ovf",
                descriptor(&[OvfFile { href: name, attributes: &attributes }], &[disk]),
            );
            let mut listed = vec!["a.ovf"];
            listed.extend(&files);
            package.manifest("a.mf", "sha256sum", &listed);
            assert_guest_bytes(&package.path("a.ovf"), &bytes);
            listed.insert(1, "a.mf");
            assert_guest_bytes(&package.tar("a.ova", "ustar", &listed), &bytes);
        }
    }
    // A chunk other than the last is shorter than the chunk size.
    std::fs::copy(package.path("d.vmdk.000000003"), package.path("d.vmdk.000000001")).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(package.path("d.vmdk.000000001"))
        .unwrap()
        .set_len(20_000)
        .unwrap();
    let attributes = format!("ovf:size=\"{}\" ovf:chunkSize=\"30000\"", size("d.vmdk"));
    let disk = OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes: "" };
    package.write(
        "a.ovf",
        descriptor(&[OvfFile { href: "d.vmdk", attributes: &attributes }], &[disk]),
    );
    let error = Image::open(package.path("a.ovf")).unwrap_err();
    assert!(error.to_string().contains("d.vmdk.000000001"), "{error}");
}

#[test]
fn a_disk_is_selected_by_number_file_or_id() {
    let package = PackageBuilder::new();
    let first = package.create_vmdk("a.vmdk", 1);
    let second = package.create_disk("b.qcow2", 2, "qcow2", &[]);
    let vmdk = OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes: "" };
    let qcow2 = OvfDisk { file: Some(3), format: "", attributes: "" };
    let blank = OvfDisk { file: None, format: VMDK_FORMAT, attributes: "ovf:capacity=\"1048576\"" };
    let files = ["a.vmdk", "cd.iso", "b.qcow2"].map(|href| OvfFile { href, attributes: "" });
    package.write("a.ovf", descriptor(&files, &[vmdk, qcow2, blank]));
    package.write("cd.iso", "an ISO image is no disk");
    let ova = package.tar("a.ova", "ustar", &["a.ovf", "a.vmdk", "cd.iso", "b.qcow2"]);
    for (disk, bytes) in [
        ("1", &first),
        ("a.vmdk", &first),
        ("vmdisk1", &first),
        ("2", &second),
        ("b.qcow2", &second),
        ("3", &vec![0; 1 << 20]),
        ("vmdisk3", &vec![0; 1 << 20]),
    ] {
        let image = verified::open(&OpenOptions::new().disk(disk.to_owned()), &ova);
        assert!(guest_bytes(&image) == *bytes, "{disk}");
        let named = Image::open(format!("{}:{disk}", ova.display())).unwrap();
        assert!(guest_bytes(&named) == *bytes, "{disk} after a colon");
    }
    for disk in ["0", "4", "cd.iso", "nothing"] {
        let error = open(&ova, disk).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("2 (b.qcow2)"), "{error}");
    }
    let error = Image::open(&ova).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("1 (a.vmdk), 2 (b.qcow2), 3 (vmdisk3)"), "{error}");
    // Metadata can be read without selecting a disk.
    let info = OpenOptions::new().metadata_only(true).open(&ova).unwrap().info(0).unwrap();
    assert_eq!(info.virtual_size, 5 << 20);
    // Other formats have no disks to select, and an existing file with a colon in its name is
    // opened as such.
    let error = open(&package.path("b.qcow2"), "1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    std::fs::copy(package.path("b.qcow2"), package.path("a.ova:1")).unwrap();
    assert_eq!(Image::open(package.path("a.ova:1")).unwrap().format(), Format::Qcow2);
}

#[test]
fn a_descriptor_refers_to_files_as_far_as_the_policy_allows() {
    let package = PackageBuilder::new();
    let bytes = package.create_vmdk("in/a.vmdk", 1);
    package.create_vmdk("out.vmdk", 2);
    std::os::unix::fs::symlink("../out.vmdk", package.path("in/link.vmdk")).unwrap();
    package.write("in/a.ovf", single_disk_descriptor("a.vmdk"));
    assert_guest_bytes(&package.path("in/a.ovf"), &bytes);
    let refused = |href: &str, policy| {
        package.write("in/b.ovf", single_disk_descriptor(href));
        let error =
            OpenOptions::new().external_files(policy).open(package.path("in/b.ovf")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    };
    refused("a.vmdk", ExternalFiles::None);
    refused("link.vmdk", ExternalFiles::SameDir);
    let outside = package.path("out.vmdk").display().to_string();
    for href in [
        "../out.vmdk",
        "%2e%2e/out.vmdk",
        "x/../../out.vmdk",
        &outside,
        "http://h/a.vmdk",
        "file:a.vmdk",
    ] {
        refused(href, ExternalFiles::Any);
    }
    package.write("in/b.ovf", single_disk_descriptor("missing.vmdk"));
    let error = Image::open(package.path("in/b.ovf")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn the_disk_format_follows_from_descriptor_and_content() {
    let package = PackageBuilder::new();
    let bytes = package.create_vmdk("a.vmdk", 1);
    package.create_disk("a.qcow2", 1, "qcow2", &[]);
    package.create_disk("a.vhd", 1, "vpc", &["-o", "subformat=fixed,force_size"]);
    for name in ["a.bin", "a.img"] {
        std::fs::copy(package.path("disk.raw"), package.path(name)).unwrap();
    }
    std::fs::copy(package.path("a.qcow2"), package.path("uuid")).unwrap();
    let qcow = "http://www.gnome.org/~markmc/qcow-image-format.html";
    let raw = "http://en.wikipedia.org/wiki/Byte";
    let open = |href, format| {
        let disk = OvfDisk { file: Some(1), format, attributes: "" };
        package.write("a.ovf", descriptor(&[OvfFile { href, attributes: "" }], &[disk]));
        Image::open(package.path("a.ovf"))
    };
    for (href, format) in [
        ("a.vmdk", VMDK_FORMAT),
        ("a.vmdk", ""),
        ("a.qcow2", ""),
        ("a.vhd", ""),
        ("a.vhd", "http://technet.microsoft.com/#vhd"),
        ("uuid", qcow),
        ("uuid", "urn:unknown"),
        ("a.img", ""),
        ("a.bin", raw),
    ] {
        let image = open(href, format).unwrap_or_else(|e| panic!("{href} {format}: {e}"));
        assert!(guest_bytes(&image) == bytes, "{href} {format}");
    }
    // A disk declared as raw is raw, whatever it contains.
    let image = open("uuid", raw).unwrap();
    assert!(guest_bytes(&image) == std::fs::read(package.path("uuid")).unwrap());
    for (href, format, kind) in [
        ("uuid", VMDK_FORMAT, ErrorKind::Corrupt),
        ("a.vmdk", qcow, ErrorKind::Corrupt),
        ("a.bin", VMDK_FORMAT, ErrorKind::Corrupt),
        // Nothing declares this disk as raw.
        ("a.bin", "", ErrorKind::Unsupported),
        ("a.bin", "urn:unknown", ErrorKind::Unsupported),
        ("a.bin", "http://technet.microsoft.com/#vhd", ErrorKind::Corrupt),
        // Declared as VMDK, but the content is another format.
        ("a.vhd", VMDK_FORMAT, ErrorKind::Corrupt),
    ] {
        let error = open(href, format).map(drop).unwrap_err();
        assert_eq!(error.kind(), kind, "{href} {format}: {error}");
        assert_ne!(error.remedy(), Some(Remedy::NameFormatRaw), "{error}");
        assert!(error.path().is_some_and(|p| p.to_string_lossy().ends_with(href)), "{error}");
    }
}

#[test]
fn a_disk_with_a_parent_is_refused_with_the_parents_name() {
    let package = PackageBuilder::new();
    package.create_vmdk("a.vmdk", 1);
    let base = OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes: "" };
    let child = OvfDisk { attributes: "ovf:parentRef=\"vmdisk1\"", ..base };
    package
        .write("a.ovf", descriptor(&[OvfFile { href: "a.vmdk", attributes: "" }], &[base, child]));
    open(&package.path("a.ovf"), "1").unwrap();
    let error = open(&package.path("a.ovf"), "2").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("vmdisk1"), "{error}");
}

#[test]
fn a_conversion_verifies_its_input_against_every_kind_of_manifest() {
    let package = PackageBuilder::new();
    let bytes = package.create_vmdk("a.vmdk", 1);
    package.write("a.ovf", single_disk_descriptor("a.vmdk"));
    package.write("other.txt", "not converted, so not verified");
    let files = ["a.ovf", "a.vmdk", "other.txt"];
    let out = package.path("out.raw");
    let convert = |verify| {
        let image = Image::open(package.path("a.ovf")).unwrap();
        Convert::new(image).verify_manifest(verify).run(&out)
    };
    let corrupt = |name: &str| {
        let error = convert(true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(error.remedy(), Some(Remedy::SkipManifest), "{error}");
        assert!(!out.exists());
        convert(false).unwrap();
        assert!(std::fs::read(&out).unwrap() == bytes);
        std::fs::remove_file(&out).unwrap();
    };
    for tool in ["sha1sum", "sha256sum", "sha512sum"] {
        package.manifest("a.mf", tool, &files);
        let right = std::fs::read_to_string(package.path("a.mf")).unwrap();
        for text in
            [right.clone(), right.replace(" = ", "= ").to_uppercase().replace(".VMDK", ".vmdk")]
        {
            let text = text.replace(".OVF", ".ovf").replace("(A.", "(a.").replace('\n', "\r\n");
            package.write("a.mf", text);
            convert(true).unwrap();
            std::fs::remove_file(&out).unwrap();
        }
        for name in ["a.ovf", "a.vmdk"] {
            let line = right.lines().find(|line| line.contains(&format!("({name})"))).unwrap();
            let digit = if line.ends_with('0') { "1" } else { "0" };
            let wrong = format!("{}{digit}", &line[..line.len() - 1]);
            package.write("a.mf", right.replace(line, &wrong));
            corrupt(name);
        }
        package.write("a.mf", right);
        package.write("other.txt", tool);
        convert(true).unwrap();
        std::fs::remove_file(&out).unwrap();
    }
    package.write("a.mf", "what is this\n");
    corrupt("what is this");
}

#[test]
fn a_wrong_file_size_in_the_descriptor_is_a_warning() {
    let package = PackageBuilder::new();
    let bytes = package.create_vmdk("a.vmdk", 1);
    let disk = OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes: "" };
    let file = OvfFile { href: "a.vmdk", attributes: "ovf:size=\"123\"" };
    package.write("a.ovf", descriptor(&[file], &[disk]));
    for path in [package.path("a.ovf"), package.tar("a.ova", "ustar", &["a.ovf", "a.vmdk"])] {
        let info = open(&path, "1").unwrap().info(0).unwrap();
        assert!(info.notes.iter().any(|note| note.contains("123")), "{:?}", info.notes);
        let out = package.path("out");
        let report = Convert::new(Image::open(&path).unwrap()).run(&out).unwrap();
        assert!(report.warnings.iter().any(|warning| warning.contains("123")), "{report:?}");
        assert!(std::fs::read(&out).unwrap() == bytes);
        let image = OpenOptions::new().strict(true).open(&path).unwrap();
        let error = Convert::new(image).run(&out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.remedy(), Some(Remedy::AcceptContradictions));
        assert!(error.to_string().contains("123"), "{error}");
    }
}

#[test]
fn a_check_verifies_the_manifest_and_checks_the_disks() {
    let package = PackageBuilder::new();
    package.create_disk("a.qcow2", 1, "qcow2", &[]);
    package.create_vmdk("b.vmdk", 2);
    let lines = ["a.qcow2", "b.vmdk"].map(|href| OvfFile { href, attributes: "" });
    let disk = |n, format| OvfDisk { file: Some(n), format, attributes: "" };
    package.write("a.ovf", descriptor(&lines, &[disk(1, ""), disk(2, VMDK_FORMAT)]));
    let files = ["a.ovf", "a.qcow2", "b.vmdk"];
    package.manifest("a.mf", "sha256sum", &files);
    let check = |files: &[&str]| {
        let ova = package.tar("a.ova", "ustar", files);
        let image = OpenOptions::new().metadata_only(true).open(ova).unwrap();
        let mut findings = Vec::new();
        let report = image.check(&mut |finding| findings.push(finding.message)).unwrap().unwrap();
        let counted = report.corruptions + report.leaks + report.check_errors;
        assert!(counted as usize >= findings.len(), "{findings:?}");
        (report, findings)
    };
    let all = ["a.ovf", "a.mf", "a.qcow2", "b.vmdk"];
    let (report, findings) = check(&all);
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!((report.total_clusters, report.corruptions), (32, 0));
    // A damaged refcount table and an unreferenced cluster, so that the digest is wrong too.
    let image = package.path("a.qcow2");
    let len = std::fs::metadata(&image).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.set_len(len.next_multiple_of(65536) + 65536).unwrap();
    use std::os::unix::fs::FileExt;
    file.write_all_at(&[0xff; 8], 65536).unwrap();
    let (report, findings) = check(&all);
    assert!(report.corruptions >= 2, "{findings:?}");
    assert!(findings.iter().any(|f| f.contains("a.qcow2") && f.contains("manifest")));
    assert!(findings.iter().any(|f| f.starts_with("disk 1: ")), "{findings:?}");
    // A file that is listed but missing.
    let (_, findings) = check(&["a.ovf", "a.mf", "a.qcow2"]);
    assert!(findings.iter().any(|f| f.contains("'b.vmdk' is not in the archive")), "{findings:?}");
}

#[test]
fn only_appliances_are_probed_as_appliances() {
    let package = PackageBuilder::new();
    let (ova, _) = package.single_disk_ova();
    let format = |name: &str| {
        let options = OpenOptions::new().metadata_only(true);
        options.open(package.path(name)).map(|image| image.format())
    };
    let unsupported = |name: &str, what: &str| {
        let error = format(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    };
    let ova_bytes = std::fs::read(&ova).unwrap();
    package.write("any.img", &ova_bytes);
    assert_eq!(format("any.img").unwrap(), Format::Ova);
    package.write("notes.txt", "some text");
    package.tar("other.img", "ustar", &["notes.txt", "a.ovf"]);
    unsupported("other.img", "tar");
    package.write("a.xml", single_disk_descriptor("a-disk1.vmdk"));
    assert_eq!(format("a.xml").unwrap(), Format::Raw, "a descriptor with another extension");
    for (name, bytes) in [
        ("soap.ovf", &b"<html/>"[..]),
        ("no.ovf", b"no markup"),
        ("bzip2.ova", b"BZh91AY"),
        ("page.ova", b"<html><p>404</p></html>"),
        ("empty.ova", b""),
        ("zeros.ova", &[0; 4096]),
    ] {
        package.write(name, bytes);
        format(name).expect_err("not an appliance despite its extension");
    }
    package.tool("gzip", &["-k", "a.ova"]);
    std::fs::copy(package.path("a.ova.gz"), package.path("disk.raw.gz")).unwrap();
    assert_eq!(format("disk.raw.gz").unwrap(), Format::Ova, "a tar.gz by its contents");
    package.tool("gzip", &["-k", "notes.txt"]);
    assert_eq!(format("notes.txt.gz").unwrap(), Format::Raw, "a file that is no archive");
    let mut wrong = ova_bytes.clone();
    wrong[148] ^= 1;
    package.write("wrong.ova", &wrong);
    assert!(format("wrong.ova").unwrap_err().to_string().contains("checksum"));
    package.write("wrong.img", &wrong);
    unsupported("wrong.img", "tar");
    // A file with the extension .ova must be an appliance.
    package.tar("other.ova", "ustar", &["notes.txt"]);
    let error = format("other.ova").unwrap_err();
    assert!(error.to_string().contains("neither an .ovf"), "{error}");
}

#[test]
fn real_appliances_read_as_the_disks_in_them() {
    let Some(dir) = std::env::var_os("DISKIMG_REAL_IMAGES") else { return };
    let dir = Path::new(&dir);
    let ovfs = dir.join("ovf/cot");
    for (ovf, vmdk) in [("input.ovf", "input.vmdk"), ("ubuntu.2.0.ovf", "ubuntu.2.0-disk1.vmdk")] {
        let image = verified::open(&OpenOptions::new(), ovfs.join(ovf));
        let alone = Image::open(ovfs.join(vmdk)).unwrap();
        let same = diskimg::Compare::new(&image, &alone).strict(true).run().unwrap();
        assert!(matches!(same, diskimg::Comparison::Identical { .. }), "{ovf}");
        let report = image.check(&mut |finding| panic!("{ovf}: {}", finding.message));
        assert_eq!(report.unwrap().unwrap().corruptions, 0);
    }
    // The descriptor announces a disk of 7.8 GB, but only 64 KiB are stored.
    let fake = dir.join("ova/cdi_fake.ova");
    let image = Image::open(&fake).unwrap();
    assert_eq!(
        Convert::new(image).run(std::env::temp_dir().join("x")).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    for broken in ["glance_testserver.ova", "glance_testserver-bad-ovf.ova"] {
        let error = Image::open(dir.join("ova").join(broken)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}
