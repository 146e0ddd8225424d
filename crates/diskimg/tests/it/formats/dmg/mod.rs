//! Tests of DMG.

mod codecs;
mod damage;
mod digests;
mod hdiutil;
mod layout;

use diskimg::check::{CheckReport, Finding};
use diskimg::{Check, Image, OpenOptions};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::dmg::Dmg;
use diskimg_testkit::oracles::{Oracle, Verdict};
use std::path::{Path, PathBuf};

/// Returns all guest bytes and runs the conformance checks.
fn our_bytes(path: &Path) -> Vec<u8> {
    let image = crate::verified::open(&OpenOptions::new(), path);
    let mut bytes = vec![1; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// The error for reading the whole disk.
fn error(path: &Path) -> diskimg::Error {
    let read = Image::open(path).and_then(|image| {
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(&mut bytes, 0)
    });
    read.unwrap_err()
}

/// Returns the counts and the findings of the check, which verifies checksums.
fn check(path: &Path) -> (CheckReport, Vec<Finding>) {
    let mut found = Vec::new();
    let image = Image::open(path).unwrap();
    let report = Check::new(&image).run(&mut |finding| found.push(finding)).unwrap().unwrap();
    (report, found)
}

/// Returns the messages of the check's findings.
fn findings(path: &Path) -> Vec<String> {
    check(path).1.into_iter().map(|finding| finding.message).collect()
}

/// Writes an image to `name` in `dir`.
fn write(dir: &Path, name: &str, image: &Dmg) -> PathBuf {
    write_bytes(dir, name, &image.build())
}

fn write_bytes(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// 100 sectors with data, zeros and noise.
fn sample() -> Disk {
    let run = |at: u64, len, fill| Run { at: at * 512, len, fill };
    Disk {
        size: 100 * 512,
        runs: vec![
            run(0, 5000, Fill::Words(1)),
            run(20, 20 * 512, Fill::Noise(2)),
            run(60, 512, Fill::Byte(7)),
            run(97, 3 * 512, Fill::Words(3)),
        ],
    }
}

#[track_caller]
fn assert_read_by(oracles: &[Oracle], image: &Path, disk: &Disk) {
    for oracle in oracles {
        let verdict = oracle.compare("dmg", image, disk);
        let expected = matches!(verdict, Verdict::Same | Verdict::NotInstalled);
        assert!(expected, "{}: {verdict}", oracle.name());
    }
}

/// Requires that these readers fail.
#[track_caller]
fn assert_refused_by(oracles: &[Oracle], image: &Path, disk: &Disk) {
    for oracle in oracles {
        let verdict = oracle.compare("dmg", image, disk);
        let expected = matches!(verdict, Verdict::Refuses(_) | Verdict::NotInstalled);
        assert!(expected, "{}: {verdict}", oracle.name());
    }
}

/// Requires that these readers return other bytes.
#[track_caller]
fn assert_misread_by(oracles: &[Oracle], image: &Path, disk: &Disk) {
    for oracle in oracles {
        let verdict = oracle.compare("dmg", image, disk);
        let expected = matches!(verdict, Verdict::Differs(_) | Verdict::NotInstalled);
        assert!(expected, "{}: {verdict}", oracle.name());
    }
}
