//! Every size of clusters and tables, written and read by diskimg and by QEMU, the only other
//! program that writes QED.

use super::{assert_consistent, our_bytes};
use diskimg::{Convert, ErrorKind, Format, Image, Options};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{assert_qemu_check, qemu_bytes, run, try_run};
use std::path::Path;

const KINDS: [&str; 5] = [
    "cluster_size=64k,table_size=4",
    "cluster_size=4k,table_size=2",
    "cluster_size=4k,table_size=16",
    "cluster_size=1M,table_size=2",
    "cluster_size=4M,table_size=2",
];

/// Disks with boundary cases.
fn contents() -> [(&'static str, Disk); 6] {
    let run = |at, len, fill| Run { at, len, fill };
    [
        ("empty", Disk { size: 3 << 20, runs: vec![] }),
        ("one sector", Disk { size: 512, runs: vec![run(0, 512, Fill::Noise(1))] }),
        ("a full table", Disk { size: 2 << 20, runs: vec![run(0, 2 << 20, Fill::Noise(2))] }),
        (
            "holes, zeros, runs across tables",
            Disk {
                size: 9 << 20,
                runs: vec![
                    run(512, 512, Fill::Byte(3)),
                    run((2 << 20) - 512, 1024, Fill::Words(4)),
                    run(5 << 20, 1 << 20, Fill::Byte(0)),
                    run((9 << 20) - 512, 512, Fill::Noise(5)),
                ],
            },
        ),
        (
            "a last cluster of one sector",
            Disk { size: (4 << 20) + 512, runs: vec![run(4 << 20, 512, Fill::Noise(6))] },
        ),
        ("far apart", Disk { size: 900 << 20, runs: vec![run(60 << 20, 70_000, Fill::Words(7))] }),
    ]
}

fn convert(raw: &Path, options: &str, threads: usize, out: &Path) {
    Convert::new(Image::open(raw).unwrap())
        .format(Format::Qed)
        .options(Options::parse(options).unwrap())
        .threads(threads)
        .verify(true)
        .run(out)
        .unwrap();
}

#[test]
fn qemu_reads_what_diskimg_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.qed"));
    for (content, disk) in contents() {
        disk.write(&raw);
        for kind in KINDS {
            convert(&raw, kind, 2, &out);
            let verdict = Oracle::QemuImg.compare("qed", &out, &disk);
            assert_eq!(verdict, Verdict::Same, "{kind}, {content}");
            assert_qemu_check(&out, "qed");
            if disk.size < 100 << 20 {
                assert_eq!(our_bytes(&out), disk.bytes(), "{kind}, {content}");
            }
            assert_consistent(&out);
            let len = std::fs::metadata(&out).unwrap().len();
            let cluster = Image::open(&out).unwrap().disk_layout().cluster_size;
            assert!(len.is_multiple_of(cluster), "{kind}, {content}: {len}");
        }
    }
}

#[test]
fn diskimg_reads_what_qemu_img_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.qed"));
    for (content, disk) in contents().into_iter().filter(|(_, disk)| disk.size < 100 << 20) {
        disk.write(&raw);
        let paths = [raw.to_str().unwrap(), out.to_str().unwrap()];
        for kind in KINDS {
            let args = ["convert", "-f", "raw", "-O", "qed", "-o", kind];
            run("qemu-img", args.iter().chain(&paths));
            assert_eq!(our_bytes(&out), disk.bytes(), "{kind}, {content}");
            assert_consistent(&out);
        }
    }
}

/// The same disk has a file of the same length as that of qemu-img.
#[test]
fn files_have_the_length_that_qemu_img_gives_them() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.qed"));
    let theirs = dir.path().join("theirs.qed");
    for (content, disk) in contents() {
        disk.write(&raw);
        for kind in KINDS {
            convert(&raw, kind, 2, &out);
            let paths = [raw.to_str().unwrap(), theirs.to_str().unwrap()];
            let args = ["convert", "-f", "raw", "-O", "qed", "-o", kind];
            run("qemu-img", args.iter().chain(&paths));
            let len = |path: &Path| std::fs::metadata(path).unwrap().len();
            assert_eq!(len(&out), len(&theirs), "{kind}, {content}");
        }
    }
}

/// The same input gives the same bytes, whatever the number of threads.
#[test]
fn the_output_is_reproducible() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    contents()[3].1.write(&raw);
    for kind in KINDS {
        let outputs = [1, 2, 4].map(|threads| {
            let out = dir.path().join("disk.qed");
            convert(&raw, kind, threads, &out);
            std::fs::read(out).unwrap()
        });
        assert!(outputs[0] == outputs[1] && outputs[1] == outputs[2], "{kind}");
    }
}

/// A created image is, byte for byte, that of qemu-img.
#[test]
fn created_images_equal_those_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours.qed"), dir.path().join("theirs.qed"));
    for kind in KINDS {
        for size in [0, 512, 1 << 20, (1 << 30) - 512] {
            let size_text = size.to_string();
            let args = ["create", "-f", "qed", "-o", kind, theirs.to_str().unwrap(), &size_text];
            run("qemu-img", args);
            let options = Options::parse(kind).unwrap();
            diskimg::Create::new(Format::Qed).size(size).options(options).run(&ours).unwrap();
            let [ours, theirs] = [&ours, &theirs].map(|path| std::fs::read(path).unwrap());
            assert!(ours == theirs, "{kind}, {size}");
        }
    }
}

#[test]
fn sizes_and_options_that_qemu_img_refuses_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours.qed"), dir.path().join("theirs.qed"));
    for (options, size) in [
        ("cluster_size=2k", "1M"),
        ("cluster_size=128M", "1M"),
        ("cluster_size=5000", "1M"),
        ("table_size=3", "1M"),
        ("table_size=32", "1M"),
        ("table_size=0", "1M"),
        ("cluster_size=4k,table_size=2", "5G"),
        ("cluster_size=64k", "65T"),
        // It computes 0 as the largest size of a disk.
        ("cluster_size=4M", "1M"),
        ("compat=1.1", "1M"),
        ("preallocation=full,encryption=on", "1M"),
    ] {
        let args = ["create", "-f", "qed", "-o", options, theirs.to_str().unwrap(), size];
        assert!(!try_run("qemu-img", args).status.success(), "{options} {size}");
        let size = diskimg::parse_size(size).unwrap();
        let create = diskimg::Create::new(Format::Qed).size(size);
        let error = create.options(Options::parse(options).unwrap()).run(&ours).unwrap_err();
        let kinds = [ErrorKind::Invalid, ErrorKind::Limit, ErrorKind::Unsupported];
        assert!(kinds.contains(&error.kind()), "{options} {size}: {error}");
        assert!(!ours.exists());
    }
}

/// The specification allows tables of one cluster. qemu-img creates such an image, but QEMU cannot
/// open it: it takes the end of the table for an overflow. Nobody could use what is written.
#[test]
fn images_with_tables_of_one_cluster_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours.qed"), dir.path().join("theirs.qed"));
    let name = theirs.to_str().unwrap();
    run("qemu-img", ["create", "-f", "qed", "-o", "table_size=1", name, "1M"]);
    let info = try_run("qemu-img", ["info", name]);
    assert!(String::from_utf8_lossy(&info.stderr).contains("table offset is invalid"));
    assert!(our_bytes(&theirs) == vec![0; 1 << 20]);
    let options = Options::parse("table_size=1").unwrap();
    let error =
        diskimg::Create::new(Format::Qed).size(1 << 20).options(options).run(&ours).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// What the guest deallocated or wrote as zeros in QEMU.
#[test]
fn an_image_that_qemu_io_wrote_reads_as_in_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qed");
    let name = path.to_str().unwrap();
    run("qemu-img", ["create", "-f", "qed", "-o", "cluster_size=4k,table_size=2", name, "9M"]);
    let commands = [
        "write -P 1 3M 9k",
        "write -P 2 0 512",
        "write -z 4096 8k",
        "write -P 3 8k 4k",
        "write -z 3M 4k",
        "write -P 4 8900k 70k",
        "discard 3M 64k",
    ];
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    run("qemu-io", ["-f", "qed"].into_iter().chain(commands).chain([name]));
    assert!(our_bytes(&path) == qemu_bytes(&path, "qed"));
    assert_consistent(&path);
}
