//! The first block of a new raw disk.

use crate::output::{Console, Program};
use diskimg::Format;
use diskimg::storage::source::{FileSource, Source};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Length of the block in bytes.
const BLOCK: usize = 4096;

/// Length in bytes of what is allocated of a smaller disk.
const SECTOR: usize = 512;

/// Allocates the first block of a new raw file, as qemu-img does: QEMU finds out the block size of
/// the storage by reading it with direct I/O, which tells nothing if there is a hole. Does nothing
/// under diskimg's own name. Errors are ignored.
pub(super) fn allocate(path: &Path, format: Format, console: &Console) {
    if console.program() == Program::QemuImg && format == Format::Raw {
        let _ = allocate_hole(path);
    }
}

fn allocate_hole(path: &Path) -> io::Result<()> {
    if !std::fs::metadata(path)?.is_file() {
        return Ok(());
    }
    let source = FileSource::open(path)?;
    let len = if source.len() < BLOCK as u64 { SECTOR } else { BLOCK };
    if source.len() < len as u64 || !source.segment_at(0).is_ok_and(|segment| segment.hole) {
        return Ok(());
    }
    File::options().write(true).open(path)?.write_all(&[0; BLOCK][..len])
}
