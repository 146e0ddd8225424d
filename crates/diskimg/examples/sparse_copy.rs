//! Copies the disk in an image to a device, or to a file that exists, and writes only what is not
//! zeros there already:
//!
//! ```text
//! cargo run --example sparse_copy -- disk.qcow2 /dev/sdx
//! ```
//!
//! `Convert::run_existing` does this with several threads; this shows how a disk is read in parts
//! whose zeros take no time, however large it is.

#![allow(clippy::print_stdout)]

use diskimg::{Fetcher, Image, Slice};
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [image, device] = &args[..] else { return Err("usage: sparse_copy IMAGE DEVICE".into()) };
    let written = run(Path::new(image), Path::new(device))?;
    println!("{written} bytes written");
    Ok(())
}

/// Copies the disk and returns how many bytes were written.
pub fn run(image: &Path, device: &Path) -> Result<u64, Box<dyn std::error::Error>> {
    let image = Image::open(image)?;
    let mut device = OpenOptions::new().read(true).write(true).open(device)?;
    let room = device.seek(SeekFrom::End(0))?;
    if room < image.size() {
        return Err(format!("the disk has {} bytes, the device {room}", image.size()).into());
    }

    let mut written = 0;
    let mut at = 0;
    let (mut fetcher, mut buffer) = (Fetcher::default(), Vec::new());
    for slice in image.slices(0..image.size())? {
        let slice = slice?;
        let len = slice.len();
        match slice {
            // Not read from the image, but the device may have other bytes there.
            Slice::Zeros(len) => written += write_zeros(&mut device, at, len)?,
            Slice::Bytes(bytes) => {
                device.seek(SeekFrom::Start(at))?;
                device.write_all(bytes)?;
                written += len;
            }
            // At most 2 MiB, which are read and, if they are compressed, decoded.
            Slice::Fetch(extent) => {
                buffer.resize(len as usize, 0);
                fetcher.fetch(&image, &extent, &mut buffer)?;
                device.seek(SeekFrom::Start(at))?;
                device.write_all(&buffer)?;
                written += len;
            }
        }
        at += len;
    }
    device.sync_all()?;
    Ok(written)
}

/// Writes zeros where the device has other bytes. Returns how many were written.
fn write_zeros(
    device: &mut (impl Read + Write + Seek),
    start: u64,
    len: u64,
) -> std::io::Result<u64> {
    const CHUNK: u64 = 1 << 20;
    let mut written = 0;
    let mut buffer = vec![0; len.min(CHUNK) as usize];
    for at in (start..start + len).step_by(CHUNK as usize) {
        let part = &mut buffer[..(start + len - at).min(CHUNK) as usize];
        device.seek(SeekFrom::Start(at))?;
        device.read_exact(part)?;
        if part.iter().any(|byte| *byte != 0) {
            part.fill(0);
            device.seek(SeekFrom::Start(at))?;
            device.write_all(part)?;
            written += part.len() as u64;
        }
    }
    Ok(written)
}
