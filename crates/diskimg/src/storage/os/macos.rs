//! macOS: `SEEK_DATA`, `SEEK_HOLE`, `F_PUNCHHOLE`, `F_PREALLOCATE`, `F_NOCACHE`, `F_GETPATH`, flock.
//!
//! This code was compiled and checked by clippy, but has not run.

pub(super) use super::absent::{
    Exclusion, address_space_limit, block_size, can_reflink, copy_attributes, copy_in_kernel,
    exclude_writers, freeable_bytes, is_byte_locked, is_mount_point, is_stored_on, keeps_names,
    lock_byte, lock_holder, make_sparse, note_block_devices, reflink, set_allocation_hints,
    start_writeback, unlock_byte, write_behind,
};
pub(super) use super::by_path::{Located, examine};
pub(super) use super::unix::*;

use super::{FileLock, Segment};
use rustix::fs::{FlockOperation, SeekFrom, flock, fstatfs, seek, statvfs};
use rustix::io::{Errno, retry_on_intr};
use rustix::ioctl::{Getter, Opcode, ioctl, opcode};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub(super) fn real_path(file: &File) -> Option<PathBuf> {
    let path = rustix::fs::getpath(file).ok()?;
    Some(OsStr::from_bytes(path.to_bytes()).into())
}

pub(super) fn segment_at(file: &File, offset: u64, len: u64) -> io::Result<Option<Segment>> {
    // lseek(2): SEEK_DATA past the last data fails with ENXIO.
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) if data > offset => Ok(Some(Segment { end: data.min(len), hole: true })),
        Ok(_) => match seek(file, SeekFrom::Hole(offset)) {
            Ok(hole) if hole > offset => Ok(Some(Segment { end: hole.min(len), hole: false })),
            _ => Ok(None),
        },
        Err(Errno::NXIO) if file.metadata()?.len() < len => {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was truncated while it was read"))
        }
        Err(Errno::NXIO) => Ok(Some(Segment { end: len, hole: true })),
        // HFS+ and network file systems report no holes.
        Err(Errno::INVAL | Errno::NOTTY | Errno::NOTSUP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    let (Ok(start), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Ok(false);
    };
    let range = libc::fpunchhole_t { fp_flags: 0, reserved: 0, fp_offset: start, fp_length: len };
    // SAFETY: F_PUNCHHOLE reads one `fpunchhole_t`, which is valid during the call. The descriptor
    // is open, because `file` is borrowed.
    #[allow(unsafe_code)]
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_PUNCHHOLE, &raw const range) };
    supported(outcome)
}

pub(super) fn preallocate(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    let (old, new) = (file.metadata()?.len(), offset.saturating_add(len));
    // F_PREALLOCATE reserves space after the end of the file only. Holes before it need it, too.
    if offset > old || new <= old {
        return Ok(false);
    }
    let Ok(added) = i64::try_from(new - old) else { return Ok(false) };
    let mut request = libc::fstore_t {
        fst_flags: libc::F_ALLOCATEALL,
        fst_posmode: libc::F_PEOFPOSMODE,
        fst_offset: 0,
        fst_length: added,
        fst_bytesalloc: 0,
    };
    // SAFETY: F_PREALLOCATE reads and writes one `fstore_t`, which is valid during the call. The
    // descriptor is open, because `file` is borrowed.
    #[allow(unsafe_code)]
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_PREALLOCATE, &raw mut request) };
    if !supported(outcome)? {
        return Ok(false);
    }
    file.set_len(new)?;
    Ok(true)
}

/// Returns false if fcntl(2) failed because the file system does not support the request.
fn supported(outcome: libc::c_int) -> io::Result<bool> {
    if outcome != -1 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOTSUP | libc::ENOTTY | libc::ENOSYS) => Ok(false),
        _ => Err(error),
    }
}

pub(super) fn open_direct(file: &File, write: bool) -> io::Result<File> {
    let path = real_path(file).ok_or(io::ErrorKind::Unsupported)?;
    let opened = OpenOptions::new().read(!write).write(write).open(path)?;
    if identity(&opened) != identity(file) {
        return Err(io::Error::other("it was replaced while it was being opened"));
    }
    rustix::fs::fcntl_nocache(&opened, true)?;
    Ok(opened)
}

pub(super) fn total_memory() -> Option<u64> {
    // SAFETY: sysconf(3) takes and returns integers.
    #[allow(unsafe_code)]
    let [pages, size] =
        [libc::_SC_PHYS_PAGES, libc::_SC_PAGESIZE].map(|name| unsafe { libc::sysconf(name) });
    u64::try_from(pages).ok()?.checked_mul(u64::try_from(size).ok()?)
}

pub(super) fn free_space(path: &Path) -> Option<u64> {
    let found = statvfs(path).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

pub(super) fn try_lock_file(file: &File) -> FileLock {
    /// `MNT_LOCAL` of statfs(2): all processes that can open a file see its flock(2).
    const LOCAL: u32 = 0x1000;
    if !retry_on_intr(|| fstatfs(file)).is_ok_and(|found| found.f_flags & LOCAL != 0) {
        return FileLock::Unknown;
    }
    try_lock_shared_file(file)
}

pub(super) fn try_lock_shared_file(file: &File) -> FileLock {
    match retry_on_intr(|| flock(file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => FileLock::Ours,
        Err(Errno::WOULDBLOCK) => FileLock::HeldByOther,
        Err(_) => FileLock::Unknown,
    }
}

pub(super) fn unlock_file(file: &File) {
    // It can only fail if the file is not locked.
    let _ = retry_on_intr(|| flock(file, FlockOperation::Unlock));
}

/// Returns the length of a block device (`/dev/disk2`), at whose end lseek(2) returns 0.
pub(super) fn device_len(file: &File) -> io::Result<u64> {
    /// `DKIOCGETBLOCKSIZE` and `DKIOCGETBLOCKCOUNT` of sys/disk.h.
    const SIZE: Opcode = opcode::read::<u32>(b'd', 24);
    const COUNT: Opcode = opcode::read::<u64>(b'd', 25);
    // SAFETY: DKIOCGETBLOCKSIZE writes one `uint32_t`.
    #[allow(unsafe_code)]
    let size = unsafe { ioctl(file, Getter::<SIZE, u32>::new()) }?;
    // SAFETY: DKIOCGETBLOCKCOUNT writes one `uint64_t`.
    #[allow(unsafe_code)]
    let count = unsafe { ioctl(file, Getter::<COUNT, u64>::new()) }?;
    count.checked_mul(size.into()).ok_or_else(|| io::Error::other("its size is not valid"))
}
