//! Two disks of different lengths, side by side: `compare`, and overlays that are longer than their
//! backing file. The reference is qemu-img.

use diskimg::{Backing, Compare, Comparison, Convert, Format, OpenOptions};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::tool::{assert_qemu_check, assert_qemu_same, sample, try_run};
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// Lengths of the shorter disk: around sectors, transfers, clusters and windows.
const LENGTHS: [u64; 9] =
    [1, 512, 1000, 65_536, 524_289, 2 * MIB + 512, 64 * MIB + 1, 128 * MIB, 128 * MIB + 512];

fn raw(path: &Path) -> diskimg::Image {
    OpenOptions::new().format(Format::Raw).open(path).unwrap()
}

/// Writes a disk of zeros with a few bytes at `data`, and nothing else.
fn write(path: PathBuf, size: u64, data: &[u64]) -> PathBuf {
    let run = |&at: &u64| Run { at, len: 700, fill: Fill::Byte(9) };
    Disk { size, runs: data.iter().map(run).collect() }.write(&path);
    path
}

#[test]
fn a_difference_beyond_the_end_of_the_shorter_disk_is_found() {
    let dir = tempfile::tempdir().unwrap();
    for (short, extra) in lengths() {
        let a = write(dir.path().join("a"), short, &[]);
        for tail in [None, Some(short), Some(short + extra / 2), Some(short + extra - 1)] {
            let b = write(dir.path().join("b"), short + extra, tail.as_slice());
            let expected = match tail {
                Some(offset) => Comparison::ContentMismatch { offset },
                None => Comparison::Identical { size_mismatch: true },
            };
            for (first, second) in [(&a, &b), (&b, &a)] {
                let found = Compare::new(&raw(first), &raw(second)).threads(2).run().unwrap();
                assert_eq!(found, expected, "{short} and {extra} more, data at {tail:?}");
                let files = [first.to_str().unwrap(), second.to_str().unwrap()];
                let qemu = try_run(
                    "qemu-img",
                    [&["compare", "-f", "raw", "-F", "raw"], &files[..]].concat(),
                );
                assert_eq!(qemu.status.code(), Some(i32::from(tail.is_some())), "{short} {tail:?}");
            }
        }
    }
}

#[test]
fn an_overlay_has_the_data_beyond_the_end_of_its_backing_file() {
    let dir = tempfile::tempdir().unwrap();
    for (short, extra) in lengths() {
        let base = write(dir.path().join("base"), short, &[0]);
        let size = short + extra;
        let disk = write(dir.path().join("disk"), size, &[0, short, short + extra / 2]);
        let overlay = dir.path().join("overlay.qcow2");
        Convert::new(raw(&disk))
            .format(Format::Qcow2)
            .backing(Backing::new(base.to_str().unwrap()).with_format("raw"))
            .run(&overlay)
            .unwrap();
        assert_qemu_check(&overlay, "qcow2");
        // The size of a qcow2 image is in whole sectors.
        std::fs::File::options()
            .write(true)
            .open(&disk)
            .and_then(|file| file.set_len(size.next_multiple_of(512)))
            .unwrap();
        assert_qemu_same(&disk, "raw", &overlay, "qcow2");
    }
}

/// Returns pairs of the shorter length and what the longer one has more.
fn lengths() -> impl Iterator<Item = (u64, u64)> {
    let extra = [512, 70_000, 3 * MIB, 200 * MIB];
    let pairs = LENGTHS.into_iter().flat_map(move |short| extra.map(|extra| (short, extra)));
    sample(pairs, 3)
}
