//! Pass-through: compressed units are copied as the source stores them.

use diskimg::{Backing, Convert, ErrorKind, Format, Image, OpenOptions, Options, Report};
use diskimg_testkit::disk::{self, Disk, Fill, Run};
use diskimg_testkit::tool::{assert_qemu_check, assert_qemu_same, cases, qemu_bytes, run, try_run};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use std::path::Path;

const CLUSTER: u64 = 65536;

fn open(path: &Path, format: Format) -> Image {
    OpenOptions::new().format(format).open(path).unwrap()
}

fn compressed(image: Image, format: Format, options: &str) -> Convert<'static> {
    let options = Options::parse(options).unwrap();
    Convert::new(image).format(format).options(options).compress(true)
}

/// Creates a compressed image with qemu-img.
fn qemu_compressed(raw: &Path, out: &Path, format: &str, options: &str) {
    let (raw, out) = (raw.to_str().unwrap(), out.to_str().unwrap());
    let compress = if format == "qcow2" { "-c" } else { "-p" };
    run("qemu-img", ["convert", compress, "-f", "raw", "-O", format, "-o", options, raw, out]);
}

/// 1 MiB of text, 1 MiB of noise, and text that ends within its last cluster.
fn sample() -> Disk {
    let run = |at, len, fill| Run { at, len, fill };
    Disk {
        size: (4 << 20) + 512,
        runs: vec![
            run(0, 1 << 20, Fill::Words(1)),
            run(1 << 20, 1 << 20, Fill::Noise(2)),
            run(3 << 20, (1 << 20) + 512, Fill::Words(3)),
        ],
    }
}

const KINDS: [(&str, &str); 4] = [
    ("qcow2", "compression_type=zlib"),
    ("qcow2", "compression_type=zstd"),
    ("qcow2", "compression_type=zlib,cluster_size=4k"),
    ("vmdk", "subformat=streamOptimized"),
];

#[test]
fn units_of_the_same_codec_and_size_pass_through_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sample().write(&path("raw"));
    for (format, options) in KINDS {
        qemu_compressed(&path("raw"), &path("a"), format, options);
        let kind: Format = format.parse().unwrap();
        let convert = || compressed(open(&path("a"), kind), kind, options);
        let report = convert().threads(2).run(path("b")).unwrap();
        // Text passes through, except the unit in which the disk ends.
        assert!(report.passed_bytes >= 2 << 20, "{format} {options}: {report:?}");
        assert_qemu_same(&path("raw"), "raw", &path("b"), format);
        assert!(qemu_bytes(&path("b"), format) == sample().bytes());
        if format == "qcow2" {
            assert_qemu_check(&path("b"), format);
        }
        // Repeated conversions do not make the image larger.
        let len = |name: &str| std::fs::metadata(path(name)).unwrap().len();
        assert!(len("b") <= len("a") + CLUSTER, "{format} {options}");
        compressed(open(&path("b"), kind), kind, options).run(path("c")).unwrap();
        assert!(len("c") <= len("b"), "{format} {options}");
        // Neither the number of threads nor verification changes the output.
        let first = std::fs::read(path("b")).unwrap();
        let verified = convert().threads(1).verify(true).run(path("b")).unwrap();
        let mut expected = report;
        expected.verified = true;
        assert_eq!(verified, expected);
        let trusting = convert().trust_source(true).run(path("b")).unwrap();
        assert_eq!(trusting.passed_bytes, expected.passed_bytes);
        assert!(std::fs::read(path("b")).unwrap() == first, "{format} {options}");
    }
}

#[test]
fn units_that_do_not_fit_the_target_are_compressed_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sample().write(&path("raw"));
    qemu_compressed(&path("raw"), &path("a"), "qcow2", "compression_type=zlib");
    let passed = |convert: Convert<'static>| {
        let report: Report = convert.run(path("b")).unwrap();
        report.passed_bytes
    };
    let source = || open(&path("a"), Format::Qcow2);
    for (format, options) in [
        (Format::Qcow2, "compression_type=zstd"),
        (Format::Qcow2, "cluster_size=32k"),
        (Format::Qcow2, "cluster_size=128k"),
        (Format::Qcow2, "compression_level=1"),
        (Format::Vmdk, "subformat=streamOptimized"),
    ] {
        assert_eq!(passed(compressed(source(), format, options)), 0, "{options}");
        assert_qemu_same(&path("raw"), "raw", &path("b"), format.name());
    }
    assert_eq!(passed(compressed(source(), Format::Qcow2, "").recompress(true)), 0);
    assert_eq!(passed(compressed(source(), Format::Qcow2, "").salvage(true)), 0);
    // With a backing file, units are decoded to compare them with it.
    Disk { size: 4 << 20, runs: vec![] }.write(&path("base"));
    let backing = Backing::new("base").with_format("raw");
    assert_eq!(passed(compressed(source(), Format::Qcow2, "").backing(backing)), 0);
}

/// Overwrites a part of the first compressed unit of an image.
fn damage_first_unit(path: &Path, format: Format) {
    let extent = open(path, format).extents(0..CLUSTER).unwrap().next().unwrap().unwrap();
    let diskimg::extent::Kind::Encoded(unit) = &extent.kind else { panic!("{extent:?}") };
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0xff; 16], unit.host.offset + 4).unwrap();
}

#[test]
fn damaged_units_are_errors_unless_the_source_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sample().write(&path("raw"));
    for (format, options) in KINDS {
        qemu_compressed(&path("raw"), &path("a"), format, options);
        let kind: Format = format.parse().unwrap();
        damage_first_unit(&path("a"), kind);
        let convert = || compressed(open(&path("a"), kind), kind, options);
        let error_of = |convert: Convert<'_>| convert.run(path("b")).unwrap_err().to_string();
        // The error is the same whether or not the unit could have been copied.
        let error = error_of(convert());
        assert_eq!(error, error_of(convert().recompress(true)), "{format} {options}");
        assert!(!path("b").exists());
        let trusting = || convert().trust_source(true);
        let error = trusting().verify(true).run(path("b")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{format} {options}: {error}");
        assert!(trusting().run(path("b")).unwrap().passed_bytes > 0);
        std::fs::remove_file(path("b")).unwrap();
        // Salvage replaces the unit by zeros.
        let report = convert().salvage(true).run(path("b")).unwrap();
        assert_eq!(report.salvaged.len(), 1, "{format} {options}");
        std::fs::remove_file(path("b")).unwrap();
    }
}

#[test]
fn damaged_grains_do_not_pass_into_appliances() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sample().write(&path("raw"));
    qemu_compressed(&path("raw"), &path("a"), "vmdk", "subformat=streamOptimized");
    damage_first_unit(&path("a"), Format::Vmdk);
    let convert = || Convert::new(open(&path("a"), Format::Vmdk)).format(Format::Ova);
    let error = convert().run(path("b.ova")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    convert().trust_source(true).run(path("b.ova")).unwrap();
}

#[test]
fn stream_optimized_grains_pass_through_into_appliances() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sample().write(&path("raw"));
    qemu_compressed(&path("raw"), &path("a"), "vmdk", "subformat=streamOptimized");
    let source = || open(&path("a"), Format::Vmdk);
    let report = Convert::new(source()).append(source()).format(Format::Ova).run(path("b.ova"));
    assert!(report.unwrap().passed_bytes >= 4 << 20);
    let options = OpenOptions::new().disk("2".to_owned());
    let mut bytes = vec![0; sample().size as usize];
    options.open(path("b.ova")).unwrap().read_at(&mut bytes, 0).unwrap();
    assert!(bytes == sample().bytes());
}

proptest! {
    #![proptest_config(cases(24))]

    /// Overwritten clusters leave units in any order, with stored clusters and free space between
    /// them.
    #[test]
    fn units_pass_through_unchanged_whatever_surrounds_them(
        disk in disk::disk_of(CLUSTER..=(3 << 20)),
        over in disk::disk_of(CLUSTER..=(3 << 20)),
        kind in 0..2usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let size = (disk.size.max(over.size)).next_multiple_of(512);
        Disk { size, ..disk }.write(&path("raw"));
        let options = KINDS[kind].1;
        qemu_compressed(&path("raw"), &path("a"), "qcow2", options);
        // Compressed clusters overwrite compressed ones; stored clusters are between them.
        let mut commands = vec![];
        for (i, run) in over.runs.iter().enumerate() {
            let range = run.clip(size);
            let at = range.start / CLUSTER * CLUSTER;
            if at + CLUSTER <= size {
                let how = if i % 3 == 0 { "" } else { "-c " };
                commands.push("-c".to_owned());
                commands.push(format!("write {how}-P {i} {at} {CLUSTER}"));
            }
        }
        if !commands.is_empty() {
            let a = path("a").to_str().unwrap().to_owned();
            commands.extend(["-f".to_owned(), "qcow2".to_owned(), a]);
            // qemu-io refuses to write compressed data over a stored cluster and continues.
            try_run("qemu-io", commands);
        }
        let source = open(&path("a"), Format::Qcow2);
        compressed(source, Format::Qcow2, options).run(path("b")).unwrap();
        assert_qemu_check(&path("b"), "qcow2");
        assert_qemu_same(&path("a"), "qcow2", &path("b"), "qcow2");
    }
}
