//! Tests of QED.

mod chains;
mod in_place;
mod matrix;
mod reading;
mod resizing;

use diskimg::Image;
use diskimg::check::Finding;
use diskimg_testkit::qed::Qed;
use std::path::{Path, PathBuf};

/// Returns all guest bytes and runs the conformance checks.
fn our_bytes(path: &Path) -> Vec<u8> {
    let image = crate::verified::open(&diskimg::OpenOptions::new(), path);
    let mut bytes = vec![1; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Writes an image to `name` in `dir`.
fn write(dir: &Path, name: &str, image: &Qed) -> PathBuf {
    write_bytes(dir, name, &image.build())
}

fn write_bytes(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn findings(path: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    Image::open(path).unwrap().check(&mut |finding| found.push(finding)).unwrap();
    found
}

fn assert_consistent(path: &Path) {
    assert_eq!(findings(path), []);
}
