//! Damaged and hostile appliances lead to a clear error, with bounded work, and no file outside the
//! package is read.

use diskimg::storage::source::MemorySource;
use diskimg::{Error, ErrorKind, ExternalFiles, Format, Image, Limits, OpenOptions, conformance};
use diskimg_testkit::appliance::{
    OvfDisk, OvfFile, PackageBuilder, VMDK_FORMAT, descriptor, guest_bytes, single_disk_descriptor,
};
use diskimg_testkit::tool::cases;
use proptest::prelude::*;
use std::sync::{Arc, OnceLock};

fn open(bytes: impl Into<Vec<u8>>) -> Result<Image, Error> {
    open_with(bytes, Limits::default())
}

fn open_with(bytes: impl Into<Vec<u8>>, limits: Limits) -> Result<Image, Error> {
    OpenOptions::new()
        .format(Format::Ova)
        .limits(limits)
        .external_files(ExternalFiles::Any)
        .open_source(Arc::new(MemorySource::new(bytes)), "hostile.ova")
}

#[track_caller]
fn assert_refused(bytes: impl Into<Vec<u8>>, kind: ErrorKind, fragment: &str) {
    let error = open(bytes).map(drop).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    assert!(text.contains(fragment) && text.starts_with("hostile.ova"), "no '{fragment}': {text}");
}

/// Returns a tar archive with these members.
pub fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A valid appliance and its disk's bytes.
fn valid() -> &'static (Vec<u8>, Vec<u8>) {
    static VALID: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    VALID.get_or_init(|| {
        let package = PackageBuilder::new();
        let (ova, bytes) = package.single_disk_ova();
        (std::fs::read(ova).unwrap(), bytes)
    })
}

#[test]
fn a_truncated_archive_is_an_error_unless_only_padding_is_missing() {
    let (ova, bytes) = valid();
    let mut archive = tar::Archive::new(&ova[..]);
    let listed = archive.entries().unwrap().last().unwrap().unwrap();
    let end = listed.raw_file_position() + listed.size();
    for cut in [end, end + 1, end.next_multiple_of(512), end.next_multiple_of(512) + 512] {
        let image = open(&ova[..(cut as usize).min(ova.len())]).unwrap();
        assert!(guest_bytes(&image) == *bytes, "cut at {cut}");
    }
    for cut in [end - 1, end / 2, 1536, 600, 511, 1, 0] {
        let error = open(&ova[..cut as usize]).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {cut}: {error}");
    }
}

#[test]
fn a_damaged_compressed_archive_is_an_error_even_outside_the_disks() {
    let package = PackageBuilder::new();
    let (ova, bytes) = valid();
    let end_of_last_member = |archive: &[u8]| {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|e| e.unwrap());
        entries.map(|e| e.raw_file_position() + e.size()).last().unwrap() as usize
    };
    let disk = &ova[..end_of_last_member(ova).next_multiple_of(512)];
    let whole = [disk, &tar(&[("notes.txt", &[b'x'; 5000])])].concat();
    let compress = |bytes: &[u8]| {
        package.write("a.tar", bytes);
        package.tool("gzip", &["-kf", "a.tar"]);
        std::fs::read(package.path("a.tar.gz")).unwrap()
    };
    let compressed = compress(&whole);
    assert!(guest_bytes(&open(&*compressed).unwrap()) == *bytes);
    let cut = &whole[..disk.len() + 3000];
    assert_refused(cut, ErrorKind::Corrupt, "beyond the end of the archive");
    assert_refused(compress(cut), ErrorKind::Corrupt, "beyond the end of the archive");
    assert_refused(&compressed[..compressed.len() - 5], ErrorKind::Corrupt, "cannot decompress");
    let mut changed = compressed.clone();
    let checksum = compressed.len() - 8;
    changed[checksum] ^= 1;
    assert_refused(changed, ErrorKind::Corrupt, "cannot decompress");
}

#[test]
fn impossible_member_sizes_are_errors() {
    let ovf = single_disk_descriptor("x");
    for size in [u64::MAX, i64::MAX as u64, 1 << 40] {
        let mut header = tar::Header::new_gnu();
        header.set_path("x").unwrap();
        header.set_size(size);
        header.set_cksum();
        let mut bytes = tar(&[("a.ovf", ovf.as_bytes())]);
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(header.as_bytes());
        bytes.extend([0; 4096]);
        let error = open(bytes).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[test]
fn long_name_and_pax_headers_of_gigabytes_are_not_read() {
    for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(8 << 30);
        header.set_cksum();
        assert_refused(*header.as_bytes(), ErrorKind::Limit, "archive_header_bytes is 65536");
    }
}

#[test]
fn ambiguous_or_missing_members_are_errors() {
    let ovf = single_disk_descriptor("x");
    let (ovf, x) = (ovf.as_bytes(), &b"x"[..]);
    assert_refused(tar(&[("a.ovf", ovf), ("x", x), ("./x", x)]), ErrorKind::Corrupt, "two members");
    assert_refused(tar(&[("a.ovf", ovf), ("b.OVF", ovf)]), ErrorKind::Corrupt, "a.ovf, b.OVF");
    assert_refused(tar(&[("a.txt", ovf)]), ErrorKind::Corrupt, "neither an .ovf");
    assert_refused(tar(&[("a.ovf", ovf)]), ErrorKind::Corrupt, "'x' is not in the archive");
    assert_refused(vec![0x55; 4096], ErrorKind::Corrupt, "tar header");
    assert_refused(vec![0; 4096], ErrorKind::Corrupt, "neither an .ovf");
    let many: Vec<_> = (0..70_000).map(|i| i.to_string()).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
    assert_refused(tar(&many), ErrorKind::Limit, "archive_members is 65536");
}

#[test]
fn links_and_members_of_unknown_types_hide_no_other_member() {
    let text = single_disk_descriptor("d.vmdk");
    for (kind, fragment) in [
        (tar::EntryType::Symlink, "a member and a link have the name 'd.vmdk'"),
        (tar::EntryType::Link, "a member and a link have the name 'd.vmdk'"),
        (tar::EntryType::new(b'A'), "two members have the name 'd.vmdk'"),
    ] {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in [("v.ovf", text.as_bytes()), ("d.vmdk", b"# Disk DescriptorFile")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, bytes).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_link_name("/etc/passwd").unwrap();
        builder.append_data(&mut header, "./d.vmdk", &b""[..]).unwrap();
        assert_refused(builder.into_inner().unwrap(), ErrorKind::Corrupt, fragment);
    }
}

#[test]
fn no_file_outside_the_package_is_opened_whatever_the_policy() {
    let passwd = std::fs::canonicalize("/etc/passwd").unwrap();
    for href in ["../../../../../../etc/passwd", passwd.to_str().unwrap(), "http://h/x", "a/../b"] {
        let disk =
            OvfDisk { file: Some(1), format: "http://en.wikipedia.org/wiki/Byte", attributes: "" };
        let ovf = descriptor(&[OvfFile { href, attributes: "" }], &[disk]);
        assert_refused(tar(&[("a.ovf", ovf.as_bytes())]), ErrorKind::Refused, href);
        assert_refused(ovf, ErrorKind::Refused, href);
    }
}

#[test]
fn an_image_in_an_appliance_must_not_refer_to_other_files() {
    let package = PackageBuilder::new();
    package.create_disk("base.qcow2", 1, "qcow2", &[]);
    let args = ["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"];
    package.tool("qemu-img", &args);
    let data = package.path("data.raw");
    let option = format!("data_file={}", data.display());
    package.tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &option, "ext.qcow2", "1M"]);
    for name in ["top.qcow2", "ext.qcow2"] {
        let disk = OvfDisk { file: Some(1), format: "", attributes: "" };
        package.write("a.ovf", descriptor(&[OvfFile { href: name, attributes: "" }], &[disk]));
        let ova = package.tar("a.ova", "ustar", &["a.ovf", name, "base.qcow2"]);
        let error = OpenOptions::new().external_files(ExternalFiles::Any).open(ova).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
}

#[test]
fn an_appliance_in_an_appliance_is_refused() {
    let (ova, _) = valid();
    let disk = OvfDisk { file: Some(1), format: "", attributes: "" };
    let ovf = descriptor(&[OvfFile { href: "inner", attributes: "" }], &[disk]);
    let outer = tar(&[("a.ovf", ovf.as_bytes()), ("inner", ova)]);
    let error = open(outer).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("within an appliance"), "{error}");
}

#[test]
fn chunks_capacities_and_descriptors_are_limited() {
    let line = |attributes| OvfFile { href: "x", attributes };
    let disk = |attributes| OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes };
    let ova = |ovf: String| tar(&[("a.ovf", ovf.as_bytes()), ("x", b"x")]);
    let chunks = descriptor(&[line("ovf:chunkSize=\"1\" ovf:size=\"1000000000\"")], &[disk("")]);
    assert_refused(ova(chunks), ErrorKind::Limit, "1000000000 chunks");
    let chunked = descriptor(&[line("ovf:chunkSize=\"1\" ovf:size=\"100\"")], &[disk("")]);
    assert_refused(ova(chunked.clone()), ErrorKind::Corrupt, "'x.000000000' is not in the archive");
    // In a compressed archive, finding each chunk would decompress it from the start.
    let names: Vec<_> = (0..100).map(|i| format!("x.{i:09}")).collect();
    let mut members = vec![("a.ovf", chunked.as_bytes())];
    members.extend(names.iter().map(|name| (name.as_str(), &b"x"[..])));
    let package = PackageBuilder::new();
    package.write("a.tar", tar(&members));
    package.tool("gzip", &["a.tar"]);
    assert_refused(
        std::fs::read(package.path("a.tar.gz")).unwrap(),
        ErrorKind::Limit,
        "100 chunks",
    );
    let no_size = descriptor(&[line("ovf:chunkSize=\"1\"")], &[disk("")]);
    assert_refused(ova(no_size), ErrorKind::Corrupt, "but has no size");
    for attributes in [
        "ovf:capacity=\"18446744073709551615\"",
        "ovf:capacity=\"99\" ovf:capacityAllocationUnits=\"byte * 2^60\"",
    ] {
        let blank = OvfDisk { file: None, ..disk(attributes) };
        assert_refused(ova(descriptor(&[], &[blank])), ErrorKind::Corrupt, "8 EiB");
    }
    let long = format!("<!--{}-->{}", "x".repeat(9 << 20), single_disk_descriptor("x"));
    assert_refused(ova(long), ErrorKind::Limit, "ovf_bytes is 8388608");
    let bomb = "<!DOCTYPE lolz [<!ENTITY a 'lol'><!ENTITY b '&a;&a;&a;'>]><Envelope>&b;</Envelope>";
    assert_refused(ova(bomb.to_owned()), ErrorKind::Corrupt, "OVF descriptor");
    assert_refused(ova("\u{feff}<Envelope/>".to_owned()), ErrorKind::Corrupt, "no disk");
    let deep = format!("<Envelope>{}", "<a>".repeat(200_000));
    assert_refused(ova(deep), ErrorKind::Corrupt, "OVF descriptor");
}

#[test]
fn decompression_stops_at_the_limit() {
    let package = PackageBuilder::new();
    std::fs::File::create(package.path("zeros")).unwrap().set_len(64 << 20).unwrap();
    let raw = "http://en.wikipedia.org/wiki/Byte";
    let disk = OvfDisk { file: Some(1), format: raw, attributes: "" };
    let file = |href| descriptor(&[OvfFile { href, attributes: "" }], &[disk]);
    package.write("a.ovf", file("zeros"));
    package.tool("tar", &["-czf", "tgz", "a.ovf", "zeros"]);
    package.tool("7zz", &["a", "-tzip", "zip.zip", "a.ovf", "zeros"]);
    package.tool("gzip", &["zeros"]);
    let gzip = OvfFile { href: "zeros.gz", attributes: "ovf:compression=\"gzip\"" };
    package.write("a.ovf", descriptor(&[gzip], &[disk]));
    package.tool("tar", &["-cf", "tar", "a.ovf", "zeros.gz"]);
    for name in ["tgz", "zip.zip", "tar"] {
        let bytes = std::fs::read(package.path(name)).unwrap();
        let mut limits = Limits::default();
        limits.unpacked_bytes = (64 << 20) - 1;
        let error = open_with(&*bytes, limits.clone()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{name}: {error}");
        limits.unpacked_bytes = 65 << 20;
        assert_eq!(open_with(&*bytes, limits).unwrap().size(), 64 << 20, "{name}");
        // Damaged compressed data.
        let mut damaged = bytes.clone();
        let at = damaged.len() * 3 / 5;
        damaged[at..at + 16].copy_from_slice(&diskimg_testkit::disk::noise(5, 16));
        let outcome = open(damaged).and_then(|image| image.read_at(&mut [0; 512], 0));
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
        } else {
            panic!("{name}: the damage is not detected");
        }
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_damaged_appliance_is_an_error_or_an_image_but_never_a_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        metadata_only in any::<bool>(),
    ) {
        let mut bytes = valid().0.clone();
        for (index, value, in_front) in damage {
            let reach = if in_front { 3072 } else { bytes.len() };
            bytes[index.index(reach)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let image = OpenOptions::new()
            .format(Format::Ova)
            .metadata_only(metadata_only)
            .open_source(Arc::new(MemorySource::new(bytes)), "hostile.ova");
        let outcome = image.and_then(|image| {
            image.info(0)?;
            let _ = image.check(&mut |_| {});
            match metadata_only || image.size() > 1 << 30 {
                true => Ok(()),
                false => conformance::verify(&image),
            }
        });
        if let Err(error) = outcome {
            let text = error.to_string();
            prop_assert!(text.starts_with("hostile.ova") || text.starts_with("a-disk"), "{}", text);
            prop_assert!(!text.contains('\n'));
        }
    }
}
