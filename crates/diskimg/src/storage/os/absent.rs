//! What a system lacks. `macos.rs`, `windows/` and `unknown.rs` import it from here by name, so that
//! the first lines of each say what diskimg does without there.

#![allow(dead_code, reason = "each system lacks something else")]

use super::{FileId, FileLock, Segment};
use crate::storage::hints::AllocationHints;
use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

/// The whole file counts as data.
pub(super) fn segment_at(_: &File, _: u64, _: u64) -> io::Result<Option<Segment>> {
    Ok(None)
}

/// Files have holes where nothing was written.
pub(super) fn make_sparse(_: &File) {}

/// Zeros are written.
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

/// The system decides when it writes back what is cached.
pub(super) fn write_behind(_: &File) -> io::Result<()> {
    Ok(())
}

pub(super) fn start_writeback(_: &File) {}

pub(super) fn total_memory() -> Option<u64> {
    None
}

/// Data is copied instead of shared.
pub(super) fn block_size(_: &File) -> io::Result<Option<u64>> {
    Ok(None)
}

pub(super) fn can_reflink(_: &File, _: &File) -> bool {
    false
}

pub(super) fn reflink(_: &File, _: u64, _: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn copy_in_kernel(_: &File, _: u64, _: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

/// Temporary files of killed processes remain.
pub(super) fn try_lock_file(_: &File) -> FileLock {
    FileLock::Unknown
}

pub(super) fn try_lock_shared_file(_: &File) -> FileLock {
    FileLock::Unknown
}

pub(super) fn unlock_file(_: &File) {}

pub(super) fn lock_byte(_: &File, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn unlock_byte(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}

pub(super) fn is_byte_locked(_: &File, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn lock_holder(_: &File, _: u64) -> Option<super::LockHolder> {
    None
}

/// Other processes are kept from using a file by byte locks, or not at all.
#[derive(Debug)]
pub(super) struct Exclusion;

pub(super) fn exclude_writers(_: &File, _: bool) -> io::Result<Option<Exclusion>> {
    Ok(None)
}

pub(super) fn address_space_limit() -> Option<u64> {
    None
}

pub(super) fn is_mount_point(_: &Path) -> bool {
    false
}

pub(super) fn keeps_names(_: &Path, _: &Metadata) -> Option<&'static str> {
    None
}

pub(super) fn free_space(_: &Path) -> Option<u64> {
    None
}

pub(super) fn freeable_bytes(_: &File) -> u64 {
    0
}

/// A new file has the owner and the access control list that its directory gives it.
pub(super) fn copy_attributes(_: &File, _: &File) -> io::Result<Option<String>> {
    Ok(None)
}

pub(super) fn is_stored_on(_: FileId, _: FileId) -> bool {
    false
}

pub(super) fn note_block_devices() {}
