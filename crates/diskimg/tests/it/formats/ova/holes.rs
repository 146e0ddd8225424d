//! Members that are larger than what the archive stores: the holes of sparse files, and files that
//! are compressed twice.

use diskimg::storage::source::MemorySource;
use diskimg::{Convert, Error, Format, Image, InspectOptions, OpenOptions, inspect_source};
use diskimg_testkit::appliance::{OvfDisk, OvfFile, PackageBuilder, descriptor};
use diskimg_testkit::qcow2::{Entry, Qcow2};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use std::sync::Arc;

const RAW: &str = "http://en.wikipedia.org/wiki/Byte";

fn open(bytes: &[u8]) -> Result<Image, Error> {
    let source = Arc::new(MemorySource::new(bytes));
    OpenOptions::new().format(Format::Ova).open_source(source, "a.ova")
}

/// Returns a tar archive of these sparse files: their names, the bytes at their start, and their
/// lengths.
fn sparse(members: &[(&str, &[u8], u64)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for &(name, bytes, len) in members {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_path(name).unwrap();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(len);
        gnu.sparse[0].set_offset(0);
        gnu.sparse[0].set_length(bytes.len() as u64);
        gnu.sparse[1].set_offset(len);
        gnu.sparse[1].set_length(0);
        header.set_cksum();
        archive.append(&header, bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Compresses with gzip.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn sparse_members_share_one_limit() {
    let metadata = br#"{"disks": [{"path": "a.raw", "format": "raw"}]}"#;
    for count in 1..=20 {
        let names: Vec<_> = (0..count).map(|n| format!("{n}.bin")).collect();
        let mut members = vec![("metadata.json", &metadata[..], metadata.len() as u64)];
        members.push(("a.raw", &b"x"[..], 512));
        members.extend(names.iter().map(|name| (name.as_str(), &[][..], 3 << 20)));
        let archive = sparse(&members);
        // Each member takes 512 bytes.
        let fits = count * (3 << 20) < archive.len() * 1032;
        assert_eq!(fits, count == 1, "{count}");
        let outcome = open(&archive);
        if fits {
            assert!(outcome.is_ok(), "{:?}", outcome.err());
            continue;
        }
        assert_eq!(outcome.unwrap_err().exceeded(), Some("unpacked_ratio"), "{count}");
        let source = Arc::new(MemorySource::new(archive));
        let found = inspect_source(source, "a.ova", &InspectOptions::default()).unwrap();
        assert!(!found.is_safe());
    }
}

#[test]
fn clusters_of_a_sparse_member_that_share_stored_bytes_exceed_the_budget() {
    for entry in [Entry::Data(0), Entry::CompressedSectors(0, 64)] {
        let mut image = Qcow2::repeating(16, 1, &[Entry::Unallocated]);
        image.tables[0][..1000].fill(entry);
        let bytes = image.build();
        // The hole has room for all the clusters.
        let archive = sparse(&[("disk.qcow2", &bytes, 128 << 20)]);
        let image = open(&archive).unwrap();
        let error = image.extents(0..image.size()).unwrap().find_map(Result::err).unwrap();
        assert_eq!(error.exceeded(), Some("data_sharing"), "{error}");
        let error = Convert::new(image).run(tempfile::tempdir().unwrap().path().join("a"));
        assert_eq!(error.unwrap_err().exceeded(), Some("data_sharing"));
    }
}

#[test]
fn clusters_in_holes_are_within_the_budget() {
    let package = PackageBuilder::new();
    let options = ["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "disk.qcow2"];
    package.tool("qemu-img", &[&options[..], &["64M"]].concat());
    package.tool("qemu-io", &["-f", "qcow2", "-c", "write -q -P 7 1M 2M", "disk.qcow2"]);
    package.tool("tar", &["--format=oldgnu", "-cSf", "a.ova", "disk.qcow2"]);
    let archive = std::fs::metadata(package.path("a.ova")).unwrap().len();
    assert!(archive < 8 << 20, "{archive}");
    let image = Image::open(package.path("a.ova")).unwrap();
    assert!(image.extents(0..image.size()).unwrap().all(|extent| extent.is_ok()));
    Convert::new(image).run(package.path("out")).unwrap();
    let outcome = package.tool("qemu-img", &["compare", "out", "disk.qcow2"]);
    assert!(outcome.contains("identical"), "{outcome}");
}

#[test]
fn a_table_in_a_hole_is_limited_by_what_is_stored() {
    let mut bytes = Qcow2::repeating(16, 1, &[Entry::Unallocated]).build();
    let end = bytes.len() as u64;
    bytes[36..40].copy_from_slice(&(1u32 << 19).to_be_bytes());
    bytes[40..48].copy_from_slice(&end.to_be_bytes());
    let error = open(&sparse(&[("disk.qcow2", &bytes, end + (4 << 20))])).unwrap_err();
    assert!(error.to_string().contains("4194304 of its 4194304 bytes are in holes"), "{error}");
}

#[test]
fn a_disk_that_is_compressed_twice_is_limited_by_the_bytes_of_the_archive() {
    let archive = |disks: usize, mib: usize| {
        let disk = gzip(&vec![0; mib << 20]);
        let names: Vec<_> = (0..disks).map(|n| format!("{n}.raw")).collect();
        let file = |name| OvfFile { href: name, attributes: "ovf:compression=\"gzip\"" };
        let files: Vec<_> = names.iter().map(|name| file(name.as_str())).collect();
        let disk_of = |n| OvfDisk { file: Some(n + 1), format: RAW, attributes: "" };
        let disks: Vec<_> = (0..disks).map(disk_of).collect();
        let text = descriptor(&files, &disks);
        // Takes as many bytes in the compressed archive.
        let noise = diskimg_testkit::disk::noise(1, 2048);
        let mut members = vec![("a.ovf", text.as_bytes()), ("noise", &noise[..])];
        members.extend(names.iter().map(|name| (name.as_str(), &disk[..])));
        gzip(&super::hostile::tar(&members))
    };
    let bytes = archive(1, 32);
    assert!((2048..6144).contains(&bytes.len()), "{}", bytes.len());
    assert_eq!(open(&bytes).unwrap_err().exceeded(), Some("unpacked_ratio"));
    // A megabyte for each kilobyte, but not for each disk of a megabyte.
    let error = |disks| {
        let options = OpenOptions::new().format(Format::Ova).metadata_only(true);
        let source = Arc::new(MemorySource::new(archive(disks, 1)));
        options.open_source(source, "a.ova").unwrap().check(&mut |_| ()).err()
    };
    assert!(error(1).is_none());
    assert_eq!(error(8).unwrap().exceeded(), Some("unpacked_ratio"));
}

#[test]
fn inspect_examines_a_limited_number_of_sparse_members() {
    let metadata = br#"{"disks": [{"path": "a.raw", "format": "raw"}]}"#;
    for count in [1000, 1100] {
        let names: Vec<_> = (0..count).map(|n| format!("{n}.bin")).collect();
        let mut members = vec![("metadata.json", &metadata[..], metadata.len() as u64)];
        members.push(("a.raw", &b"x"[..], 512));
        members.extend(names.iter().map(|name| (name.as_str(), &[][..], 256 << 10)));
        let source = Arc::new(MemorySource::new(sparse(&members)));
        let found = inspect_source(source, "a.ova", &InspectOptions::default()).unwrap();
        let is_limited = found.findings.iter().any(|f| f.message.contains("more sparse members"));
        assert_eq!(is_limited, count > 1024, "{count}: {:?}", found.findings.last());
    }
}
