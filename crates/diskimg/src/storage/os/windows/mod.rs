//! Windows: sparse files, share modes, LockFileEx, file identities.
//!
//! | what | how |
//! |---|---|
//! | holes | files are made sparse when they are created (`FSCTL_SET_SPARSE`); holes are found with `FSCTL_QUERY_ALLOCATED_RANGES` and punched with `FSCTL_SET_ZERO_DATA` |
//! | reads and writes by offset | `seek_read`, `seek_write`: atomic, but they move the file position |
//! | identity | the volume's number and the file's number in it |
//! | locks on temporary files | LockFileEx, on a byte that no file has: these locks prevent reading |
//! | exclusion of writers | share modes, as of QEMU on Windows, which sets no byte locks there |
//! | direct I/O | the file is opened again with `FILE_FLAG_NO_BUFFERING` |
//!
//! Unsafe code is in `calls.rs`; `names.rs` knows which names are not those of files.

mod calls;
mod names;

pub(super) use names::names_device_or_network;
pub(crate) use names::refusal;

pub(super) use super::absent::{
    address_space_limit, block_size, can_reflink, copy_attributes, copy_in_kernel, freeable_bytes,
    is_byte_locked, is_mount_point, is_stored_on, keeps_names, lock_byte, lock_holder,
    note_block_devices, reflink, set_allocation_hints, start_writeback, unlock_byte, write_behind,
};
pub(super) use super::by_path::examine;

use super::{FileId, FileLock, Segment};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::windows::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::windows::io::AsHandle;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_LOCK_VIOLATION, ERROR_SHARING_VIOLATION, ERROR_TOO_MANY_OPEN_FILES,
    GENERIC_READ, GENERIC_WRITE,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_SPARSE_FILE, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_NO_BUFFERING,
    FILE_FLAG_OPEN_REPARSE_POINT, FILE_READ_ATTRIBUTES, FILE_SHARE_DELETE, FILE_SHARE_READ,
    FILE_SHARE_WRITE, FILE_TYPE_CHAR, FILE_TYPE_DISK,
};

const SHARE_ALL: u32 = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

/// The byte that stands for the whole file when it is locked. No file is that long.
const LOCKED_BYTE: u64 = 1 << 62;

/// The byte that is locked by the process that writes an image in place.
const WRITER_BYTE: u64 = LOCKED_BYTE + 1;

/// Returns true if the error has this code of `winerror.h`.
fn has_code(error: &io::Error, code: u32) -> bool {
    error.raw_os_error().is_some_and(|found| found as u32 == code)
}

/// Opens a file or directory for its attributes only, which no share mode prevents.
fn open_attributes(path: &Path, follow: bool) -> io::Result<File> {
    let reparse = if follow { 0 } else { FILE_FLAG_OPEN_REPARSE_POINT };
    OpenOptions::new()
        .access_mode(FILE_READ_ATTRIBUTES)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | reparse)
        .open(path)
}

/// A file that is open for its attributes.
#[derive(Debug)]
pub(super) struct Located {
    handle: File,
    path: PathBuf,
}

impl Located {
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { handle: open_attributes(path, true)?, path: path.to_owned() })
    }

    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        self.handle.metadata()
    }

    pub(super) fn real_path(&self) -> io::Result<PathBuf> {
        calls::final_path(&self.handle).or_else(|_| self.path.canonicalize())
    }

    pub(super) fn is_stored(&self) -> io::Result<bool> {
        Ok(calls::file_type(&self.handle) == FILE_TYPE_DISK)
    }

    /// Opens the file by its path, and checks that it is the one that was looked up.
    pub(super) fn open(&self) -> io::Result<File> {
        let file = File::open(&self.path)?;
        if identity(&file) != identity(&self.handle) {
            return Err(io::Error::other("it was replaced while it was being opened"));
        }
        Ok(file)
    }
}

pub(super) fn real_path(file: &File) -> Option<PathBuf> {
    calls::final_path(file).ok()
}

pub(super) fn identity(file: &File) -> Option<FileId> {
    // File systems without such numbers return zeros.
    let found = calls::file_id(file).ok().filter(|&(_, id)| id != 0);
    if let Some((device, id)) = found {
        // The upper half is zero, except on ReFS.
        let inode = id as u64 ^ ((id >> 64) as u64).rotate_left(32);
        return Some(FileId { device, inode });
    }
    let (device, inode) = calls::file_index(file).ok().filter(|&(_, index)| index != 0)?;
    Some(FileId { device, inode })
}

pub(super) fn identity_at(path: &Path, follow: bool) -> Option<FileId> {
    identity(&open_attributes(path, follow).ok()?)
}

pub(super) fn links(file: &File) -> u64 {
    calls::standard_info(file).map_or(1, |(_, links)| links.into())
}

/// An open file tells it, its metadata do not.
pub(super) fn allocated_bytes_by(_: &Metadata) -> Option<u64> {
    None
}

/// Only an open file tells it.
pub(super) fn may_have_several_names(_: &Metadata) -> bool {
    true
}

pub(super) fn allocated_bytes(file: &File) -> io::Result<Option<u64>> {
    Ok(calls::standard_info(file).ok().and_then(|(bytes, _)| u64::try_from(bytes).ok()))
}

pub(super) fn segment_at(file: &File, offset: u64, len: u64) -> io::Result<Option<Segment>> {
    let (Ok(start), Ok(rest)) = (i64::try_from(offset), i64::try_from(len - offset)) else {
        return Ok(None);
    };
    // Of other files, everything is allocated. Fails on file systems without sparse files.
    if file.metadata()?.file_attributes() & FILE_ATTRIBUTE_SPARSE_FILE == 0 {
        return Ok(None);
    }
    let Ok(found) = calls::first_allocated(file, start, rest) else { return Ok(None) };
    let (hole, end) = match found {
        None if file.metadata()?.len() < len => {
            let message = "it was truncated while it was read";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        None => (true, len),
        Some((first, _)) if first > start => (true, first as u64),
        Some((_, end)) => (false, end as u64),
    };
    Ok((end > offset).then_some(Segment { end: end.min(len), hole }))
}

/// Without this, the system allocates space for everything before the last byte that is written.
pub(super) fn make_sparse(file: &File) {
    // Not every file system has sparse files.
    let _ = calls::set_sparse(file, true);
}

pub(super) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    let end = offset.checked_add(len).and_then(|end| i64::try_from(end).ok());
    let (Ok(start), Some(end)) = (i64::try_from(offset), end) else { return Ok(false) };
    // The range is zeroed as well if the file is not sparse. Other systems than NTFS and ReFS may
    // not have the call.
    Ok(calls::set_zero_data(file, start, end).is_ok())
}

pub(super) fn preallocate(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    let old = file.metadata()?.len();
    let new = offset.saturating_add(len).max(old);
    let (Ok(old_len), Ok(new_len)) = (i64::try_from(old), i64::try_from(new)) else {
        return Ok(false);
    };
    // In a sparse file, nothing can be reserved. One with holes cannot be made an ordinary file.
    let is_whole = || match calls::first_allocated(file, 0, old_len) {
        Ok(found) => found.is_some_and(|(start, end)| start == 0 && end >= old_len),
        Err(_) => true,
    };
    if old > 0 && !is_whole() || calls::set_sparse(file, false).is_err() {
        return Ok(false);
    }
    if calls::set_allocation(file, new_len).is_err() {
        make_sparse(file);
        return Ok(false);
    }
    file.set_len(new)?;
    Ok(true)
}

pub(super) fn open_direct(file: &File, write: bool) -> io::Result<File> {
    let access = if write { GENERIC_WRITE } else { GENERIC_READ };
    calls::reopen(file, access, SHARE_ALL, FILE_FLAG_NO_BUFFERING)
}

pub(super) fn total_memory() -> Option<u64> {
    calls::total_memory().ok()
}

pub(super) fn free_space(path: &Path) -> Option<u64> {
    calls::free_bytes(path).ok()
}

pub(super) fn device_len(_: &File) -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Devices (`\\.\PhysicalDrive0`) are not supported: their metadata cannot be read.
pub(super) fn is_seekable(metadata: &Metadata) -> bool {
    metadata.is_file()
}

pub(super) fn open_no_follow(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let is_link = || path.symlink_metadata().is_ok_and(|found| found.is_symlink());
    if is_link() {
        return Err(io::Error::other("it is a symbolic link"));
    }
    let file = options.open(path)?;
    if is_link() {
        return Err(io::Error::other("it was replaced while it was being opened"));
    }
    Ok(file)
}

pub(super) fn open_to_write(_: &Metadata, _: bool, path: &Path) -> io::Result<Option<File>> {
    OpenOptions::new().write(true).open(path).map(Some)
}

pub(super) fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.seek_read(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

pub(super) fn write_all_at(file: &File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.seek_write(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

pub(super) fn stdin() -> io::Result<File> {
    Ok(io::stdin().as_handle().try_clone_to_owned()?.into())
}

pub(super) fn stdout() -> io::Result<File> {
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

pub(super) fn is_character_device(file: &File) -> io::Result<bool> {
    Ok(calls::file_type(file) == FILE_TYPE_CHAR)
}

/// A file that another program has open cannot be replaced, and should not be overwritten either.
pub(super) fn keeps_existing(_: &io::Error) -> bool {
    false
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    const MAX_WAIT: Duration = Duration::from_secs(1);
    let begun = Instant::now();
    // The first one is also that of a read-only file or directory.
    let is_in_use =
        |e: &io::Error| has_code(e, ERROR_ACCESS_DENIED) || has_code(e, ERROR_SHARING_VIOLATION);
    loop {
        match std::fs::rename(from, to) {
            Err(e) if is_in_use(&e) && begun.elapsed() < MAX_WAIT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) if is_in_use(&e) => {
                let message = format!("{e} (another program may have it open)");
                return Err(io::Error::new(e.kind(), message));
            }
            outcome => return outcome,
        }
    }
}

/// Windows has no call for it. NTFS writes its log of renames within seconds.
pub(super) fn flush_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

pub(super) fn is_out_of_files(error: &io::Error) -> bool {
    has_code(error, ERROR_TOO_MANY_OPEN_FILES)
}

pub(super) fn try_lock_file(file: &File) -> FileLock {
    match calls::try_lock_byte(file, LOCKED_BYTE) {
        Ok(()) => FileLock::Ours,
        Err(e) if has_code(&e, ERROR_LOCK_VIOLATION) => FileLock::HeldByOther,
        Err(_) => FileLock::Unknown,
    }
}

pub(super) fn try_lock_shared_file(file: &File) -> FileLock {
    try_lock_file(file)
}

pub(super) fn unlock_file(file: &File) {
    // It can only fail if the file is not locked.
    let _ = calls::unlock_byte(file, LOCKED_BYTE);
}

/// A handle whose share mode keeps others from opening the file to write it, or, if this process
/// writes it itself, nothing: the lock on its byte ends with the file.
#[derive(Debug)]
pub(super) struct Exclusion(#[allow(dead_code, reason = "held")] Option<File>);

pub(super) fn exclude_writers(file: &File, writes: bool) -> io::Result<Option<Exclusion>> {
    if writes {
        return match calls::try_lock_byte(file, WRITER_BYTE) {
            Ok(()) => Ok(Some(Exclusion(None))),
            Err(e) if has_code(&e, ERROR_LOCK_VIOLATION) => Err(e),
            Err(_) => Ok(None),
        };
    }
    let share = FILE_SHARE_READ | FILE_SHARE_DELETE;
    match calls::reopen(file, GENERIC_READ, share, 0) {
        Ok(held) => Ok(Some(Exclusion(Some(held)))),
        Err(e) if has_code(&e, ERROR_SHARING_VIOLATION) => Err(e),
        // A file system that cannot open a file again.
        Err(_) => Ok(None),
    }
}

/// Access is controlled by lists, which a new file inherits from its directory.
pub(super) fn private_options() -> OpenOptions {
    OpenOptions::new()
}

pub(super) fn take_mode_and_owner(_: &Path, _: &File) -> io::Result<()> {
    Ok(())
}
