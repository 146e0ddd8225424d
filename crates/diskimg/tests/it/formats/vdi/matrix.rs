//! Every kind of VDI, read by every VDI reader.

use super::{findings, our_bytes};
use diskimg::{Convert, Create, Format, Image, Options};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{assert_qemu_check, run, try_run};
use std::path::Path;

const KINDS: [&str; 2] = ["static=off", "static=on"];

/// Disks with boundary cases.
fn contents() -> [(&'static str, Disk); 6] {
    let run = |at, len, fill| Run { at, len, fill };
    [
        ("empty", Disk { size: 3 << 20, runs: vec![] }),
        ("one sector", Disk { size: 512, runs: vec![run(0, 512, Fill::Noise(1))] }),
        ("a full block", Disk { size: 1 << 20, runs: vec![run(0, 1 << 20, Fill::Noise(2))] }),
        (
            "holes in blocks, zeros",
            Disk {
                size: 9 << 20,
                runs: vec![
                    run(512, 512, Fill::Byte(3)),
                    run((1 << 20) - 512, 1024, Fill::Words(4)),
                    run(3 << 20, 2_200_000, Fill::Noise(8)),
                    run(5 << 20, 1 << 20, Fill::Byte(0)),
                    run((9 << 20) - 512, 512, Fill::Noise(5)),
                ],
            },
        ),
        (
            "a last block of one sector",
            Disk { size: (4 << 20) + 512, runs: vec![run(4 << 20, 512, Fill::Noise(6))] },
        ),
        (
            "a source that is not whole sectors",
            Disk { size: (2 << 20) + 100, runs: vec![run(2 << 20, 100, Fill::Words(7))] },
        ),
    ]
}

fn assert_read_by_all(kind: &str, content: &str, image: &Path, disk: &Disk) {
    for oracle in Oracle::ALL.into_iter().chain([Oracle::VirtualBox]) {
        let verdict = oracle.compare("vdi", image, disk);
        let expected = matches!(verdict, Verdict::Same | Verdict::NotInstalled);
        assert!(expected, "{kind}, {content}: {}: {verdict}", oracle.name());
    }
}

/// The disk's bytes in whole sectors.
fn whole_sectors(disk: &Disk) -> Vec<u8> {
    let mut bytes = disk.bytes();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn all_readers_read_what_diskimg_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.vdi"));
    for (content, disk) in contents() {
        disk.write(&raw);
        for kind in KINDS {
            Convert::new(Image::open(&raw).unwrap())
                .format(Format::Vdi)
                .options(Options::parse(kind).unwrap())
                .verify(true)
                .run(&out)
                .unwrap();
            assert_read_by_all(kind, content, &out, &disk);
            assert_eq!(our_bytes(&out), whole_sectors(&disk), "{kind}, {content}");
            assert_eq!(findings(&out), [""; 0], "{kind}, {content}");
            assert_qemu_check(&out, "vdi");
        }
    }
}

#[test]
fn diskimg_reads_what_qemu_img_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.vdi"));
    for (content, disk) in contents() {
        disk.write(&raw);
        let paths = [raw.to_str().unwrap(), out.to_str().unwrap()];
        for kind in KINDS {
            let args = ["convert", "-f", "raw", "-O", "vdi", "-o", kind];
            run("qemu-img", args.iter().chain(&paths));
            assert_eq!(our_bytes(&out), whole_sectors(&disk), "{kind}, {content}");
            assert_eq!(findings(&out), [""; 0], "{kind}, {content}");
        }
    }
}

/// vbox-img writes blocks in any order, and blocks of zeros.
#[test]
fn diskimg_reads_what_virtualbox_writes() {
    let Some(vbox_img) = std::env::var_os("DISKIMG_VBOX_IMG") else { return };
    let vbox_img = vbox_img.to_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.vdi"));
    // vbox-img does not read a raw disk of one sector, nor parts of one.
    let is_read = |(_, disk): &(_, Disk)| disk.size > 512 && disk.size.is_multiple_of(512);
    for (content, disk) in contents().into_iter().filter(is_read) {
        disk.write(&raw);
        for variant in ["Standard", "Fixed"] {
            let _ = std::fs::remove_file(&out);
            let paths = [raw.to_str().unwrap(), "--dstfilename", out.to_str().unwrap()];
            let args =
                ["convert", "--srcformat", "RAW", "--dstformat", "VDI", "--variant", variant];
            run(vbox_img, args.iter().chain(&["--srcfilename"]).chain(&paths));
            assert_eq!(our_bytes(&out), disk.bytes(), "{variant}, {content}");
            assert_eq!(findings(&out), [""; 0], "{variant}, {content}");
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
            let out = dir.path().join("disk.vdi");
            Convert::new(Image::open(&raw).unwrap())
                .format(Format::Vdi)
                .options(Options::parse(kind).unwrap())
                .threads(threads)
                .run(&out)
                .unwrap();
            std::fs::read(out).unwrap()
        });
        assert!(outputs[0] == outputs[1] && outputs[1] == outputs[2], "{kind}");
    }
}

/// VirtualBox refuses two disks with the same UUID.
#[test]
fn empty_disks_have_different_uuids_and_the_option_sets_one() {
    let dir = tempfile::tempdir().unwrap();
    let uuids = |name: &str, options: &str| {
        let path = dir.path().join(name);
        let options = Options::parse(options).unwrap();
        Create::new(Format::Vdi).size(1 << 20).options(options).run(&path).unwrap();
        assert_qemu_check(&path, "vdi");
        Image::open(&path).unwrap().layers().next().unwrap().content_ids()
    };
    let (a, b) = (uuids("a.vdi", ""), uuids("b.vdi", ""));
    assert_ne!(a[1], b[1]);
    let given = uuids("c.vdi", "uuid=01234567-89ab-cdef-0123-456789ABCDEF");
    assert_eq!(given[1], "01234567-89ab-cdef-0123-456789abcdef");
    // The first three numbers are little-endian.
    let stored = std::fs::read(dir.path().join("c.vdi")).unwrap();
    assert_eq!(stored[392..400], [0x67, 0x45, 0x23, 0x01, 0xab, 0x89, 0xef, 0xcd]);
}

#[test]
fn options_are_those_of_qemu_img_and_combinations_without_effect_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vdi");
    let create = |options: &str| {
        let options = Options::parse(options).unwrap();
        Create::new(Format::Vdi).size(3 << 20).options(options).run(&path)
    };
    let allocated = || std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap()) * 512;
    for (options, len, full) in [
        ("", 1 << 20, false),
        ("static=on", 4 << 20, false),
        ("preallocation=metadata", 4 << 20, false),
        ("static=on,preallocation=falloc", 4 << 20, true),
        ("static=on,preallocation=full", 4 << 20, true),
    ] {
        create(options).unwrap();
        assert_eq!(path.metadata().unwrap().len(), len, "{options}");
        assert_eq!(allocated() >= 3 << 20, full, "{options}");
        assert_qemu_check(&path, "vdi");
    }
    for (options, message) in [
        ("preallocation=full", "Unsupported preallocation mode 'full' for dynamic images"),
        ("static=on,preallocation=x", "Unsupported preallocation mode 'x' for vdi"),
        ("static=2", "expects 'on' or 'off'"),
        ("uuid=1", "'1' is not a UUID"),
        ("block_size=2M", "block_size"),
    ] {
        let error = create(options).unwrap_err();
        assert!(error.to_string().contains(message), "{options}: {error}");
    }
}

/// QEMU's limit and its words.
#[test]
fn the_maximum_size_is_that_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vdi");
    let too_large = 0x1_ffff_f800_0200u64;
    let error = Create::new(Format::Vdi).size(too_large).run(&path).unwrap_err();
    let args = ["create", "-f", "vdi", path.to_str().unwrap(), &too_large.to_string()];
    let theirs = String::from_utf8(try_run("qemu-img", args).stderr).unwrap();
    let message =
        "Unsupported VDI image size (size is 0x1fffff8000200, max supported is 0x1fffff8000000)";
    assert!(theirs.contains(message), "{theirs}");
    assert!(error.to_string().contains(message), "{error}");
}
