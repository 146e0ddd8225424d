//! Every kind of VHD, read by every VHD reader.

use super::our_bytes;
use diskimg::{Convert, Format, Image, Options};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{assert_qemu_same, run};
use std::path::Path;

/// Create options for disks of exactly the source's size, and the same in qemu-img's words.
const KINDS: [&str; 2] = ["subformat=dynamic,force_size=on", "subformat=fixed,force_size=on"];

/// Disks with boundary cases.
fn contents() -> [(&'static str, Disk); 6] {
    let run = |at, len, fill| Run { at, len, fill };
    [
        ("empty", Disk { size: 3 << 20, runs: vec![] }),
        ("one sector", Disk { size: 512, runs: vec![run(0, 512, Fill::Noise(1))] }),
        ("a full block", Disk { size: 2 << 20, runs: vec![run(0, 2 << 20, Fill::Noise(2))] }),
        (
            "holes in blocks, zeros",
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
            "a last block of one sector",
            Disk { size: (4 << 20) + 512, runs: vec![run(4 << 20, 512, Fill::Noise(6))] },
        ),
        (
            // Its geometry is the disk's exact size.
            "a size with a geometry",
            Disk { size: 963 * 8 * 17 * 512, runs: vec![run(60 << 20, 70_000, Fill::Words(7))] },
        ),
    ]
}

fn assert_read_by_all(kind: &str, content: &str, image: &Path, disk: &Disk) {
    for oracle in Oracle::ALL {
        let verdict = oracle.compare("vpc", image, disk);
        let expected = matches!(verdict, Verdict::Same | Verdict::NotInstalled);
        assert!(expected, "{kind}, {content}: {}: {verdict}", oracle.name());
    }
}

#[test]
fn all_readers_read_what_diskimg_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.vhd"));
    for (content, disk) in contents() {
        disk.write(&raw);
        for kind in KINDS {
            Convert::new(Image::open(&raw).unwrap())
                .format(Format::Vhd)
                .options(Options::parse(kind).unwrap())
                .verify(true)
                .run(&out)
                .unwrap();
            assert_read_by_all(kind, content, &out, &disk);
            assert_eq!(our_bytes(&out), disk.bytes(), "{kind}, {content}");
            let image = Image::open(&out).unwrap();
            image.check(&mut |finding| panic!("{kind}, {content}: {}", finding.message)).unwrap();
        }
    }
}

#[test]
fn diskimg_reads_what_qemu_img_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.vhd"));
    for (content, disk) in contents() {
        disk.write(&raw);
        let paths = [raw.to_str().unwrap(), out.to_str().unwrap()];
        for kind in KINDS {
            let args = ["convert", "-f", "raw", "-O", "vpc", "-o", kind];
            run("qemu-img", args.iter().chain(&paths));
            assert_eq!(our_bytes(&out), disk.bytes(), "{kind}, {content}");
        }
    }
}

/// By default, qemu-img makes a disk larger, so that its size has a geometry. So does the command,
/// if it is called as qemu-img.
#[test]
fn without_force_size_the_size_is_that_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, ours, theirs) =
        (dir.path().join("disk.raw"), dir.path().join("ours.vhd"), dir.path().join("theirs.vhd"));
    for size in [512, 1 << 20, (100 << 20) + 512, 8 << 30, 126 << 30, 200 << 30] {
        std::fs::File::create(&raw).unwrap().set_len(size).unwrap();
        for kind in ["dynamic", "fixed"] {
            let paths = [raw.to_str().unwrap(), theirs.to_str().unwrap()];
            let subformat = format!("subformat={kind}");
            let args = ["convert", "-f", "raw", "-O", "vpc", "-o", &subformat];
            run("qemu-img", args.iter().chain(&paths));
            Convert::new(Image::open(&raw).unwrap())
                .format(Format::Vhd)
                .options(Options::parse(&format!("{subformat},force_size=off")).unwrap())
                .run(&ours)
                .unwrap();
            let size_of = |path| Image::open(path).unwrap().size();
            assert_eq!(size_of(&ours), size_of(&theirs), "{size}, {kind}");
            assert_qemu_same(&ours, "vpc", &theirs, "vpc");
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
            let out = dir.path().join("disk.vhd");
            Convert::new(Image::open(&raw).unwrap())
                .format(Format::Vhd)
                .options(Options::parse(kind).unwrap())
                .threads(threads)
                .run(&out)
                .unwrap();
            std::fs::read(out).unwrap()
        });
        assert!(outputs[0] == outputs[1] && outputs[1] == outputs[2], "{kind}");
    }
}
