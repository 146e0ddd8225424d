//! Locks on single bytes of a file: "open file description locks", fcntl_locking(2). rustix has no
//! interface for them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Sets a shared lock on a byte. Returns `false` if the file system has no such locks.
pub(in crate::storage::os) fn lock_byte(file: &File, offset: u64) -> io::Result<bool> {
    Ok(fcntl(file, libc::F_OFD_SETLK, libc::F_RDLCK, offset)?.is_some())
}

/// Removes the lock on a byte.
pub(in crate::storage::os) fn unlock_byte(file: &File, offset: u64) -> io::Result<()> {
    fcntl(file, libc::F_OFD_SETLK, libc::F_UNLCK, offset).map(drop)
}

/// Returns true if a byte is locked through another open file.
pub(in crate::storage::os) fn is_byte_locked(file: &File, offset: u64) -> io::Result<bool> {
    // F_OFD_GETLK returns a lock that prevents this one, or changes its type to F_UNLCK.
    let found = fcntl(file, libc::F_OFD_GETLK, libc::F_WRLCK, offset)?;
    Ok(found.is_some_and(|kind| kind != libc::F_UNLCK))
}

/// Calls fcntl(2) with a lock of type `kind` on one byte. Returns the type of the lock after the
/// call, or `None` if the file system has no such locks.
fn fcntl(
    file: &File,
    command: libc::c_int,
    kind: libc::c_int,
    offset: u64,
) -> io::Result<Option<libc::c_int>> {
    let start = libc::off64_t::try_from(offset).map_err(io::Error::other)?;
    loop {
        // SAFETY: `flock64` consists of integers, for which zero is a valid value.
        #[allow(unsafe_code)]
        let mut lock: libc::flock64 = unsafe { std::mem::zeroed() };
        // The constants fit: SEEK_SET and the types are 0, 1 and 2.
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = start;
        lock.l_len = 1;
        // SAFETY: both commands take a pointer to a `struct flock64`, which is valid during the
        // call, and write to nothing else. The descriptor is open, because `file` is borrowed.
        #[allow(unsafe_code)]
        let outcome = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
        if outcome != -1 {
            return Ok(Some(lock.l_type.into()));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // EINVAL: a kernel or file system without these locks; ENOLCK: no lock service (NFS).
            Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOLCK) => return Ok(None),
            _ => return Err(error),
        }
    }
}
