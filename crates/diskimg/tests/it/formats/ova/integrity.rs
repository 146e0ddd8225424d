//! Integrity of appliances: manifests, checksums and the boundary of the package.

use crate::formats::ova::hostile::tar;
use diskimg::inspection::Code;
use diskimg::{Convert, Error, ErrorKind, ExternalFiles, Format, Image, OpenOptions, Remedy};
use diskimg_testkit::appliance::{OvfDisk, OvfFile, PackageBuilder, VMDK_FORMAT, descriptor};
use std::path::Path;

const RAW: &str = "http://en.wikipedia.org/wiki/Byte";

/// Returns a descriptor of one raw disk.
fn raw(href: &str, attributes: &str) -> String {
    let disk = OvfDisk { file: Some(1), format: RAW, attributes: "ovf:capacity=\"4096\"" };
    descriptor(&[OvfFile { href, attributes }], &[disk])
}

fn convert(path: &Path) -> Result<(), Error> {
    let image = OpenOptions::new().external_files(ExternalFiles::Any).open(path)?;
    Convert::new(image).run(path.with_file_name("out")).map(drop)
}

fn findings(path: &Path) -> Vec<String> {
    let options = OpenOptions::new().metadata_only(true).external_files(ExternalFiles::Any);
    let mut findings = Vec::new();
    options.open(path).unwrap().check(&mut |finding| findings.push(finding.message)).unwrap();
    findings
}

#[test]
fn a_wrong_digest_is_found_for_every_spelling_of_the_name() {
    let package = PackageBuilder::new();
    package.write("a b.raw", [1; 4096]);
    package.write("x.ovf", raw("a%20b.raw", ""));
    let sums = package.tool("sha256sum", &["--tag", "x.ovf", "a b.raw"]);
    let (ovf, disk) = sums.trim().split_once('\n').unwrap();
    let wrong = format!("{}{}", &disk[..disk.len() - 1], if disk.ends_with('0') { 1 } else { 0 });
    let ovf_bytes = std::fs::read(package.path("x.ovf")).unwrap();
    for dir in ["", "f/"] {
        for name in ["a b.raw", "a%20b.raw", "./a b.raw", "A B.RAW", "f/a b.raw", "other"] {
            if dir.is_empty() && name.starts_with("f/") {
                continue;
            }
            for (line, right) in [(disk, name != "other"), (&*wrong, false)] {
                let manifest =
                    format!("{ovf}\n{}\n", line.replace("(a b.raw)", &format!("({name})")));
                let names = ["x.ovf", "x.mf", "a b.raw"].map(|name| format!("{dir}{name}"));
                let members =
                    [&*ovf_bytes, manifest.as_bytes(), &[1; 4096]].into_iter().zip(&names);
                let members: Vec<_> = members.map(|(bytes, name)| (&**name, bytes)).collect();
                package.write("x.ova", tar(&members));
                let outcome = convert(&package.path("x.ova"));
                assert_eq!(outcome.is_ok(), right, "{dir} {name}: {outcome:?}");
                if let Err(error) = outcome {
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    assert_eq!(error.remedy(), Some(Remedy::SkipManifest), "{error}");
                }
                assert_eq!(findings(&package.path("x.ova")).is_empty(), right, "{dir} {name}");
            }
        }
    }
}

#[test]
fn a_manifest_next_to_a_descriptor_is_found_in_any_case_and_never_ignored() {
    let package = PackageBuilder::new();
    package.write("in/x.ovf", raw("d.raw", ""));
    package.write("in/d.raw", [1; 4096]);
    convert(&package.path("in/x.ovf")).unwrap();
    package.write("in/X.MF", format!("SHA1(x.ovf)= {0}\nSHA1(d.raw)= {0}\n", "0".repeat(40)));
    assert_eq!(convert(&package.path("in/x.ovf")).unwrap_err().kind(), ErrorKind::Corrupt);
    std::fs::copy(package.path("in/X.MF"), package.path("in/x.mf")).unwrap();
    let error = convert(&package.path("in/x.ovf")).unwrap_err();
    assert!(error.to_string().contains("X.MF, x.mf"), "{error}");
    std::fs::remove_file(package.path("in/X.MF")).unwrap();
    std::fs::remove_file(package.path("in/x.mf")).unwrap();
    package.write("elsewhere.mf", "");
    std::os::unix::fs::symlink("../elsewhere.mf", package.path("in/x.mf")).unwrap();
    let error = Image::open(package.path("in/x.ovf")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[test]
fn several_manifests_in_an_archive_are_an_error_that_names_them() {
    let package = PackageBuilder::new();
    let ovf = raw("d.raw", "");
    let bytes =
        tar(&[("x.ovf", ovf.as_bytes()), ("y.mf", b""), ("z.mf", b""), ("d.raw", &[1; 4096])]);
    package.write("x.ova", bytes);
    let error = Image::open(package.path("x.ova")).unwrap_err();
    assert!(error.to_string().contains("y.mf, z.mf"), "{error}");
}

#[test]
fn a_check_reveals_nothing_about_files_outside_the_package_and_continues_after_missing_ones() {
    let package = PackageBuilder::new();
    package.write("in/x.ovf", raw("d.raw", ""));
    package.write("in/d.raw", [1; 4096]);
    package.write("secret", "secret");
    let digests = package.tool("sha1sum", &["--tag", "secret"]);
    let digest = digests.trim().rsplit(' ').next().unwrap();
    let sums = package.tool("sh", &["-c", "cd in && sha1sum --tag x.ovf d.raw"]);
    for name in ["../secret", "%2e%2e/secret", package.path("secret").to_str().unwrap(), "missing"]
    {
        let zero = "0".repeat(40);
        package.write("in/x.mf", format!("{sums}SHA1({name})= {zero}\nSHA1(gone)= {zero}\n"));
        let findings = findings(&package.path("in/x.ovf"));
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(!findings.iter().any(|finding| finding.contains(digest)), "{findings:?}");
    }
}

#[test]
fn an_image_in_a_package_must_be_one_file() {
    let package = PackageBuilder::new();
    package.create_disk("x.vmdk", 1, "vmdk", &["-o", "subformat=monolithicFlat"]);
    package.write("x.ovf", diskimg_testkit::appliance::single_disk_descriptor("x.vmdk"));
    let error = convert(&package.path("x.ovf")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let text = error.to_string();
    assert!(text.contains("cannot refer to other files"), "{text}");
    assert_eq!(error.remedy(), None, "{text}");
}

#[test]
fn the_crc_of_a_stored_zip_member_is_verified() {
    let package = PackageBuilder::new();
    package.write("x.ovf", raw("d.raw", ""));
    package.write("d.raw", [7; 4096]);
    package.tool("7zz", &["a", "-tzip", "-mx0", "x.zip", "x.ovf", "d.raw"]);
    let mut bytes = std::fs::read(package.path("x.zip")).unwrap();
    package.write("x.ova", &bytes);
    convert(&package.path("x.ova")).unwrap();
    let at = bytes.windows(64).position(|w| w == [7; 64]).unwrap();
    bytes[at + 1000] ^= 1;
    package.write("x.ova", bytes);
    let error = convert(&package.path("x.ova")).unwrap_err();
    assert!(error.to_string().contains("CRC of 'd.raw'"), "{error}");
    assert_eq!(findings(&package.path("x.ova")).len(), 1);
}

#[test]
fn a_disk_that_looks_like_an_appliance_is_not_extracted() {
    let package = PackageBuilder::new();
    package.write("d.gz", [0; 4096]);
    package.tool("sh", &["-c", "gzip < d.gz > z && mv z d.gz"]);
    let compressed = std::fs::read(package.path("d.gz")).unwrap();
    let ovf = raw("d.gz", "ovf:compression=\"gzip\"");
    let bytes = tar(&[("x.ovf", ovf.as_bytes()), ("d.gz", &compressed)]);
    package.write("guest.img", &bytes);
    assert_eq!(convert(&package.path("guest.img")).unwrap_err().kind(), ErrorKind::Refused);
    OpenOptions::new().format(Format::Ova).open(package.path("guest.img")).unwrap();
    package.write("x.ova", &bytes);
    convert(&package.path("x.ova")).unwrap();
}

#[test]
fn a_descriptor_without_a_path_cannot_refer_to_files() {
    let source = diskimg::storage::source::MemorySource::new(raw("Cargo.toml", ""));
    let options = OpenOptions::new().format(Format::Ova).external_files(ExternalFiles::Any);
    let error = options.open_source(std::sync::Arc::new(source), "-").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[test]
fn files_that_macos_adds_are_ignored() {
    let package = PackageBuilder::new();
    let ovf = raw("d.raw", "");
    package.write(
        "x.ova",
        tar(&[
            ("._x.ovf", b"\0\x05\x16\x07"),
            ("x.ovf", ovf.as_bytes()),
            ("__MACOSX/x/._x.mf", b"x"),
            ("._x.mf", b"x"),
            ("d.raw", &[1; 4096]),
        ]),
    );
    convert(&package.path("x.ova")).unwrap();
}

#[test]
fn the_length_of_member_names_is_limited_each_and_in_total() {
    let ovf = raw("d.raw", "");
    let open = |names: &[String]| {
        let mut members = vec![("x.ovf", ovf.as_bytes()), ("d.raw", &[1; 4096][..])];
        members.extend(names.iter().map(|name| (&**name, &b""[..])));
        let source =
            std::sync::Arc::new(diskimg::storage::source::MemorySource::new(tar(&members)));
        OpenOptions::new().format(Format::Ova).open_source(source, "x.ova").map(drop)
    };
    open(&["n".repeat(4096)]).unwrap();
    assert_eq!(open(&["n".repeat(4097)]).unwrap_err().kind(), ErrorKind::Limit);
    let many: Vec<_> = (0..4200).map(|i| format!("{i:04096}")).collect();
    assert_eq!(open(&many).unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn map_offsets_are_offsets_in_the_archive() {
    let package = PackageBuilder::new();
    let ovf = raw("d.raw", "");
    let mut disk = diskimg_testkit::disk::noise(3, 4096);
    disk[0] = 0xA5;
    package.write("x.ova", tar(&[("x.ovf", ovf.as_bytes()), ("d.raw", &disk)]));
    let image = Image::open(package.path("x.ova")).unwrap();
    let entries: Vec<_> = diskimg::map(&image, 0..4096).map(Result::unwrap).collect();
    let archive = std::fs::read(package.path("x.ova")).unwrap();
    let at = entries[0].offset.unwrap() as usize;
    assert!(archive[at..at + 4096] == disk);
}

#[test]
fn an_appliance_cannot_be_a_backing_file() {
    let package = PackageBuilder::new();
    let ovf = raw("d.raw", "");
    package.write("x.ova", tar(&[("x.ovf", ovf.as_bytes()), ("d.raw", &[1; 4096])]));
    for format in [Some("ova".to_owned()), None] {
        let mut backing = diskimg::Backing::new("x.ova");
        backing.format = format;
        let outcome =
            diskimg::Create::new(Format::Qcow2).backing(backing).run(package.path("top.qcow2"));
        assert_eq!(outcome.map(drop).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_manifest_without_the_descriptor_is_a_warning_unless_strict() {
    let package = PackageBuilder::new();
    package.write("d.raw", [1; 4096]);
    package.write("x.ovf", raw("d.raw", ""));
    package.manifest("x.mf", "sha256sum", &["d.raw"]);
    package.tar("x.ova", "ustar", &["x.ovf", "x.mf", "d.raw"]);
    for name in ["x.ova", "x.ovf"] {
        let path = package.path(name);
        let image = Image::open(&path).unwrap();
        let report = Convert::new(image).run(package.path("out")).unwrap();
        let expected = "the descriptor cannot be verified";
        assert!(report.warnings.iter().any(|w| w.contains(expected)), "{:?}", report.warnings);
        let image = OpenOptions::new().strict(true).open(&path).unwrap();
        let error = Convert::new(image).run(package.path("out")).unwrap_err();
        assert_eq!(error.remedy(), Some(Remedy::AcceptContradictions), "{error}");
        assert_eq!(findings(&path).len(), 1);
    }
    // A disk must be listed.
    package.manifest("x.mf", "sha256sum", &["x.ovf"]);
    assert_eq!(convert(&package.path("x.ovf")).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn an_error_about_a_missing_file_names_the_file_with_another_spelling() {
    for (href, name) in [
        ("Disk.RAW", "disk.raw"),
        ("d&#xe9;.raw", "de\u{301}.raw"),
        ("a b.raw", "a%20b.raw"),
        (".\\sub\\d.raw", "sub/d.raw"),
    ] {
        let package = PackageBuilder::new();
        package.write(name, [1; 4096]);
        package.write("x.ovf", raw(href, ""));
        let ova = package.tar("x.ova", "pax", &["x.ovf", name]);
        let mut paths = vec![ova];
        // Only the descriptor's own directory is searched.
        paths.extend((!name.contains('/')).then(|| package.path("x.ovf")));
        for path in paths {
            let error = convert(&path).unwrap_err();
            let expected = format!("the package has '{name}'");
            assert!(error.to_string().contains(&expected), "{href}: {error}");
        }
    }
}

#[test]
fn a_check_of_a_descriptor_verifies_sizes_digests_and_disks() {
    let package = PackageBuilder::new();
    package.create_vmdk("d.vmdk", 1);
    let len = std::fs::metadata(package.path("d.vmdk")).unwrap().len();
    let size = format!("ovf:size=\"{len}\"");
    let file = OvfFile { href: "d.vmdk", attributes: &size };
    let disk = OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes: "" };
    package.write("x.ovf", descriptor(&[file], &[disk]));
    package.manifest("x.mf", "sha256sum", &["x.ovf", "d.vmdk"]);
    assert_eq!(findings(&package.path("x.ovf")), [""; 0]);
    let mut bytes = std::fs::read(package.path("d.vmdk")).unwrap();
    bytes.truncate(bytes.len() / 2);
    package.write("d.vmdk", &bytes);
    let findings = findings(&package.path("x.ovf"));
    for expected in ["the descriptor says", "the digest of 'd.vmdk'", "disk 1:"] {
        assert!(findings.iter().any(|f| f.contains(expected)), "{expected}: {findings:?}");
    }
}

#[test]
fn a_disk_in_an_archive_that_is_cut_short_is_salvaged() {
    let package = PackageBuilder::new();
    package.write("disk.raw", diskimg_testkit::disk::noise(3, 2 << 20));
    let source = OpenOptions::new().format(Format::Raw).open(package.path("disk.raw")).unwrap();
    Convert::new(source).format(Format::Ova).run(package.path("x.ova")).unwrap();
    let ova = std::fs::read(package.path("x.ova")).unwrap();
    package.write("cut.ova", &ova[..ova.len() / 2]);
    let error = Image::open(package.path("cut.ova")).unwrap_err();
    assert_eq!(error.remedy(), Some(Remedy::Salvage), "{error}");
    let metadata = OpenOptions::new().metadata_only(true).open(package.path("cut.ova")).unwrap();
    assert_eq!(metadata.size(), 2 << 20);
    let found = findings(&package.path("cut.ova"));
    assert!(found.iter().any(|f| f.contains("beyond the end of the archive")), "{found:?}");

    let image = OpenOptions::new().salvage(true).open(package.path("cut.ova")).unwrap();
    let report = Convert::new(image).salvage(true).run(package.path("out")).unwrap();
    let (disk, out) = (package.path("disk.raw"), package.path("out"));
    let (disk, out) = (std::fs::read(disk).unwrap(), std::fs::read(out).unwrap());
    let [lost] = report.salvaged.as_slice() else { panic!("{:?}", report.salvaged) };
    assert!(lost.guest.start > 900_000 && lost.guest.end == 2 << 20, "{:?}", lost.guest);
    let start = lost.guest.start as usize;
    assert!(out[..start] == disk[..start] && out[start..].iter().all(|&byte| byte == 0));
}

#[test]
fn an_inspection_examines_every_image_in_the_archive() {
    let package = PackageBuilder::new();
    package.create_vmdk("d.vmdk", 1);
    package.write("notes.txt", "text");
    package.tool("gzip", &["-k", "notes.txt"]);
    let args =
        ["create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "other.vmdk", "1M"];
    package.tool("qemu-img", &args);
    let disk = OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes: "" };
    let inspected = |files: &[OvfFile<'_>], members: &[&str]| {
        package.write("a.ovf", descriptor(files, &[disk]));
        let ova = package.tar("a.ova", "ustar", members);
        diskimg::inspect(ova, &diskimg::InspectOptions::new()).unwrap()
    };
    let (own, other) = (
        OvfFile { href: "d.vmdk", attributes: "" },
        OvfFile { href: "other.vmdk", attributes: "" },
    );
    let texts = ["a.ovf", "notes.txt", "notes.txt.gz", "d.vmdk"];
    let found = inspected(&[own], &texts);
    assert!(found.is_safe(), "{:?}", found.findings);
    let members = ["a.ovf", "other.vmdk", "d.vmdk"];
    for (files, warnings) in [(vec![own], 1), (vec![own, other], 0)] {
        let found = inspected(&files, &members);
        assert!(!found.is_safe());
        assert!(found.finding(Code::BackingFile).is_some(), "{:?}", found.findings);
        let unlisted = found.findings.iter().filter(|f| f.code == Code::UnlistedImage);
        assert_eq!(unlisted.count(), warnings, "{:?}", found.findings);
    }
    // A file with two values of an attribute.
    let both = OvfFile { href: "d.vmdk", attributes: "href=\"other.vmdk\"" };
    let found = inspected(&[both], &members);
    assert!(found.finding(Code::Unreadable).is_some(), "{:?}", found.findings);
    // The chunks of a disk are not images by themselves.
    let bytes = std::fs::read(package.path("d.vmdk")).unwrap();
    let half = bytes.len() / 2;
    package.write("d.vmdk.000000000", &bytes[..half]);
    package.write("d.vmdk.000000001", &bytes[half..]);
    let size = format!("ovf:size=\"{}\" ovf:chunkSize=\"{half}\"", bytes.len());
    let chunked = OvfFile { href: "d.vmdk", attributes: &size };
    let found = inspected(&[chunked], &["a.ovf", "d.vmdk.000000000", "d.vmdk.000000001"]);
    assert!(found.is_safe(), "{:?}", found.findings);
}
