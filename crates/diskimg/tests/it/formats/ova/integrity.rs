//! What vouches for an appliance's bytes, and what does not get past it.

use crate::formats::ova::hostile::tar;
use diskimg::{Convert, Error, ErrorKind, ExternalFiles, Image, OpenOptions};
use diskimg_testkit::appliance::{DiskLine, FileLine, Kit, descriptor};
use std::path::Path;

const RAW: &str = "http://en.wikipedia.org/wiki/Byte";

/// A descriptor of one raw disk.
fn raw(href: &str, more: &str) -> String {
    let disk = DiskLine { file: Some(1), format: RAW, more: "ovf:capacity=\"4096\"" };
    descriptor(&[FileLine { href, more }], &[disk])
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
fn a_wrong_digest_is_found_however_the_manifest_spells_the_name() {
    let kit = Kit::new();
    kit.write("a b.raw", [1; 4096]);
    kit.write("x.ovf", raw("a%20b.raw", ""));
    let sums = kit.tool("sha256sum", &["--tag", "x.ovf", "a b.raw"]);
    let (ovf, disk) = sums.trim().split_once('\n').unwrap();
    let wrong = format!("{}{}", &disk[..disk.len() - 1], if disk.ends_with('0') { 1 } else { 0 });
    let ovf_bytes = std::fs::read(kit.path("x.ovf")).unwrap();
    for folder in ["", "f/"] {
        for name in ["a b.raw", "a%20b.raw", "./a b.raw", "A B.RAW", "f/a b.raw", "other"] {
            if folder.is_empty() && name.starts_with("f/") {
                continue;
            }
            for (line, right) in [(disk, name != "other"), (&*wrong, false)] {
                let manifest =
                    format!("{ovf}\n{}\n", line.replace("(a b.raw)", &format!("({name})")));
                let names = ["x.ovf", "x.mf", "a b.raw"].map(|name| format!("{folder}{name}"));
                let members =
                    [&*ovf_bytes, manifest.as_bytes(), &[1; 4096]].into_iter().zip(&names);
                let members: Vec<_> = members.map(|(bytes, name)| (&**name, bytes)).collect();
                kit.write("x.ova", tar(&members));
                let outcome = convert(&kit.path("x.ova"));
                assert_eq!(outcome.is_ok(), right, "{folder} {name}: {outcome:?}");
                if let Err(error) = outcome {
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    assert!(error.to_string().contains("--no-verify"), "{error}");
                }
                assert_eq!(findings(&kit.path("x.ova")).is_empty(), right, "{folder} {name}");
            }
        }
    }
}

#[test]
fn a_manifest_beside_a_descriptor_is_found_in_any_case_and_never_passed_over() {
    let kit = Kit::new();
    kit.write("in/x.ovf", raw("d.raw", ""));
    kit.write("in/d.raw", [1; 4096]);
    convert(&kit.path("in/x.ovf")).unwrap();
    kit.write("in/X.MF", format!("SHA1(x.ovf)= {0}\nSHA1(d.raw)= {0}\n", "0".repeat(40)));
    assert_eq!(convert(&kit.path("in/x.ovf")).unwrap_err().kind(), ErrorKind::Corrupt);
    std::fs::copy(kit.path("in/X.MF"), kit.path("in/x.mf")).unwrap();
    let error = convert(&kit.path("in/x.ovf")).unwrap_err();
    assert!(error.to_string().contains("X.MF, x.mf"), "{error}");
    std::fs::remove_file(kit.path("in/X.MF")).unwrap();
    std::fs::remove_file(kit.path("in/x.mf")).unwrap();
    kit.write("elsewhere.mf", "");
    std::os::unix::fs::symlink("../elsewhere.mf", kit.path("in/x.mf")).unwrap();
    let error = Image::open(kit.path("in/x.ovf")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[test]
fn several_manifests_in_an_archive_are_an_error_that_names_them() {
    let kit = Kit::new();
    let ovf = raw("d.raw", "");
    let bytes =
        tar(&[("x.ovf", ovf.as_bytes()), ("y.mf", b""), ("z.mf", b""), ("d.raw", &[1; 4096])]);
    kit.write("x.ova", bytes);
    let error = Image::open(kit.path("x.ova")).unwrap_err();
    assert!(error.to_string().contains("y.mf, z.mf"), "{error}");
}

#[test]
fn a_check_tells_nothing_of_files_outside_the_package_and_goes_on_after_missing_ones() {
    let kit = Kit::new();
    kit.write("in/x.ovf", raw("d.raw", ""));
    kit.write("in/d.raw", [1; 4096]);
    kit.write("secret", "secret");
    let digests = kit.tool("sha1sum", &["--tag", "secret"]);
    let digest = digests.trim().rsplit(' ').next().unwrap();
    let sums = kit.tool("sh", &["-c", "cd in && sha1sum --tag x.ovf d.raw"]);
    for name in ["../secret", "%2e%2e/secret", kit.path("secret").to_str().unwrap(), "missing"] {
        let zero = "0".repeat(40);
        kit.write("in/x.mf", format!("{sums}SHA1({name})= {zero}\nSHA1(gone)= {zero}\n"));
        let findings = findings(&kit.path("in/x.ovf"));
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(!findings.iter().any(|finding| finding.contains(digest)), "{findings:?}");
    }
}

#[test]
fn an_image_in_a_package_is_one_file() {
    let kit = Kit::new();
    kit.disk("x.vmdk", 1, "vmdk", &["-o", "subformat=monolithicFlat"]);
    kit.write("x.ovf", diskimg_testkit::appliance::one_disk("x.vmdk"));
    let error = convert(&kit.path("x.ovf")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let text = error.to_string();
    assert!(text.contains("stand alone") && !text.contains("--references"), "{text}");
}

#[test]
fn a_stored_member_of_a_zip_is_held_against_its_crc() {
    let kit = Kit::new();
    kit.write("x.ovf", raw("d.raw", ""));
    kit.write("d.raw", [7; 4096]);
    kit.tool("7zz", &["a", "-tzip", "-mx0", "x.zip", "x.ovf", "d.raw"]);
    let mut bytes = std::fs::read(kit.path("x.zip")).unwrap();
    kit.write("x.ova", &bytes);
    convert(&kit.path("x.ova")).unwrap();
    let at = bytes.windows(64).position(|w| w == [7; 64]).unwrap();
    bytes[at + 1000] ^= 1;
    kit.write("x.ova", bytes);
    let error = convert(&kit.path("x.ova")).unwrap_err();
    assert!(error.to_string().contains("CRC of 'd.raw'"), "{error}");
    assert_eq!(findings(&kit.path("x.ova")).len(), 1);
}

#[test]
fn a_disk_that_looks_like_an_appliance_is_not_unpacked() {
    let kit = Kit::new();
    kit.write("d.gz", [0; 4096]);
    kit.tool("sh", &["-c", "gzip < d.gz > z && mv z d.gz"]);
    let packed = std::fs::read(kit.path("d.gz")).unwrap();
    let ovf = raw("d.gz", "ovf:compression=\"gzip\"");
    let bytes = tar(&[("x.ovf", ovf.as_bytes()), ("d.gz", &packed)]);
    kit.write("guest.img", &bytes);
    assert_eq!(convert(&kit.path("guest.img")).unwrap_err().kind(), ErrorKind::Refused);
    OpenOptions::new().format(diskimg::Format::Ova).open(kit.path("guest.img")).unwrap();
    kit.write("x.ova", &bytes);
    convert(&kit.path("x.ova")).unwrap();
}

#[test]
fn a_descriptor_without_a_path_has_nothing_beside_it() {
    let source = diskimg::storage::source::MemorySource::new(raw("Cargo.toml", ""));
    let options =
        OpenOptions::new().format(diskimg::Format::Ova).external_files(ExternalFiles::Any);
    let error = options.open_source(std::sync::Arc::new(source), "-").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[test]
fn what_macos_adds_is_passed_over() {
    let kit = Kit::new();
    let ovf = raw("d.raw", "");
    kit.write(
        "x.ova",
        tar(&[
            ("._x.ovf", b"\0\x05\x16\x07"),
            ("x.ovf", ovf.as_bytes()),
            ("__MACOSX/x/._x.mf", b"x"),
            ("._x.mf", b"x"),
            ("d.raw", &[1; 4096]),
        ]),
    );
    convert(&kit.path("x.ova")).unwrap();
}

#[test]
fn names_of_members_have_a_bound_each_and_together() {
    let ovf = raw("d.raw", "");
    let open = |names: &[String]| {
        let mut members = vec![("x.ovf", ovf.as_bytes()), ("d.raw", &[1; 4096][..])];
        members.extend(names.iter().map(|name| (&**name, &b""[..])));
        let source =
            std::sync::Arc::new(diskimg::storage::source::MemorySource::new(tar(&members)));
        OpenOptions::new().format(diskimg::Format::Ova).open_source(source, "x.ova").map(drop)
    };
    open(&["n".repeat(4096)]).unwrap();
    assert_eq!(open(&["n".repeat(4097)]).unwrap_err().kind(), ErrorKind::Limit);
    let many: Vec<_> = (0..4200).map(|i| format!("{i:04096}")).collect();
    assert_eq!(open(&many).unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn a_map_tells_where_bytes_are_in_the_archive() {
    let kit = Kit::new();
    let ovf = raw("d.raw", "");
    let mut disk = diskimg_testkit::disk::noise(3, 4096);
    disk[0] = 0xA5;
    kit.write("x.ova", tar(&[("x.ovf", ovf.as_bytes()), ("d.raw", &disk)]));
    let image = Image::open(kit.path("x.ova")).unwrap();
    let mut entries = Vec::new();
    diskimg::map(&image, 0..4096, &mut |entry| {
        entries.push(entry);
        Ok(())
    })
    .unwrap();
    let archive = std::fs::read(kit.path("x.ova")).unwrap();
    let at = entries[0].offset.unwrap() as usize;
    assert!(archive[at..at + 4096] == disk);
}

#[test]
fn no_image_builds_on_an_appliance() {
    let kit = Kit::new();
    let ovf = raw("d.raw", "");
    kit.write("x.ova", tar(&[("x.ovf", ovf.as_bytes()), ("d.raw", &[1; 4096])]));
    for format in [Some("ova".to_owned()), None] {
        let backing = diskimg::target::Backing { name: "x.ova".into(), format, content_id: None };
        let outcome = diskimg::Create::new(diskimg::Format::Qcow2)
            .backing(backing)
            .run(kit.path("top.qcow2"));
        assert_eq!(outcome.map(drop).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
