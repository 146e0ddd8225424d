//! Images that diskimg writes pass `qemu-img check` and read the same in qemu-img.

use crate::verified;
use diskimg::{Convert, Format, Image, OpenOptions, Options, Sparse};
use diskimg_testkit::disk::{self, Disk, Fill, Run};
use diskimg_testkit::tool::{assert_qemu_check, assert_qemu_same, cases, qemu_bytes, try_run};
use proptest::prelude::*;
use std::path::Path;

/// Format, create options and compression of an output.
#[derive(Debug, Clone)]
struct Target {
    format: Format,
    options: String,
    compress: bool,
}

fn qcow2_target() -> impl Strategy<Value = Target> {
    (
        prop_oneof![
            Just(9u32),
            Just(11),
            Just(12),
            Just(14),
            Just(16),
            Just(16),
            Just(18),
            Just(21)
        ],
        prop::bool::weighted(0.2),
        0..=6u32,
        prop::bool::weighted(0.2),
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop_oneof![
            6 => Just(""),
            1 => Just("metadata"),
            1 => Just("falloc"),
            1 => Just("full"),
        ],
        any::<bool>(),
    )
        .prop_map(|(bits, v2, order, extended, zstd, lazy, preallocation, compress)| {
            let mut options = format!("cluster_size={}", 1u64 << bits);
            if v2 {
                options += ",compat=0.10";
            } else {
                options += &format!(",refcount_bits={}", 1 << order);
                if extended && bits >= 14 {
                    options += ",extended_l2=on";
                }
                if zstd {
                    options += ",compression_type=zstd";
                }
                if lazy {
                    options += ",lazy_refcounts=on";
                }
            }
            let compress = compress && preallocation.is_empty();
            if !preallocation.is_empty() {
                options += &format!(",preallocation={preallocation}");
            }
            Target { format: Format::Qcow2, options, compress }
        })
}

fn vmdk_target() -> impl Strategy<Value = Target> {
    (any::<bool>(), any::<bool>(), prop_oneof![Just("ide"), Just("lsilogic"), Just("buslogic")])
        .prop_map(|(stream, zeroed, adapter)| {
            let mut options = format!("adapter_type={adapter}");
            if stream {
                options += ",subformat=streamOptimized";
            } else if zeroed {
                options += ",zeroed_grain=on";
            }
            Target { format: Format::Vmdk, options, compress: stream }
        })
}

fn convert(source: &Path, target: &Target, out: &Path, threads: usize, sparse: Sparse) {
    let image = OpenOptions::new().format(Format::Raw).open(source).unwrap();
    Convert::new(image)
        .format(target.format)
        .options(Options::parse(&target.options).unwrap())
        .compress(target.compress)
        .threads(threads)
        .sparse(sparse)
        .run(out)
        .unwrap();
}

/// Asserts everything that holds for an output: it passes qemu-img's and diskimg's checks, both
/// read the source's bytes, and it is the same for any number of threads.
fn assert_output(disk: &Disk, target: &Target, sparse: Sparse) {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("a.raw"), dir.path().join("a.img"));
    disk.write(&raw);
    convert(&raw, target, &out, 2, sparse);
    let format = target.format.name();
    assert_qemu_check(&out, format);
    assert_qemu_same(&raw, "raw", &out, format);
    let mut expected = disk.bytes();
    expected.resize(expected.len().next_multiple_of(512), 0);
    assert!(qemu_bytes(&out, format) == expected, "qemu-img reads different bytes");

    let image = verified::open(&OpenOptions::new(), &out);
    assert_eq!(image.format(), target.format, "probed format");
    let mut bytes = vec![1; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected, "diskimg reads different bytes");
    let mut findings = Vec::new();
    image.check(&mut |finding| findings.push(finding)).unwrap();
    assert!(findings.is_empty(), "diskimg's check finds {findings:?}");

    // Byte-identical for any number of threads.
    let first = std::fs::read(&out).unwrap();
    for threads in [1, 5] {
        convert(&raw, target, &out, threads, sparse);
        assert!(std::fs::read(&out).unwrap() == first, "{threads} threads write a different file");
    }
}

fn sparse() -> impl Strategy<Value = Sparse> {
    prop_oneof![
        4 => Just(Sparse::default()),
        1 => Just(Sparse::Off),
        1 => Just(Sparse::Blocks(512)),
        1 => Just(Sparse::Blocks(64 << 10)),
    ]
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn qcow2_output_is_correct(
        disk in disk::disk(5 << 20),
        target in qcow2_target(),
        sparse in sparse(),
    ) {
        assert_output(&disk, &target, sparse);
    }

    #[test]
    fn vmdk_output_is_correct(
        disk in disk::disk_of(1..=(5 << 20)),
        target in vmdk_target(),
        sparse in sparse(),
    ) {
        assert_output(&disk, &target, sparse);
    }

    #[test]
    fn raw_output_keeps_every_byte_and_the_exact_length(
        disk in disk::disk(3 << 20),
        sparse in sparse(),
        preallocation in prop_oneof![Just(""), Just("preallocation=falloc"), Just("preallocation=full")],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, out) = (dir.path().join("a.raw"), dir.path().join("b.raw"));
        disk.write(&raw);
        let target = Target { format: Format::Raw, options: preallocation.into(), compress: false };
        convert(&raw, &target, &out, 2, sparse);
        prop_assert!(std::fs::read(&out).unwrap() == disk.bytes());
    }
}

/// Sizes at boundaries of sectors and clusters, in every kind of target.
#[test]
fn disks_of_sizes_at_every_boundary_are_written_correctly() {
    let targets = [
        ("qcow2", "", false),
        ("qcow2", "", true),
        ("qcow2", "cluster_size=512", true),
        ("qcow2", "extended_l2=on,compression_type=zstd", true),
        ("vmdk", "", false),
        ("vmdk", "subformat=streamOptimized", true),
    ];
    for size in [0, 1, 511, 512, 65535, 65536, 65537, (1 << 20) - 1, 1 << 20, 65536 * 33 + 7] {
        // Data in the last byte must not be lost.
        let runs = match size {
            0 => vec![],
            _ => vec![Run { at: size - 1, len: 1, fill: Fill::Byte(0xa5) }],
        };
        let disk = Disk { size, runs };
        for (format, options, compress) in targets {
            if format == "vmdk" && size == 0 {
                continue; // Not written, because qemu-img cannot open it.
            }
            let target =
                Target { format: format.parse().unwrap(), options: options.into(), compress };
            assert_output(&disk, &target, Sparse::default());
        }
    }
}

#[test]
fn a_vmdk_of_size_zero_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("a.raw"), dir.path().join("a.vmdk"));
    std::fs::write(&raw, b"").unwrap();
    let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
    let error = Convert::new(image).format(Format::Vmdk).run(&out).unwrap_err();
    assert_eq!(error.kind(), diskimg::ErrorKind::Invalid);
    assert!(!out.exists());
}

#[test]
fn an_external_data_file_has_the_disks_data_and_qemu_reads_it() {
    for raw_flag in ["off", "on"] {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("a.raw");
        let out = dir.path().join("a.qcow2");
        let disk = Disk {
            size: 3 << 20,
            runs: vec![
                Run { at: 100, len: 70_000, fill: Fill::Noise(3) },
                Run { at: 2 << 20, len: 10_000, fill: Fill::Words(4) },
            ],
        };
        disk.write(&raw);
        let options = format!("data_file=a.data,data_file_raw={raw_flag}");
        let target = Target { format: Format::Qcow2, options, compress: false };
        convert(&raw, &target, &out, 2, Sparse::default());
        if raw_flag == "on" {
            assert!(std::fs::read(dir.path().join("a.data")).unwrap() == disk.bytes());
        }
        // qemu-img resolves the data file's name against the working directory.
        for args in [vec!["check", "a.qcow2"], vec!["compare", "a.raw", "a.qcow2"]] {
            let status = std::process::Command::new("qemu-img")
                .current_dir(&dir)
                .args(&args)
                .output()
                .unwrap();
            assert!(status.status.success(), "{args:?}: {status:?}");
        }
        let image = Image::open(&out).unwrap();
        let mut bytes = vec![1; 3 << 20];
        image.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == disk.bytes());
    }
}

#[test]
fn deflate_clusters_need_no_more_than_a_4_kib_window() {
    // QEMU decodes with a 12-bit window and fails on longer distances.
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("a.raw"), dir.path().join("a.qcow2"));
    // Repeats at a distance of 20 KiB tempt an encoder with a larger window.
    let block = disk::noise(11, 20 << 10);
    std::fs::write(&raw, block.repeat(64)).unwrap();
    let target = Target { format: Format::Qcow2, options: String::new(), compress: true };
    convert(&raw, &target, &out, 2, Sparse::default());
    let repeats_were_found = std::fs::metadata(&out).unwrap().len() < (20 << 10) * 32;
    assert!(!repeats_were_found, "a window of more than 4 KiB was used");
}

/// 7-Zip checks the structure of stream-optimized VMDKs: it refuses qemu-img's.
#[test]
fn seven_zip_reads_the_same_bytes_from_our_images() {
    let disk = Disk {
        size: (3 << 20) + 65536 / 2,
        runs: vec![
            Run { at: 0, len: 200_000, fill: Fill::Words(1) },
            Run { at: 1 << 20, len: 300_000, fill: Fill::Noise(2) },
            Run { at: (3 << 20) + 32_000, len: 700, fill: Fill::Words(3) },
        ],
    };
    let targets = [
        ("vmdk", "subformat=streamOptimized", true),
        ("vmdk", "", false),
        ("qcow2", "", true),
        ("qcow2", "compat=0.10,cluster_size=4k", true),
        ("qcow2", "", false),
    ];
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("a.raw");
    disk.write(&raw);
    for (format, options, compress) in targets {
        // 7-Zip considers the file name extension too.
        let out = dir.path().join(format!("a.{format}"));
        let target = Target { format: format.parse().unwrap(), options: options.into(), compress };
        convert(&raw, &target, &out, 2, Sparse::default());
        let output = try_run("7zz", ["x", "-so", out.to_str().unwrap()]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{format} {options}: {stderr} {}", output.status);
        assert!(output.stdout == disk.bytes(), "{format} {options}: 7-Zip reads different bytes");
    }
}

#[test]
fn any_number_of_threads_may_be_requested() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("a.raw");
    std::fs::write(&source, vec![1; 1 << 20]).unwrap();
    for threads in [0, usize::MAX] {
        let image = OpenOptions::new().format(Format::Raw).open(&source).unwrap();
        let convert = Convert::new(image).format(Format::Qcow2).compress(true).threads(threads);
        convert.run(dir.path().join("b")).unwrap();
    }
}
