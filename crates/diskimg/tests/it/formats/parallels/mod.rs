//! Tests of Parallels images and bundles.

mod bitmaps;
mod bundles;
mod in_place;
mod matrix;
mod reading;
mod resizing;

use diskimg::{Error, Image, OpenOptions};
use diskimg_testkit::parallels::Parallels;
use std::path::{Path, PathBuf};

/// Returns all guest bytes and runs the conformance checks.
fn our_bytes(path: &Path) -> Vec<u8> {
    bytes_with(&OpenOptions::new(), path)
}

fn bytes_with(options: &OpenOptions, path: &Path) -> Vec<u8> {
    let image = crate::verified::open(options, path);
    let mut bytes = vec![1; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// The error for reading the whole disk.
fn error(path: &Path) -> Error {
    let read = Image::open(path).and_then(|image| {
        let mut bytes = vec![0; image.size().min(1 << 24) as usize];
        image.read_at(&mut bytes, 0)
    });
    read.unwrap_err()
}

fn findings(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    Image::open(path).unwrap().check(&mut |finding| found.push(finding.message)).unwrap();
    found
}

/// Writes an image to `name` in `dir`.
fn write(dir: &Path, name: &str, image: &Parallels) -> PathBuf {
    write_bytes(dir, name, &image.build())
}

fn write_bytes(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}
