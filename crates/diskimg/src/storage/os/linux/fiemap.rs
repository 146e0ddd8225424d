//! The extents of a file: `FS_IOC_FIEMAP`, Documentation/filesystems/fiemap.rst of Linux.

use rustix::fs::fstatfs;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

/// The part of `struct fiemap` before the extents.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Header {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// Number of extents per call.
const COUNT: usize = 64;

/// `struct fiemap` with room for extents.
#[repr(C)]
#[derive(Clone, Copy)]
struct Map {
    header: Header,
    extents: [Extent; COUNT],
}

/// `FIEMAP_EXTENT_LAST`.
const LAST: u32 = 0x1;

/// `FIEMAP_EXTENT_SHARED`: other files or snapshots use the same blocks.
const SHARED: u32 = 0x2000;

/// `FS_IOC_FIEMAP`. Its number contains the length of the header only.
const FIEMAP: Opcode = opcode::read_write::<Header>(b'f', 11);

/// File systems without this call whose files share no blocks: tmpfs and ramfs.
const UNSHARED: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// Returns the number of bytes that become free if the file is truncated.
pub(in crate::storage::os) fn freeable_bytes(file: &File) -> u64 {
    let Ok(metadata) = file.metadata() else { return 0 };
    let allocated = metadata.blocks().saturating_mul(512);
    match unshared_bytes(file) {
        Ok(bytes) => bytes.min(allocated),
        Err(_) if fstatfs(file).is_ok_and(|f| UNSHARED.contains(&(f.f_type as u32))) => allocated,
        Err(_) => 0,
    }
}

/// Returns the length of all extents that no other file shares.
fn unshared_bytes(file: &File) -> io::Result<u64> {
    let (mut at, mut bytes) = (0, 0_u64);
    loop {
        let found = extents_from(file, at)?;
        let mapped = usize::try_from(found.header.mapped_extents).unwrap_or(COUNT).min(COUNT);
        for extent in &found.extents[..mapped] {
            if extent.flags & SHARED == 0 {
                bytes = bytes.saturating_add(extent.length);
            }
        }
        match found.extents[..mapped].last() {
            Some(last) if last.flags & LAST == 0 => {
                at = last.logical.saturating_add(last.length).max(at.saturating_add(1));
            }
            _ => return Ok(bytes),
        }
    }
}

fn extents_from(file: &File, start: u64) -> io::Result<Map> {
    let header = Header {
        start,
        length: u64::MAX - start,
        extent_count: COUNT as u32,
        ..Default::default()
    };
    let mut map = Map { header, extents: [Extent::default(); COUNT] };
    // SAFETY: FS_IOC_FIEMAP reads and writes a `struct fiemap`, which has the same layout as
    // `Header`, followed by `extent_count` times `struct fiemap_extent`, which has the same layout
    // as `Extent`. `Map` is not larger or smaller than these, and valid for all bytes.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(file, Updater::<FIEMAP, Map>::new(&mut map))?;
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_new_file_frees_what_it_has_allocated() {
        let mut file = tempfile::tempfile().expect("creates");
        file.write_all(&[1; 1 << 20]).expect("writes");
        file.sync_all().expect("flushes");
        let freed = freeable_bytes(&file);
        assert!(freed == 0 || (1 << 20..2 << 20).contains(&freed), "{freed}");
        file.set_len(0).expect("truncates");
        assert_eq!(freeable_bytes(&file), 0);
    }
}
