//! Writing back dirty pages early: sync_file_range(2). rustix has no interface for it.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Starts to write back the file's dirty pages, without waiting for them.
pub(in crate::storage::os) fn start_writeback(file: &File) {
    // A length of 0 stands for all bytes up to the end of the file.
    let (offset, len) = (0, 0);
    // SAFETY: the call takes no pointers, and the descriptor is open, because `file` is borrowed.
    #[allow(unsafe_code)]
    let outcome = unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE)
    };
    // A hint: file systems without it write when the file is flushed, which reports what failed.
    let _ = outcome;
}
