//! Every kind of VHDX, read by every VHDX reader.

use super::our_bytes;
use diskimg::{Convert, Format, Image, Options};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{self, run};
use std::path::Path;

/// Create options, all of which qemu-img has as well.
const KINDS: [&str; 6] = [
    "subformat=dynamic",
    "subformat=fixed",
    "block_size=1M",
    "block_size=2M,block_state_zero=off",
    "block_size=256M,log_size=3M",
    "subformat=fixed,block_size=1M,log_size=2M",
];

/// Disks with boundary cases.
fn contents() -> [(&'static str, Disk); 6] {
    let run = |at, len, fill| Run { at, len, fill };
    [
        ("empty", Disk { size: 3 << 20, runs: vec![] }),
        ("one sector", Disk { size: 512, runs: vec![run(0, 512, Fill::Noise(1))] }),
        ("a full block", Disk { size: 8 << 20, runs: vec![run(0, 8 << 20, Fill::Noise(2))] }),
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
            Disk { size: (8 << 20) + 512, runs: vec![run(8 << 20, 512, Fill::Noise(6))] },
        ),
        (
            "a first block of zeros",
            Disk { size: 20 << 20, runs: vec![run(12 << 20, 70_000, Fill::Words(7))] },
        ),
    ]
}

/// 7-Zip refuses disks with an odd number of sectors, those of qemu-img as well.
fn assert_read_by_all(kind: &str, content: &str, image: &Path, disk: &Disk) {
    for oracle in Oracle::ALL {
        let verdict = oracle.compare("vhdx", image, disk);
        let expected = match oracle {
            Oracle::SevenZip if !disk.size.is_multiple_of(1024) => {
                matches!(verdict, Verdict::Refuses(_))
            }
            _ => matches!(verdict, Verdict::Same | Verdict::NotInstalled),
        };
        assert!(expected, "{kind}, {content}: {}: {verdict}", oracle.name());
    }
}

#[test]
fn all_readers_read_what_diskimg_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.vhdx"));
    for (content, disk) in contents() {
        disk.write(&raw);
        // The last kinds with few contents: the readers in Python take long.
        let kinds = if content == "holes in blocks, zeros" { &KINDS[..] } else { &KINDS[..3] };
        for kind in kinds {
            Convert::new(Image::open(&raw).unwrap())
                .format(Format::Vhdx)
                .options(Options::parse(kind).unwrap())
                .verify(true)
                .run(&out)
                .unwrap();
            assert_read_by_all(kind, content, &out, &disk);
            assert_eq!(our_bytes(&out), disk.bytes(), "{kind}, {content}");
            let image = Image::open(&out).unwrap();
            image.check(&mut |finding| panic!("{kind}, {content}: {}", finding.message)).unwrap();
            run("qemu-img", ["check", "-f", "vhdx", out.to_str().unwrap()]);
        }
    }
}

#[test]
fn diskimg_reads_what_qemu_img_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.vhdx"));
    for (content, disk) in contents() {
        disk.write(&raw);
        let paths = [raw.to_str().unwrap(), out.to_str().unwrap()];
        for kind in KINDS.into_iter().filter(|kind| !kind.contains("block_state_zero=off")) {
            let args = ["convert", "-f", "raw", "-O", "vhdx", "-o", kind];
            run("qemu-img", args.iter().chain(&paths));
            assert_eq!(our_bytes(&out), disk.bytes(), "{kind}, {content}");
            let image = Image::open(&out).unwrap();
            image.check(&mut |finding| panic!("{kind}, {content}: {}", finding.message)).unwrap();
        }
    }
}

/// A chunk of 2^23 sectors has 4 GiB. After its blocks, the table has an entry for a bitmap.
#[test]
fn blocks_on_both_sides_of_a_chunks_end_are_read_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("disk.vhdx"));
    let run = |at, len, byte| Run { at, len, fill: Fill::Byte(byte) };
    let runs = vec![
        run((4 << 30) - 4096, 4096, 1),
        run(4 << 30, 4096, 2),
        run((8 << 30) - 512, 512, 3),
        run((8 << 30) + (2 << 20), 1 << 20, 4),
    ];
    let disk = Disk { size: (8 << 30) + (3 << 20), runs };
    disk.write(&raw);
    for kind in ["block_size=1M", "block_size=32M", "subformat=fixed,block_size=64M"] {
        Convert::new(Image::open(&raw).unwrap())
            .format(Format::Vhdx)
            .options(Options::parse(kind).unwrap())
            .run(&out)
            .unwrap();
        let image = Image::open(&out).unwrap();
        let mut reads = Vec::new();
        for Run { at, len, .. } in disk.runs.iter().cloned() {
            for at in
                [at - 512, at, at + len - 512, at + len].into_iter().filter(|&a| a < disk.size)
            {
                let (mut ours, mut expected) = ([9; 512], [9; 512]);
                image.read_at(&mut ours, at).unwrap();
                disk.read_at(&mut expected, at);
                assert_eq!(ours, expected, "{kind}: {at}");
                reads.extend(["-c".to_owned(), format!("read -P {} {at} 512", expected[0])]);
            }
        }
        let args = ["-r", "-f", "vhdx"].map(str::to_owned).into_iter().chain(reads);
        let text = tool::run("qemu-io", args.chain([out.to_str().unwrap().to_owned()]));
        assert!(text.contains("read 512/512") && !text.contains("failed"), "{kind}: {text}");
    }
}

/// The same input gives the same bytes, whatever the number of threads.
#[test]
fn the_output_is_reproducible() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    contents()[3].1.write(&raw);
    for kind in &KINDS[..3] {
        let outputs = [1, 2, 4].map(|threads| {
            let out = dir.path().join("disk.vhdx");
            Convert::new(Image::open(&raw).unwrap())
                .format(Format::Vhdx)
                .options(Options::parse(kind).unwrap())
                .threads(threads)
                .run(&out)
                .unwrap();
            std::fs::read(out).unwrap()
        });
        assert!(outputs[0] == outputs[1] && outputs[1] == outputs[2], "{kind}");
    }
}
