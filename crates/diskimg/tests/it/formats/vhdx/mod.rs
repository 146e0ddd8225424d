//! Tests of VHDX.

mod differencing;
mod hostile;
mod in_place;
mod log;
mod matrix;
mod reading;
mod resizing;
mod writing;

use diskimg::{Image, OpenOptions};
use diskimg_testkit::vhdx::Vhdx;
use std::path::{Path, PathBuf};

/// Guest bytes of a block of the images here.
const BLOCK: usize = 1 << 20;

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

/// Writes an image to `name` in `dir`.
fn write(dir: &Path, name: &str, image: &Vhdx) -> PathBuf {
    write_bytes(dir, name, &image.build())
}

fn write_bytes(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The error for reading the whole disk.
fn error(path: &Path) -> diskimg::Error {
    let read = Image::open(path).and_then(|image| {
        for extent in image.extents(0..image.size())? {
            let extent = extent?;
            let mut bytes = vec![0; extent.len().min(1 << 20) as usize];
            image.read_at(&mut bytes, extent.guest.start)?;
        }
        Ok(())
    });
    read.unwrap_err()
}

fn open_error(path: &Path) -> diskimg::Error {
    Image::open(path).unwrap_err()
}

fn warnings(path: &Path) -> String {
    Image::open(path).unwrap().warnings().collect::<Vec<_>>().join("\n")
}

/// Returns the findings of a check, which damage that only affects a part of the image does not
/// prevent.
fn findings(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let image = OpenOptions::new().metadata_only(true).open(path).unwrap();
    image.check(&mut |finding| found.push(finding.message)).unwrap();
    found
}

/// Returns a disk of these blocks: each is filled with a byte, `None` are zeros.
fn blocks(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|&byte| vec![byte; BLOCK]).collect()
}
