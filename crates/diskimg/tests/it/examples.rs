//! The programs in `examples/`, as they are.

#[allow(dead_code)]
#[path = "../../examples/convert.rs"]
mod convert;
#[allow(dead_code)]
#[path = "../../examples/custom_source.rs"]
mod custom_source;
#[allow(dead_code)]
#[path = "../../examples/inspect_upload.rs"]
mod inspect_upload;
#[allow(dead_code)]
#[path = "../../examples/list_iso.rs"]
mod list_iso;
#[allow(dead_code)]
#[path = "../../examples/sparse_copy.rs"]
mod sparse_copy;

use diskimg::iso::write::{Builder, CreateOptions};
use diskimg::{Convert, Create, Format, Image, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Writes a raw disk of 3 MiB whose second third is zeros, and returns its name and its bytes.
fn disk(dir: &Path) -> (PathBuf, Vec<u8>) {
    let mut bytes: Vec<u8> = (0..3 << 20).map(|at: u32| (at / 7 % 251) as u8 + 1).collect();
    bytes[1 << 20..2 << 20].fill(0);
    let path = dir.join("disk.img");
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

fn qcow2(dir: &Path) -> (PathBuf, Vec<u8>) {
    let (raw, bytes) = disk(dir);
    let path = dir.join("disk.qcow2");
    Convert::new(Image::open(raw).unwrap()).format(Format::Qcow2).run(&path).unwrap();
    (path, bytes)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn convert_converts_and_leaves_nothing_when_it_takes_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, bytes) = disk(dir.path());
    let out = dir.path().join("out.vmdk");
    let error = convert::run(&raw, &out, Duration::ZERO).unwrap_err();
    assert_eq!(error.to_string(), "it took too long");
    assert_eq!(names(dir.path()), ["disk.img"]);

    let summary = convert::run(&raw, &out, Duration::MAX).unwrap();
    assert!(summary.ends_with(" of 3145728"), "{summary}");
    let image = OpenOptions::new().format(Format::Vmdk).open(&out).unwrap();
    let mut copy = vec![0; bytes.len()];
    image.read_at(&mut copy, 0).unwrap();
    assert!(copy == bytes);
    let error = convert::run(&dir.path().join("missing"), &out, Duration::MAX).unwrap_err();
    assert!(error.to_string().contains("missing: cannot open it"), "{error}");
}

#[test]
fn inspect_upload_accepts_an_image_and_refuses_one_that_names_another() {
    let dir = tempfile::tempdir().unwrap();
    let (image, _) = qcow2(dir.path());
    assert_eq!(
        inspect_upload::run(&image, "qcow2").unwrap(),
        (true, "qcow2, 3145728 bytes\n".to_owned())
    );
    let (safe, text) = inspect_upload::run(&image, "raw").unwrap();
    assert!(!safe && text.contains("error: format-mismatch: "), "{text}");

    let overlay = dir.path().join("overlay.qcow2");
    let backing = diskimg::Backing::new("disk.qcow2").with_format("qcow2");
    Create::new(Format::Qcow2).backing(backing).run(&overlay).unwrap();
    let (safe, text) = inspect_upload::run(&overlay, "qcow2").unwrap();
    assert!(!safe && text.contains("error: backing-file: "), "{text}");
}

#[test]
fn custom_source_reads_an_image_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let (image, bytes) = qcow2(dir.path());
    let stem = dir.path().join("piece");
    for (number, piece) in std::fs::read(image).unwrap().chunks(100_000).enumerate() {
        std::fs::write(stem.with_extension(format!("{number:03}")), piece).unwrap();
    }
    for at in [0, 99_999, 1 << 20, (3 << 20) - 70_000] {
        let read = custom_source::run(&stem, at as u64, 70_000).unwrap();
        assert!(read == bytes[at..at + 70_000], "at {at}");
    }
    assert!(custom_source::run(&stem, 3 << 20, 1).is_err());
    assert!(custom_source::run(&dir.path().join("none"), 0, 1).is_err());
}

#[test]
fn sparse_copy_writes_the_disk_but_no_zeros_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let (image, bytes) = qcow2(dir.path());
    let device = dir.path().join("device");
    for (before, written) in [(0, 2 << 20), (0xAA, 3 << 20)] {
        std::fs::write(&device, vec![before; 4 << 20]).unwrap();
        assert_eq!(sparse_copy::run(&image, &device).unwrap(), written);
        let after = std::fs::read(&device).unwrap();
        assert!(after[..bytes.len()] == bytes);
        assert!(after[bytes.len()..].iter().all(|byte| *byte == before));
    }
    std::fs::write(&device, [0; 512]).unwrap();
    assert!(sparse_copy::run(&image, &device).is_err());
}

#[test]
fn list_iso_lists_an_image_and_one_within_a_qcow2() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = Builder::new(CreateOptions::default());
    builder.add_bytes(b"dir/hello.txt", *b"hello").unwrap();
    let plain = dir.path().join("a.iso");
    builder.plan().unwrap().emit(&mut std::fs::File::create(&plain).unwrap()).unwrap();
    let packed = dir.path().join("a.qcow2");
    Convert::new(Image::open(&plain).unwrap()).format(Format::Qcow2).run(&packed).unwrap();
    for image in [plain, packed] {
        let list = list_iso::run(&image).unwrap();
        assert!(list.contains(" dir/\n           5 dir/hello.txt\n"), "{list}");
    }
}
