//! Reading appliances that tar, gzip, 7-Zip and qemu-img made.

use diskimg::{Convert, Error, ErrorKind, ExternalFiles, Format, Image, OpenOptions};
use diskimg_testkit::appliance::{
    DiskLine, FileLine, Kit, VMDK, assert_holds, descriptor, guest_bytes, one_disk,
};
use diskimg_testkit::opened;
use std::path::Path;

fn open(path: &Path, disk: &str) -> Result<Image, Error> {
    OpenOptions::new().disk(disk.to_owned()).open(path)
}

#[test]
fn every_dialect_of_tar_is_read_in_place() {
    let kit = Kit::new();
    let long = format!("{}/{}.vmdk", "folder".repeat(12), "long-name".repeat(14));
    for name in ["a-disk1.vmdk", &long] {
        let bytes = kit.vmdk(name, 1);
        kit.write("a.ovf", one_disk(name));
        for format in ["v7", "ustar", "gnu", "oldgnu", "pax"] {
            // Names of more than 255 bytes, or of a last part of more than 100, fit in some only.
            if name.len() > 100 && ["v7", "ustar"].contains(&format) {
                continue;
            }
            let ova = kit.tar("a.ova", format, &["a.ovf", name]);
            assert_holds(&ova, &bytes);
            let image = Image::open(&ova).unwrap();
            let file = &image.layers().next().unwrap().files()[0];
            assert_eq!(file.path(), Some(&*ova));
            let (_, offset) = file.as_file().expect("lies in the archive's file");
            assert!(offset > 0 && offset.is_multiple_of(512), "{format}");
        }
    }
}

#[test]
fn a_member_of_9_gib_is_found_by_its_size_in_base_256_or_in_pax() {
    use std::os::unix::fs::FileExt;
    const SIZE: u64 = (9 << 30) + 512;
    let kit = Kit::new();
    let disk = DiskLine {
        file: Some(1),
        format: "http://en.wikipedia.org/wiki/Byte",
        more: "ovf:capacity=\"9663677952\"",
    };
    let ovf = descriptor(&[FileLine { href: "big", more: "" }], &[disk]);
    kit.write("a.ovf", &ovf);
    for pax in [false, true] {
        let front = kit.tar("a.ova", "ustar", &["a.ovf"]);
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
        let listed = kit.tool("tar", &["-tvf", "a.ova"]);
        assert!(listed.contains(&SIZE.to_string()), "{listed}");
        let image = Image::open(&front).unwrap();
        assert_eq!(image.size(), SIZE);
        let mut end = [0; 7];
        image.read_at(&mut end, SIZE - 7).unwrap();
        assert_eq!(&end, b"the end");
    }
}

#[test]
fn members_may_be_in_a_folder_in_any_order_with_others_among_them() {
    let kit = Kit::new();
    let bytes = kit.vmdk("vm/disks/d 1.vmdk", 1);
    let (vm, other) = ("vm/a.ovf", "vm/disks/notes.txt");
    kit.write(vm, one_disk("disks/d%201.vmdk"));
    kit.write(other, "hello");
    kit.write("vm/a.cert", "no certificate");
    let disk = "vm/disks/d 1.vmdk";
    for files in [
        vec!["vm", vm, "vm/disks", disk],
        vec!["./vm", "./vm/a.ovf", "./vm/disks/d 1.vmdk"],
        vec![disk, other, "vm/a.cert", vm],
    ] {
        assert_holds(&kit.tar("a.ova", "gnu", &files), &bytes);
    }
}

#[test]
fn an_archive_in_gzip_or_zip_is_unpacked_when_its_bytes_are_wanted() {
    let kit = Kit::new();
    let (ova, bytes) = kit.simple();
    kit.tool("gzip", &["-k", "a.ova"]);
    let pack = |name: &str, level: &str| {
        let args = ["a", "-tzip", level, name, "a.ovf", "a-disk1.vmdk"];
        kit.tool("7zz", &args);
        std::fs::rename(kit.path(name), kit.path("zip.ova")).unwrap();
        kit.path("zip.ova")
    };
    assert_holds(&ova, &bytes);
    assert_holds(&kit.path("a.ova.gz"), &bytes);
    std::fs::rename(kit.path("a.ova.gz"), kit.path("packed.ova")).unwrap();
    assert_holds(&kit.path("packed.ova"), &bytes);
    assert_holds(&pack("stored.zip", "-mx0"), &bytes);
    assert_holds(&pack("deflated.zip", "-mx9"), &bytes);
    // Facts alone unpack no disk: with room for the descriptor only they are to be had.
    let mut limits = diskimg::Limits::default();
    limits.unpacked_bytes = 4096;
    let options = OpenOptions::new().limits(limits);
    let image = options.clone().metadata_only(true).open(kit.path("zip.ova")).unwrap();
    assert_eq!(image.info(0).unwrap().virtual_size, 2 << 20);
    let error = options.open(kit.path("zip.ova")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    kit.tool("xz", &["-k", "a.ova"]);
    let error = Image::open(kit.path("a.ova.xz")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("xz"), "{error}");
}

#[test]
fn a_file_may_be_in_gzip_in_chunks_or_both() {
    let kit = Kit::new();
    let bytes = kit.vmdk("d.vmdk", 1);
    kit.tool("gzip", &["-k", "d.vmdk"]);
    let size = |name: &str| std::fs::metadata(kit.path(name)).unwrap().len();
    for (name, gzip) in [("d.vmdk", ""), ("d.vmdk.gz", "ovf:compression=\"gzip\"")] {
        kit.tool("split", &["-b", "30000", "-d", "-a", "9", name, &format!("{name}.")]);
        let whole = format!("{gzip} ovf:size=\"{}\"", size(name));
        let cut = format!("{whole} ovf:chunkSize=\"30000\"");
        let chunks: Vec<_> =
            (0..size(name).div_ceil(30_000)).map(|i| format!("{name}.{i:09}")).collect();
        assert!(chunks.len() > 3);
        for (more, files) in
            [(whole, vec![name]), (cut, chunks.iter().map(String::as_str).collect())]
        {
            let disk = DiskLine { file: Some(1), format: VMDK, more: "" };
            kit.write("a.ovf", descriptor(&[FileLine { href: name, more: &more }], &[disk]));
            let mut listed = vec!["a.ovf"];
            listed.extend(&files);
            kit.manifest("a.mf", "sha256sum", &listed);
            assert_holds(&kit.path("a.ovf"), &bytes);
            listed.insert(1, "a.mf");
            assert_holds(&kit.tar("a.ova", "ustar", &listed), &bytes);
        }
    }
    // A chunk that is shorter than the others, but not the last.
    std::fs::copy(kit.path("d.vmdk.000000003"), kit.path("d.vmdk.000000001")).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(kit.path("d.vmdk.000000001"))
        .unwrap()
        .set_len(20_000)
        .unwrap();
    let more = format!("ovf:size=\"{}\" ovf:chunkSize=\"30000\"", size("d.vmdk"));
    let disk = DiskLine { file: Some(1), format: VMDK, more: "" };
    kit.write("a.ovf", descriptor(&[FileLine { href: "d.vmdk", more: &more }], &[disk]));
    let error = Image::open(kit.path("a.ovf")).unwrap_err();
    assert!(error.to_string().contains("d.vmdk.000000001"), "{error}");
}

#[test]
fn a_disk_is_chosen_by_number_file_or_id_and_the_only_one_by_itself() {
    let kit = Kit::new();
    let first = kit.vmdk("a.vmdk", 1);
    let second = kit.disk("b.qcow2", 2, "qcow2", &[]);
    let vmdk = DiskLine { file: Some(1), format: VMDK, more: "" };
    let qcow2 = DiskLine { file: Some(3), format: "", more: "" };
    let blank = DiskLine { file: None, format: VMDK, more: "ovf:capacity=\"1048576\"" };
    let files = ["a.vmdk", "cd.iso", "b.qcow2"].map(|href| FileLine { href, more: "" });
    kit.write("a.ovf", descriptor(&files, &[vmdk, qcow2, blank]));
    kit.write("cd.iso", "an ISO image is no disk");
    let ova = kit.tar("a.ova", "ustar", &["a.ovf", "a.vmdk", "cd.iso", "b.qcow2"]);
    for (disk, bytes) in [
        ("1", &first),
        ("a.vmdk", &first),
        ("vmdisk1", &first),
        ("2", &second),
        ("b.qcow2", &second),
        ("3", &vec![0; 1 << 20]),
        ("vmdisk3", &vec![0; 1 << 20]),
    ] {
        let image = opened::verified(&OpenOptions::new().disk(disk.to_owned()), &ova);
        assert!(guest_bytes(&image) == *bytes, "{disk}");
        let named = Image::open(format!("{}:{disk}", ova.display())).unwrap();
        assert!(guest_bytes(&named) == *bytes, "{disk} behind a colon");
    }
    for disk in ["0", "4", "cd.iso", "nothing"] {
        let error = open(&ova, disk).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("2 (b.qcow2)"), "{error}");
    }
    let error = Image::open(&ova).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("1 (a.vmdk), 2 (b.qcow2), 3 (vmdisk3)"), "{error}");
    // Facts are to be had all the same.
    let info = OpenOptions::new().metadata_only(true).open(&ova).unwrap().info(0).unwrap();
    assert_eq!(info.virtual_size, 5 << 20);
    // Other images have no disks to choose, and a name that is there is meant.
    let error = open(&kit.path("b.qcow2"), "1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    std::fs::copy(kit.path("b.qcow2"), kit.path("a.ova:1")).unwrap();
    assert_eq!(Image::open(kit.path("a.ova:1")).unwrap().format(), Format::Qcow2);
}

#[test]
fn a_descriptor_names_files_beside_it_as_far_as_the_policy_allows() {
    let kit = Kit::new();
    let bytes = kit.vmdk("in/a.vmdk", 1);
    kit.vmdk("out.vmdk", 2);
    std::os::unix::fs::symlink("../out.vmdk", kit.path("in/link.vmdk")).unwrap();
    kit.write("in/a.ovf", one_disk("a.vmdk"));
    assert_holds(&kit.path("in/a.ovf"), &bytes);
    let refused = |href: &str, policy| {
        kit.write("in/b.ovf", one_disk(href));
        let error =
            OpenOptions::new().external_files(policy).open(kit.path("in/b.ovf")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    };
    refused("a.vmdk", ExternalFiles::None);
    refused("link.vmdk", ExternalFiles::SameDir);
    let outside = kit.path("out.vmdk").display().to_string();
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
    kit.write("in/b.ovf", one_disk("missing.vmdk"));
    let error = Image::open(kit.path("in/b.ovf")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn the_format_is_what_descriptor_and_bytes_agree_on() {
    let kit = Kit::new();
    let bytes = kit.vmdk("a.vmdk", 1);
    kit.disk("a.qcow2", 1, "qcow2", &[]);
    kit.disk("a.vhd", 1, "vpc", &["-o", "subformat=fixed,force_size"]);
    for name in ["a.bin", "a.img"] {
        std::fs::copy(kit.path("disk.raw"), kit.path(name)).unwrap();
    }
    std::fs::copy(kit.path("a.qcow2"), kit.path("uuid")).unwrap();
    let qcow = "http://www.gnome.org/~markmc/qcow-image-format.html";
    let raw = "http://en.wikipedia.org/wiki/Byte";
    let open = |href, format| {
        let disk = DiskLine { file: Some(1), format, more: "" };
        kit.write("a.ovf", descriptor(&[FileLine { href, more: "" }], &[disk]));
        Image::open(kit.path("a.ovf"))
    };
    for (href, format) in [
        ("a.vmdk", VMDK),
        ("a.vmdk", ""),
        ("a.qcow2", ""),
        ("uuid", qcow),
        ("uuid", "urn:unknown"),
        ("a.img", ""),
        ("a.bin", raw),
    ] {
        let image = open(href, format).unwrap_or_else(|e| panic!("{href} {format}: {e}"));
        assert!(guest_bytes(&image) == bytes, "{href} {format}");
    }
    // A guest's bytes are the guest's, whatever they look like.
    let image = open("uuid", raw).unwrap();
    assert!(guest_bytes(&image) == std::fs::read(kit.path("uuid")).unwrap());
    for (href, format, kind) in [
        ("uuid", VMDK, ErrorKind::Corrupt),
        ("a.vmdk", qcow, ErrorKind::Corrupt),
        ("a.bin", VMDK, ErrorKind::Corrupt),
        // Nobody says that these bytes are raw.
        ("a.bin", "", ErrorKind::Unsupported),
        ("a.bin", "urn:unknown", ErrorKind::Unsupported),
        ("a.vhd", "", ErrorKind::Unsupported),
        ("a.bin", "http://technet.microsoft.com/#vhd", ErrorKind::Unsupported),
    ] {
        let error = open(href, format).map(drop).unwrap_err();
        assert_eq!(error.kind(), kind, "{href} {format}: {error}");
        assert!(error.path().is_some_and(|p| p.to_string_lossy().ends_with(href)), "{error}");
    }
}

#[test]
fn a_disk_that_builds_on_another_is_refused_by_name() {
    let kit = Kit::new();
    kit.vmdk("a.vmdk", 1);
    let base = DiskLine { file: Some(1), format: VMDK, more: "" };
    let child = DiskLine { more: "ovf:parentRef=\"vmdisk1\"", ..base };
    kit.write("a.ovf", descriptor(&[FileLine { href: "a.vmdk", more: "" }], &[base, child]));
    open(&kit.path("a.ovf"), "1").unwrap();
    let error = open(&kit.path("a.ovf"), "2").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("vmdisk1"), "{error}");
}

#[test]
fn a_conversion_holds_what_it_reads_against_every_kind_of_manifest() {
    let kit = Kit::new();
    let bytes = kit.vmdk("a.vmdk", 1);
    kit.write("a.ovf", one_disk("a.vmdk"));
    kit.write("other.txt", "not converted, so not verified");
    let files = ["a.ovf", "a.vmdk", "other.txt"];
    let out = kit.path("out.raw");
    let convert = |verify| {
        let image = Image::open(kit.path("a.ovf")).unwrap();
        Convert::new(image).verify_manifest(verify).run(&out)
    };
    let corrupt = |name: &str| {
        let error = convert(true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("--no-verify"), "{text}");
        assert!(!out.exists());
        convert(false).unwrap();
        assert!(std::fs::read(&out).unwrap() == bytes);
        std::fs::remove_file(&out).unwrap();
    };
    for tool in ["sha1sum", "sha256sum", "sha512sum"] {
        kit.manifest("a.mf", tool, &files);
        let right = std::fs::read_to_string(kit.path("a.mf")).unwrap();
        for text in
            [right.clone(), right.replace(" = ", "= ").to_uppercase().replace(".VMDK", ".vmdk")]
        {
            let text = text.replace(".OVF", ".ovf").replace("(A.", "(a.").replace('\n', "\r\n");
            kit.write("a.mf", text);
            convert(true).unwrap();
            std::fs::remove_file(&out).unwrap();
        }
        for name in ["a.ovf", "a.vmdk"] {
            let line = right.lines().find(|line| line.contains(&format!("({name})"))).unwrap();
            let digit = if line.ends_with('0') { "1" } else { "0" };
            let wrong = format!("{}{digit}", &line[..line.len() - 1]);
            kit.write("a.mf", right.replace(line, &wrong));
            corrupt(name);
        }
        kit.write("a.mf", right);
        kit.write("other.txt", tool);
        convert(true).unwrap();
        std::fs::remove_file(&out).unwrap();
    }
    kit.write("a.mf", "what is this\n");
    corrupt("what is this");
}

#[test]
fn a_file_of_another_length_than_announced_is_not_converted() {
    let kit = Kit::new();
    kit.vmdk("a.vmdk", 1);
    let disk = DiskLine { file: Some(1), format: VMDK, more: "" };
    let file = FileLine { href: "a.vmdk", more: "ovf:size=\"123\"" };
    kit.write("a.ovf", descriptor(&[file], &[disk]));
    for path in [kit.path("a.ovf"), kit.tar("a.ova", "ustar", &["a.ovf", "a.vmdk"])] {
        let info = open(&path, "1").unwrap().info(0).unwrap();
        assert!(info.notes.iter().any(|note| note.contains("123")), "{:?}", info.notes);
        let error = Convert::new(Image::open(&path).unwrap()).run(kit.path("out")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("123"), "{error}");
    }
}

#[test]
fn a_check_finds_what_a_manifest_does_not_agree_with_and_looks_into_disks() {
    let kit = Kit::new();
    kit.disk("a.qcow2", 1, "qcow2", &[]);
    kit.vmdk("b.vmdk", 2);
    let lines = ["a.qcow2", "b.vmdk"].map(|href| FileLine { href, more: "" });
    let disk = |n, format| DiskLine { file: Some(n), format, more: "" };
    kit.write("a.ovf", descriptor(&lines, &[disk(1, ""), disk(2, VMDK)]));
    let files = ["a.ovf", "a.qcow2", "b.vmdk"];
    kit.manifest("a.mf", "sha256sum", &files);
    let check = |files: &[&str]| {
        let ova = kit.tar("a.ova", "ustar", files);
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
    // A cluster that nothing refers to, and a digest that is not right any more.
    let image = kit.path("a.qcow2");
    let len = std::fs::metadata(&image).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.set_len(len.next_multiple_of(65536) + 65536).unwrap();
    use std::os::unix::fs::FileExt;
    file.write_all_at(&[0xff; 8], 65536).unwrap();
    let (report, findings) = check(&all);
    assert!(report.corruptions >= 2, "{findings:?}");
    assert!(findings.iter().any(|f| f.contains("a.qcow2") && f.contains("manifest")));
    assert!(findings.iter().any(|f| f.starts_with("disk 1: ")), "{findings:?}");
    // A file that is listed and not there.
    let (_, findings) = check(&["a.ovf", "a.mf", "a.qcow2"]);
    assert!(findings.iter().any(|f| f.contains("'b.vmdk' is not in the archive")), "{findings:?}");
}

#[test]
fn only_what_is_an_appliance_is_probed_as_one() {
    let kit = Kit::new();
    let (ova, _) = kit.simple();
    let format = |name: &str| {
        let options = OpenOptions::new().metadata_only(true);
        options.open(kit.path(name)).map(|image| image.format())
    };
    let ova_bytes = std::fs::read(&ova).unwrap();
    kit.write("any.img", &ova_bytes);
    assert_eq!(format("any.img").unwrap(), Format::Ova);
    kit.write("notes.txt", "some text");
    kit.tar("other.img", "ustar", &["notes.txt", "a.ovf"]);
    assert_eq!(format("other.img").unwrap(), Format::Raw, "a tar of something else");
    kit.write("a.xml", one_disk("a-disk1.vmdk"));
    assert_eq!(format("a.xml").unwrap(), Format::Raw, "a descriptor under another name");
    for (name, bytes) in [
        ("soap.ovf", &b"<html/>"[..]),
        ("no.ovf", b"no markup"),
        ("bzip2.ova", b"BZh91AY"),
        ("page.ova", b"<html><p>404</p></html>"),
        ("empty.ova", b""),
        ("zeros.ova", &[0; 4096]),
    ] {
        kit.write(name, bytes);
        format(name).expect_err("it is called so, and is none");
    }
    kit.tool("gzip", &["-k", "a.ova"]);
    std::fs::copy(kit.path("a.ova.gz"), kit.path("disk.raw.gz")).unwrap();
    assert_eq!(format("disk.raw.gz").unwrap(), Format::Raw, "any gzip");
    let mut wrong = ova_bytes.clone();
    wrong[148] ^= 1;
    kit.write("wrong.ova", &wrong);
    assert!(format("wrong.ova").unwrap_err().to_string().contains("checksum"));
    kit.write("wrong.img", &wrong);
    assert_eq!(format("wrong.img").unwrap(), Format::Raw, "a wrong checksum");
    // What is called an OVA shall be one.
    kit.tar("other.ova", "ustar", &["notes.txt"]);
    let error = format("other.ova").unwrap_err();
    assert!(error.to_string().contains("no .ovf"), "{error}");
}

#[test]
fn appliances_from_elsewhere_read_as_their_files_do() {
    let Some(folder) = std::env::var_os("DISKIMG_REAL_IMAGES") else { return };
    let folder = Path::new(&folder);
    let ovfs = folder.join("ovf/cot");
    for (ovf, vmdk) in [("input.ovf", "input.vmdk"), ("ubuntu.2.0.ovf", "ubuntu.2.0-disk1.vmdk")] {
        let image = opened::verified(&OpenOptions::new(), ovfs.join(ovf));
        let alone = Image::open(ovfs.join(vmdk)).unwrap();
        let same = diskimg::compare(&image, &alone, true, None, None).unwrap();
        assert!(matches!(same, diskimg::Comparison::Identical { .. }), "{ovf}");
        let report = image.check(&mut |finding| panic!("{ovf}: {}", finding.message));
        assert_eq!(report.unwrap().unwrap().corruptions, 0);
    }
    // Its descriptor speaks of a disk of 7.8 GB; 64 KiB of it are there.
    let fake = folder.join("ova/cdi_fake.ova");
    let image = Image::open(&fake).unwrap();
    assert_eq!(
        Convert::new(image).run(std::env::temp_dir().join("x")).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    for broken in ["glance_testserver.ova", "glance_testserver-bad-ovf.ova"] {
        let error = Image::open(folder.join("ova").join(broken)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}
