//! Damaged and hostile images lead to a clear error, never to a panic, a wrong result or leftover
//! files.

use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::MemorySource;
use diskimg::{
    Convert, Error, ErrorKind, ExternalFiles, Format, Image, OpenOptions, Options, Output,
    conformance,
};
use diskimg_testkit::disk::{Disk, Fill, Run, noise};
use diskimg_testkit::tool::{cases, run};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// An image and its format.
struct Sample {
    format: Format,
    bytes: Vec<u8>,
}

/// Images of different kinds, created by qemu-img, with snapshots and compression.
fn samples() -> &'static [Sample] {
    static SAMPLES: OnceLock<Vec<Sample>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("a.raw");
        let disk = Disk {
            size: 2 << 20,
            runs: vec![
                Run { at: 0, len: 150_000, fill: Fill::Words(1) },
                Run { at: 700_000, len: 70_000, fill: Fill::Noise(2) },
                Run { at: 1_900_000, len: 1000, fill: Fill::Byte(3) },
            ],
        };
        disk.write(&raw);
        let kinds: [(Format, &[&str]); 6] = [
            (Format::Qcow2, &[]),
            (Format::Qcow2, &["-c"]),
            (Format::Qcow2, &["-c", "-o", "cluster_size=4k,compression_type=zstd,extended_l2=off"]),
            (Format::Qcow2, &["-o", "extended_l2=on,refcount_bits=1"]),
            (Format::Vmdk, &[]),
            (Format::Vmdk, &["-o", "subformat=streamOptimized"]),
        ];
        let make = |(format, extra): &(Format, &[&str])| {
            let path = dir.path().join("a.img");
            let path = path.to_str().unwrap();
            let mut args = vec!["convert", "-f", "raw", "-O", format.name()];
            args.extend_from_slice(extra);
            args.extend([raw.to_str().unwrap(), path]);
            run("qemu-img", args);
            if *format == Format::Qcow2 && !extra.contains(&"extended_l2=on,refcount_bits=1") {
                run("qemu-img", ["snapshot", "-c", "s", path]);
                run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 5 300k 100k", path]);
            }
            Sample { format: *format, bytes: std::fs::read(path).unwrap() }
        };
        kinds.iter().map(make).collect()
    })
}

fn open(format: Format, bytes: &[u8]) -> Result<Image, Error> {
    OpenOptions::new()
        .format(format)
        .external_files(ExternalFiles::None)
        .open_source(Arc::new(MemorySource::new(bytes)), "hostile.img")
}

/// Runs all read operations on an image. Errors are fine; panics and contradicting results are not.
fn exercise(format: Format, bytes: &[u8]) -> Result<(), Error> {
    let image = open(format, bytes)?;
    image.info(0)?;
    let _ = image.check(&mut |_| {});
    if image.size() > 1 << 30 {
        // A damaged size: read only the start and the end.
        let mut buf = [0; 4096];
        image.read_at(&mut buf, 0)?;
        return image.read_at(&mut buf, image.size() - 4096);
    }
    conformance::verify(&image)?;
    let sink = Arc::new(MemorySink::new());
    Convert::new(image).threads(2).run_to(Output::to_sink(sink)).map(drop)
}

fn assert_clear(error: &Error) {
    let text = error.to_string();
    assert!(text.starts_with("hostile.img: "), "no file name: {text}");
    assert!(text.len() > 25, "too short: {text}");
    assert!(!text.contains('\n'), "more than one line: {text}");
    assert_ne!(error.kind(), ErrorKind::Cancelled);
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn a_damaged_image_is_an_error_or_an_image_but_never_a_panic(
        which in 0..6usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let sample = &samples()[which];
        let mut bytes = sample.bytes.clone();
        for (index, value, in_tables) in damage {
            // Most of a file is data; headers and tables are more sensitive.
            let reach = if in_tables { bytes.len().min(1024) } else { bytes.len() };
            bytes[index.index(reach)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(sample.bytes.len()));
        }
        if let Err(error) = exercise(sample.format, &bytes) {
            assert_clear(&error);
        }
    }

    #[test]
    fn a_table_entry_of_any_value_is_an_error_or_an_image(
        which in 0..6usize,
        place in any::<prop::sample::Index>(),
        value in prop_oneof![
            any::<u64>(), Just(u64::MAX), Just(1 << 63), Just(1 << 62), Just(i64::MAX as u64),
            (0..64u32).prop_map(|bit| 1 << bit), 0..(1u64 << 24),
        ],
        big_endian in any::<bool>(),
    ) {
        let sample = &samples()[which];
        let mut bytes = sample.bytes.clone();
        let at = place.index(bytes.len() / 8 - 1) * 8;
        let value = if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        bytes[at..at + 8].copy_from_slice(&value);
        if let Err(error) = exercise(sample.format, &bytes) {
            assert_clear(&error);
        }
    }
}

#[test]
fn a_file_truncated_anywhere_in_its_structures_is_a_clear_error() {
    for sample in samples() {
        for cut in [0, 1, 3, 4, 20, 71, 72, 103, 104, 500, 511, 512, 513, 1000] {
            let error = exercise(sample.format, &sample.bytes[..cut]).unwrap_err();
            assert_clear(&error);
            let kinds = [ErrorKind::Corrupt, ErrorKind::Unsupported];
            assert!(kinds.contains(&error.kind()), "{} cut at {cut}: {error}", sample.format);
        }
    }
}

#[test]
fn a_file_of_another_format_is_an_error_if_the_format_is_given() {
    for format in [Format::Qcow2, Format::Vmdk] {
        for bytes in [vec![], vec![0; 70_000], noise(1, 70_000), b"GIF89a".repeat(20_000)] {
            let error = open(format, &bytes).unwrap_err();
            assert_clear(&error);
        }
    }
    // A qcow2 header that a guest wrote is ignored if the format is raw.
    let qcow2 = &samples()[0].bytes;
    assert_eq!(open(Format::Raw, qcow2).unwrap().size(), qcow2.len() as u64);
}

/// Returns a qcow2 image with one header field overwritten.
fn with_field(at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = samples()[0].bytes.clone();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

#[test]
fn each_bad_header_field_of_qcow2_is_named() {
    let cases: [(&str, usize, &[u8], &str); 16] = [
        ("an unaligned snapshot table", 64, &0x101u64.to_be_bytes(), "snapshot"),
        ("an unknown version", 4, &4u32.to_be_bytes(), "version 4"),
        ("clusters of one byte", 20, &0u32.to_be_bytes(), "cluster"),
        ("clusters of 2^63", 20, &63u32.to_be_bytes(), "cluster"),
        ("a disk of 2^63 bytes", 24, &(1u64 << 63).to_be_bytes(), "L1"),
        ("an L1 table of 4 GiB", 36, &(1u32 << 29).to_be_bytes(), "L1"),
        ("an L1 table too short for the disk", 36, &0u32.to_be_bytes(), "L1"),
        ("an L1 table beyond the end", 40, &(1u64 << 40).to_be_bytes(), "L1"),
        ("an unaligned L1 table", 40, &513u64.to_be_bytes(), "L1"),
        ("a refcount table of 16 GiB", 56, &(1u32 << 18).to_be_bytes(), "refcount"),
        ("a snapshot table beyond the end", 64, &(1u64 << 40).to_be_bytes(), "snapshot"),
        ("four billion snapshots", 60, &u32::MAX.to_be_bytes(), "snapshot"),
        ("an unknown incompatible feature", 72, &(1u64 << 40).to_be_bytes(), "feature"),
        ("refcounts of 2^7 bits", 96, &7u32.to_be_bytes(), "refcount"),
        ("a header of four gigabytes", 100, &u32::MAX.to_be_bytes(), "header"),
        ("a backing file name beyond the first cluster", 8, &(1u64 << 40).to_be_bytes(), "backing"),
    ];
    for (what, at, value, fragment) in cases {
        let error = open(Format::Qcow2, &with_field(at, value)).expect_err(what);
        assert_clear(&error);
        let text = error.to_string();
        assert!(text.to_lowercase().contains(&fragment.to_lowercase()), "{what}: {text}");
    }
}

/// A failed conversion creates no target and leaves an existing one unchanged.
#[test]
fn bad_input_leaves_the_target_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    for sample in samples() {
        // Valid tables, but the data is truncated within a compressed unit or a cluster.
        let bytes = &sample.bytes;
        std::fs::write(path("in"), &bytes[..bytes.len() / 2]).unwrap();
        std::fs::write(path("old"), b"precious").unwrap();
        for target in ["new", "old"] {
            let convert = || -> Result<_, Error> {
                let image = OpenOptions::new().format(sample.format).open(path("in"))?;
                Convert::new(image).format(Format::Qcow2).run(path(target))
            };
            // Clusters beyond the end of the file read as zeros, as in QEMU.
            if convert().is_ok() {
                std::fs::remove_file(path(target)).unwrap();
                std::fs::write(path("old"), b"precious").unwrap();
            }
        }
        assert!(!path("new").exists());
        assert_eq!(std::fs::read(path("old")).unwrap(), b"precious");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "there are leftover files");
    }
}

#[test]
fn a_source_that_is_not_a_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for (path, fragment) in [
        (dir.path().to_owned(), "directory"),
        (dir.path().join("none"), "No such file or directory"),
        (Path::new("/dev/null").to_owned(), "regular file"),
    ] {
        let error = Image::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(format!("{error:#}").contains(fragment), "{error:#}");
    }
    let error = Image::open("nbd://localhost/x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn an_unknown_create_option_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    for format in [Format::Raw, Format::Qcow2, Format::Vmdk] {
        let image = open(Format::Raw, &[0; 512]).unwrap();
        let error = Convert::new(image)
            .format(format)
            .options(Options::parse("color=blue").unwrap())
            .run(dir.path().join("out"))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("Invalid parameter 'color'"), "{error}");
        assert!(!dir.path().join("out").exists());
    }
}
