//! Known classes of vulnerabilities in programs that read images. The table in `SECURITY.md` names
//! these tests; other rows of it name tests that are in other modules.

use crate::open::external_files::{with_backing, with_data_file, with_extent};
use diskimg::inspection::Code;
use diskimg::storage::source::MemorySource;
use diskimg::{
    Convert, Error, ErrorKind, ExternalFiles, Format, Image, InspectOptions, Inspection, NewSize,
    OpenOptions, Resize, inspect_source,
};
use diskimg_testkit::tool::run;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

fn open(format: Format, bytes: &[u8]) -> Result<Image, Error> {
    let options = OpenOptions::new().format(format).external_files(ExternalFiles::None);
    options.open_source(Arc::new(MemorySource::new(bytes)), "hostile.img")
}

fn inspect_bytes(bytes: &[u8], options: &InspectOptions) -> Inspection {
    inspect_source(Arc::new(MemorySource::new(bytes)), "hostile.img", options).unwrap()
}

/// Creates a small image with qemu-img, with data and a snapshot.
fn qcow2() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let name = path.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", name, "1M"]);
    run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 5 0 64k", name]);
    run("qemu-img", ["snapshot", "-c", "s", name]);
    std::fs::read(path).unwrap()
}

/// Opens an image and runs info, check and a read on it.
fn exercise(format: Format, bytes: &[u8]) -> Result<(), Error> {
    let image = open(format, bytes)?;
    image.info(0)?;
    let _ = image.check(&mut |_| {});
    let mut buf = vec![0; image.size().min(1 << 20) as usize];
    image.read_at(&mut buf, 0)
}

#[test]
fn reads_beyond_the_end_of_the_disk_are_errors() {
    let bytes = qcow2();
    let image = open(Format::Qcow2, &bytes).unwrap();
    let size = image.size();
    let mut buf = [0; 2];
    for offset in [size - 1, size, size + 1, 1 << 63, u64::MAX - 1, u64::MAX] {
        let error = image.read_at(&mut buf, offset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{offset}: {error}");
    }
    image.read_at(&mut buf, size - 2).unwrap();
}

#[test]
fn any_overwritten_header_field_is_an_error_or_an_image() {
    let qcow2 = qcow2();
    let sparse =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/ext4-sparse.vmdk"))
            .unwrap();
    for (format, base, end) in [(Format::Qcow2, &qcow2, 112), (Format::Vmdk, &sparse, 80)] {
        for (at, len) in (4..end).step_by(4).flat_map(|at| [(at, 4), (at, 8), (at + 3, 1)]) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = base.clone();
                bytes[at..at + len].fill(value);
                let _ = exercise(format, &bytes);
                let found = inspect_bytes(&bytes, &InspectOptions::new());
                // What `inspect` calls safe can be opened.
                if found.is_safe() && found.format == format.name() {
                    open(format, &bytes).unwrap_or_else(|e| panic!("{format} {at} {value}: {e}"));
                }
            }
        }
    }
}

#[test]
fn a_snapshots_l1_table_is_bounded_like_the_active_one() {
    let bytes = qcow2();
    let table = u64::from_be_bytes(bytes[64..72].try_into().unwrap()) as usize;
    for (at, value) in [(table, u64::MAX.to_be_bytes()), (table, (1u64 << 40).to_be_bytes())] {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&value);
        let options = OpenOptions::new()
            .format(Format::Qcow2)
            .snapshot(diskimg::SnapshotSelector::IdOrName("s".into()));
        let source = Arc::new(MemorySource::new(&bytes[..]));
        options.open_source(source, "hostile.img").expect_err("an L1 table outside the file");
    }
    let mut bytes = bytes.clone();
    bytes[table + 8..table + 12].copy_from_slice(&u32::MAX.to_be_bytes());
    let options = OpenOptions::new()
        .format(Format::Qcow2)
        .snapshot(diskimg::SnapshotSelector::IdOrName("s".into()));
    let source = Arc::new(MemorySource::new(&bytes[..]));
    options.open_source(source, "hostile.img").expect_err("an L1 table of 32 GiB");
}

#[test]
fn a_table_that_points_at_the_header_or_at_another_table_is_refused_by_inspect() {
    let bytes = qcow2();
    let l1 = u64::from_be_bytes(bytes[40..48].try_into().unwrap());
    let mut own = bytes.clone();
    own[l1 as usize..l1 as usize + 8].copy_from_slice(&(l1 | 1 << 63).to_be_bytes());
    own[l1 as usize + 8..l1 as usize + 16].copy_from_slice(&(l1 | 1 << 63).to_be_bytes());
    let mut header = bytes.clone();
    header[40..48].fill(0);
    for (bytes, code) in [(own, Code::TablesOverlap), (header, Code::TablesOverlap)] {
        let _ = exercise(Format::Qcow2, &bytes);
        let found = inspect_bytes(&bytes, &InspectOptions::new());
        assert!(found.finding(code).is_some() || found.finding(Code::Unreadable).is_some());
        assert!(!found.is_safe());
    }
}

#[test]
fn unsupported_formats_are_refused_by_inspect() {
    let padded = |start: &[u8]| [start, &[0; 1024]].concat();
    for (name, bytes) in [
        ("luks", padded(b"LUKS\xba\xbe\0\x01")),
        ("simg", padded(&[0x3a, 0xff, 0x26, 0xed, 1, 0])),
        ("wim", padded(b"MSWIM\0\0\0")),
        ("dmg-encrypted", padded(b"encrcdsa")),
        ("aff", padded(b"AFF10\r\n\0")),
        ("aff4", padded(b"PK\x03\x04aaaaaaaaaaaaaaaaaaaaaaaaaacontainer.description")),
    ] {
        let found = inspect_bytes(&bytes, &InspectOptions::new());
        assert_eq!(found.format, name);
        assert!(found.finding(Code::FormatNotRead).is_some() && !found.is_safe(), "{name}");
    }
}

/// OpenStack rejects them, whatever their headers say.
#[test]
fn formats_that_clouds_reject_are_refused_by_inspect() {
    for (name, start) in [
        ("qcow", &b"QFI\xfb\0\0\0\x01"[..]),
        ("qcow", b"QFI\xfb"),
        ("qed", b"QED\0"),
        ("ewf", b"EVF\x09\x0d\x0a\xff\0"),
        ("cloop", b"#!/bin/sh\n#V2.0 Format\n"),
        ("bochs", b"Bochs Virtual HD Image"),
    ] {
        for len in [0, 16, 1024] {
            let bytes = [start, &vec![0; len]].concat();
            let found = inspect_bytes(&bytes, &InspectOptions::new());
            assert_eq!(found.format, name);
            assert!(found.finding(Code::RejectedFormat).is_some() && !found.is_safe(), "{name}");
        }
    }
}

/// A guest can write an image header into its raw disk.
#[test]
fn a_raw_disk_with_an_image_header_stays_raw_if_the_format_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("secret"), [7; 4096]).unwrap();
    for create in [with_backing, with_data_file, with_extent] {
        let bytes = create("secret");
        std::fs::write(path("disk.raw"), &bytes).unwrap();
        let options = OpenOptions::new().format(Format::Raw);
        let image = options.open(path("disk.raw")).unwrap();
        assert_eq!((image.layers().len(), image.size()), (1, bytes.len() as u64));
        Convert::new(image).format(Format::Qcow2).run(path("out.qcow2")).unwrap();
        let copy = OpenOptions::new().format(Format::Qcow2).open(path("out.qcow2")).unwrap();
        let mut guest = vec![0; bytes.len()];
        copy.read_at(&mut guest, 0).unwrap();
        assert!(guest == bytes);
        // As a backing file it is raw too, because the overlay has to name the format.
        let overlay = path("overlay.qcow2");
        let name = path("disk.raw").display().to_string();
        std::fs::write(&overlay, with_backing(&name)).unwrap();
        let options = OpenOptions::new().external_files(ExternalFiles::Any);
        let image = options.open(&overlay).unwrap();
        assert_eq!(image.layers().len(), 2);
    }
}

#[test]
fn an_image_that_is_claimed_to_be_raw_is_refused_by_inspect() {
    let claimed = InspectOptions::new().claimed("raw").unwrap();
    let vmdk = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/ext4-sparse.vmdk");
    for bytes in [qcow2(), std::fs::read(vmdk).unwrap()] {
        assert!(inspect_bytes(&bytes, &InspectOptions::new()).is_safe());
        let found = inspect_bytes(&bytes, &claimed);
        assert!(!found.is_safe() && found.finding(Code::FormatMismatch).is_some());
    }
    assert!(inspect_bytes(&[1; 1024], &claimed).is_safe());
}

#[test]
fn an_existing_raw_target_with_an_image_header_is_only_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("host"), [7; 4096]).unwrap();
    std::fs::write(path("target"), with_data_file("host")).unwrap();
    let image = open(Format::Raw, &[5; 4096]).unwrap();
    Convert::new(image).run_existing(path("target")).unwrap();
    assert!(std::fs::read(path("target")).unwrap().starts_with(&[5; 4096]));
    assert_eq!(std::fs::read(path("host")).unwrap(), [7; 4096]);
}

#[test]
fn a_raw_disk_with_an_image_header_is_only_made_longer_by_resize() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("host"), [7; 4096]).unwrap();
    let header = with_data_file("host");
    std::fs::write(path("disk"), &header).unwrap();
    let len = header.len() as u64;
    let raw = OpenOptions::new().format(Format::Raw);
    Resize::new(NewSize::Grow(8192)).open_options(raw).run(path("disk")).unwrap();
    let disk = std::fs::read(path("disk")).unwrap();
    assert_eq!(disk.len() as u64, len + 8192);
    assert!(disk.starts_with(&header) && disk[header.len()..].iter().all(|&b| b == 0));
    assert_eq!(std::fs::read(path("host")).unwrap(), [7; 4096]);
}

#[test]
fn an_image_that_names_a_file_of_the_host_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let upload = dir.path().join("upload");
    for (format, create, code) in [
        (Format::Qcow2, with_backing as fn(&str) -> Vec<u8>, Code::BackingFile),
        (Format::Qcow2, with_data_file, Code::DataFile),
        (Format::Vmdk, with_extent, Code::Extents),
    ] {
        std::fs::write(&upload, create("/etc/passwd")).unwrap();
        let error = Image::open(&upload).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        let found = inspect_bytes(&std::fs::read(&upload).unwrap(), &InspectOptions::new());
        assert_eq!(found.format, format.name());
        assert!(!found.is_safe() && found.finding(code).is_some(), "{code}");
        assert_eq!(found.references[0].name, "/etc/passwd");
    }
}

#[test]
fn a_small_image_of_a_huge_disk_is_refused_by_the_size_limits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    run("qemu-img", ["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "8T"]);
    let bytes = std::fs::read(&path).unwrap();
    assert!(inspect_bytes(&bytes, &InspectOptions::new()).is_safe());
    for (options, code) in [
        (InspectOptions::new().max_virtual_size(1 << 40), Code::DiskTooLarge),
        (InspectOptions::new().max_ratio(1000), Code::RatioTooLarge),
        (InspectOptions::new().max_size(1000), Code::FileTooLarge),
    ] {
        let found = inspect_bytes(&bytes, &options);
        assert!(!found.is_safe() && found.finding(code).is_some(), "{code}");
    }
    // A disk of unknown size exceeds any limit.
    let unknown = inspect_bytes(b"MSWIM\0\0\0", &InspectOptions::new().max_virtual_size(1 << 50));
    assert!(unknown.finding(Code::DiskTooLarge).is_some());
}

#[test]
fn a_truncated_compressed_grain_is_an_error() {
    let stream = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/ext4-stream-qemu.vmdk");
    let bytes = std::fs::read(stream).unwrap();
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    read_all(&bytes).unwrap();
    for less in [1, 2, 4, 8, 11, 12, 13, 100, 511, 512, 513] {
        read_all(&bytes[..last - less]).expect_err("a truncated grain is read");
    }
}

/// Reads all guest bytes.
fn read_all(bytes: &[u8]) -> Result<(), Error> {
    let image = open(Format::Vmdk, bytes)?;
    let mut guest = vec![0; image.size() as usize];
    image.read_at(&mut guest, 0)
}

/// Names in backticks in the last column of the tables are tests.
#[test]
fn every_test_named_in_security_md_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next());
    let names: BTreeSet<_> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|name| name.contains('_'))
        .collect();
    assert!(names.len() > 20, "{names:?}");
    let mut sources = String::new();
    for dir in ["crates", "python/tests"] {
        append_sources(&root.join(dir), &mut sources);
    }
    let missing = |name: &&&str| {
        !sources.contains(&format!("fn {name}(")) && !sources.contains(&format!("def {name}("))
    };
    let missing: Vec<_> = names.iter().filter(missing).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

fn append_sources(dir: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            append_sources(&path, sources);
        } else if path.extension().is_some_and(|e| e == "rs" || e == "py") {
            sources.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
