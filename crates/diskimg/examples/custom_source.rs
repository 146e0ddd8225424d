//! Reads an image that is stored in pieces (`disk.000`, `disk.001`, …), as object stores and FAT
//! file systems need it, without joining them:
//!
//! ```text
//! split -b 1M -d -a 3 disk.qcow2 disk.
//! cargo run --example custom_source -- disk 1080 2
//! ```
//!
//! Any storage that can be read at an offset can be a `Source`: a database, an HTTP server, a
//! device. What reads images, reads it.

#![allow(clippy::print_stdout)]

use diskimg::storage::source::{Cached, SourceError};
use diskimg::{OpenOptions, Source};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [stem, offset, len] = &args[..] else {
        return Err("usage: custom_source STEM OFFSET LENGTH".into());
    };
    println!("{:x?}", run(Path::new(stem), offset.parse()?, len.parse()?)?);
    Ok(())
}

/// Returns `len` guest bytes at `offset` of the image in the files `stem.000`, `stem.001`, ….
pub fn run(stem: &Path, offset: u64, len: usize) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    // The cache keeps the image's tables, which are read again and again, and not its data. It is
    // of use if requests are slow.
    let source = Arc::new(Cached::new(Arc::new(Pieces::open(stem)?)));
    let image = OpenOptions::new().open_source(source, stem.display().to_string())?;
    let mut bytes = vec![0; len];
    image.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Files that follow each other.
#[derive(Debug)]
struct Pieces {
    /// The files, each with the offset of its first byte. The lock protects the file's position.
    files: Vec<(u64, Mutex<File>)>,
    len: u64,
}

impl Pieces {
    /// Opens `stem.000` and those after it.
    fn open(stem: &Path) -> io::Result<Self> {
        let (mut files, mut len) = (Vec::new(), 0);
        loop {
            match File::open(stem.with_extension(format!("{:03}", files.len()))) {
                Ok(file) => {
                    let start = len;
                    len += file.metadata()?.len();
                    files.push((start, Mutex::new(file)));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && !files.is_empty() => {
                    return Ok(Self { files, len });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Source for Pieces {
    fn len(&self) -> u64 {
        self.len
    }

    /// May be called by several threads at once.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let len = buf.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(SourceError::OutOfRange { offset, len, source_len: self.len });
        }
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let index = self.files.partition_point(|(start, _)| *start <= at) - 1;
            let (start, file) = &self.files[index];
            let end = self.files.get(index + 1).map_or(self.len, |(start, _)| *start);
            let (part, more) = rest.split_at_mut(rest.len().min((end - at) as usize));
            let mut file = file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            file.seek(SeekFrom::Start(at - start)).map_err(SourceError::Storage)?;
            file.read_exact(part).map_err(SourceError::Storage)?;
            at += part.len() as u64;
            rest = more;
        }
        Ok(())
    }
}
