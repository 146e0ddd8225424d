//! Lists the files of an ISO image, which may be within a qcow2 or another disk image:
//!
//! ```text
//! cargo run --example list_iso -- debian.iso
//! ```

#![allow(clippy::print_stdout)]

use diskimg::iso::{IsoImage, IsoOptions};
use diskimg::{Image, printable};
use std::path::Path;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file] = &args[..] else { return Err("usage: list_iso FILE".into()) };
    print!("{}", run(Path::new(file))?);
    Ok(())
}

/// Returns one line for each file and directory.
pub fn run(file: &Path) -> Result<String, diskimg::Error> {
    // The disk is the source: the file system does not know how it is stored.
    let disk = Image::open(file)?;
    let iso = IsoImage::open(Arc::new(disk), &IsoOptions::default())?;
    let mut lines = format!("{} ({})\n", iso.info()?.label, iso.namespace());
    for found in iso.walk() {
        // Names are bytes that the image's author has chosen: a terminal would interpret them.
        let found = found?;
        let path = String::from_utf8_lossy(&found.path);
        let slash = if found.node.is_dir() { "/" } else { "" };
        lines += &format!("{:>12} {}{slash}\n", found.node.size, printable(&path));
    }
    Ok(lines)
}
