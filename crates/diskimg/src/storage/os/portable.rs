//! Other systems: no optional feature is supported.

use super::{FileId, FileLock, Segment};
use crate::storage::hints::AllocationHints;
use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

/// The canonical path. If the file is replaced before it is opened, the replacement is opened.
#[derive(Debug)]
pub(super) struct Located(PathBuf);

impl Located {
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        path.canonicalize().map(Self)
    }

    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        std::fs::metadata(&self.0)
    }

    pub(super) fn real_path(&self) -> io::Result<PathBuf> {
        Ok(self.0.clone())
    }

    pub(super) fn is_stored(&self) -> io::Result<bool> {
        Ok(true)
    }

    pub(super) fn open(&self) -> io::Result<File> {
        File::open(&self.0)
    }
}

pub(super) fn examine(path: &Path) -> io::Result<(Metadata, Option<PathBuf>)> {
    let found = std::fs::symlink_metadata(path)?;
    let target = found.is_symlink().then(|| std::fs::read_link(path)).transpose()?;
    Ok((found, target))
}

pub(super) fn real_path(_: &File) -> Option<PathBuf> {
    None
}

pub(super) fn segment_at(_: &File, _: u64, _: u64) -> io::Result<Option<Segment>> {
    Ok(None)
}

pub(super) fn punch_hole(_: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn preallocate(_: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn set_allocation_hints(_: &File, _: AllocationHints) {}

pub(super) fn open_direct(_: &File, _: bool) -> io::Result<File> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system does not support direct I/O"))
}

pub(super) fn write_behind(_: &File) -> io::Result<()> {
    Ok(())
}

pub(super) fn total_memory() -> Option<u64> {
    None
}

pub(super) fn block_size(_: &File) -> io::Result<Option<u64>> {
    Ok(None)
}

pub(super) fn reflink(_: &File, _: u64, _: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn copy_in_kernel(_: &File, _: u64, _: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn try_lock_file(_: &File) -> FileLock {
    FileLock::Unknown
}

pub(super) fn try_flock(_: &File) -> FileLock {
    FileLock::Unknown
}

pub(super) fn unlock_file(_: &File) {}

pub(super) fn address_space_limit() -> Option<u64> {
    None
}

pub(super) fn lock_byte(_file: &File, _offset: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn unlock_byte(_file: &File, _offset: u64) -> io::Result<()> {
    Ok(())
}

pub(super) fn is_byte_locked(_file: &File, _offset: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn is_mount_point(_path: &Path) -> bool {
    false
}

pub(super) fn keeps_names(_directory: &Path, _file: &Metadata) -> Option<&'static str> {
    None
}

pub(super) fn free_space(_path: &Path) -> Option<u64> {
    None
}

pub(super) fn freeable_bytes(_file: &File) -> u64 {
    0
}

pub(super) fn copy_attributes(_old: &File, _new: &File) -> io::Result<Option<String>> {
    Ok(None)
}

pub(super) fn is_stored_on(_device: FileId, _file: FileId) -> bool {
    false
}

pub(super) fn note_block_devices() {}
