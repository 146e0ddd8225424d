//! Tests of EWF.

mod damage;
mod programs;
mod reading;
mod segments;

use diskimg::{Image, OpenOptions};
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

/// Returns the findings of the check.
fn findings(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let image = Image::open(path).unwrap();
    image.check(&mut |finding| found.push(finding.message)).unwrap();
    found
}

/// Writes segments as `NAME.E01`, `NAME.E02` and so on, and returns the path of the first.
fn write(dir: &Path, name: &str, files: &[Vec<u8>]) -> PathBuf {
    for (number, bytes) in (1..).zip(files) {
        write_bytes(dir, &format!("{name}.E{number:02}"), bytes);
    }
    dir.join(format!("{name}.E01"))
}

fn write_bytes(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Bytes of which some chunks compress well, and others do not.
fn sample(len: usize) -> Vec<u8> {
    let noise = diskimg_testkit::disk::noise(7, len);
    let byte = |(at, noise): (usize, u8)| match at >> 13 & 3 {
        0 => 0,
        1 => noise,
        _ => (at / 100) as u8,
    };
    noise.into_iter().enumerate().map(byte).collect()
}
