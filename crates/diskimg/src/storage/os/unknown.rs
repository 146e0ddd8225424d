//! Unix systems other than Linux and macOS: nothing optional is supported.

pub(super) use super::absent::{
    Exclusion, address_space_limit, block_size, can_reflink, copy_attributes, copy_in_kernel,
    exclude_writers, free_space, freeable_bytes, is_byte_locked, is_mount_point, is_stored_on,
    keeps_names, lock_byte, lock_holder, make_sparse, note_block_devices, open_direct, preallocate,
    punch_hole, reflink, segment_at, set_allocation_hints, start_writeback, total_memory,
    try_lock_file, try_lock_shared_file, unlock_byte, unlock_file, write_behind,
};
pub(super) use super::by_path::{Located, examine};
pub(super) use super::unix::*;

use std::fs::File;
use std::io::{self, Seek};
use std::path::PathBuf;

pub(super) fn device_len(mut file: &File) -> io::Result<u64> {
    file.seek(io::SeekFrom::End(0))
}

pub(super) fn real_path(_: &File) -> Option<PathBuf> {
    None
}
