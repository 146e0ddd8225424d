//! Operating system interfaces: holes, space reservation, in-kernel copies, block devices, locks.
//!
//! `linux.rs` implements them on Linux. On other systems, `portable.rs` reports them as
//! unsupported, and callers fall back to plain reads and writes.

use crate::storage::hints::AllocationHints;
use std::collections::HashSet;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[cfg(target_os = "linux")]
mod block_devices;
#[cfg(target_os = "linux")]
mod byte_locks;
#[cfg(target_os = "linux")]
mod fiemap;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod replacement;
#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(not(target_os = "linux"))]
mod portable;
#[cfg(not(target_os = "linux"))]
use portable as imp;

/// A file that was looked up but not opened, so that its type and path can be checked first.
///
/// [`open`](Self::open) opens the file that was looked up, even if its path leads to another file
/// by then. Systems other than Linux cannot guarantee this.
#[derive(Debug)]
pub(crate) struct Located(imp::Located);

impl Located {
    /// Looks up `path`. Does not block on a FIFO.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        imp::Located::at(path).map(Self)
    }

    /// Returns the metadata of the file.
    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    /// Returns the canonical path of the file.
    pub(crate) fn real_path(&self) -> io::Result<PathBuf> {
        self.0.real_path()
    }

    /// Returns true for a regular file with stored contents: not a device, FIFO or socket, nor a
    /// file of a pseudo file system such as procfs or sysfs.
    pub(crate) fn is_stored(&self) -> io::Result<bool> {
        Ok(self.metadata()?.is_file() && self.0.is_stored()?)
    }

    /// Opens the file for reading.
    pub(crate) fn open(&self) -> io::Result<File> {
        self.0.open()
    }
}

/// Returns the canonical path of an open file, if the system provides it.
pub(crate) fn real_path(file: &File) -> Option<PathBuf> {
    imp::real_path(file)
}

/// Returns the metadata of the file at `path`, which is not followed if it is a symbolic link, and
/// the target of the link. Both are of the same file; systems other than Linux cannot guarantee
/// this.
pub(crate) fn examine(path: &Path) -> io::Result<(Metadata, Option<PathBuf>)> {
    imp::examine(path)
}

/// Opens a file with these options, which must set no flags of their own. Fails for a symbolic link
/// on Unix.
pub(crate) fn open_no_follow(options: &OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        options.clone().custom_flags(flags).open(path)
    }
    #[cfg(not(unix))]
    options.open(path)
}

/// A segment of a file that is all data or all hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset of the end of the segment (exclusive).
    pub end: u64,
    /// True if the segment is a hole, which reads as zeros.
    pub hole: bool,
}

/// Returns the segment of `file` that contains `offset`, or `None` if the file system does not
/// report holes. `len` is the length of the file.
pub(crate) fn segment_at(file: &File, offset: u64, len: u64) -> io::Result<Option<Segment>> {
    imp::segment_at(file, offset, len)
}

/// Tells the file system how to allocate the space of an empty file. Errors are ignored.
pub(crate) fn set_allocation_hints(file: &File, hints: AllocationHints) {
    imp::set_allocation_hints(file, hints);
}

/// Deallocates the range, so that it reads as zeros. Returns `false` if the file does not support
/// this.
pub(crate) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    imp::punch_hole(file, offset, len)
}

/// Reserves space for the range. Unwritten parts read as zeros. Returns `false` if the file system
/// does not support this.
pub(crate) fn preallocate(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    imp::preallocate(file, offset, len)
}

/// Opens the file again for direct I/O (`O_DIRECT`), for which offsets, lengths and buffers must be
/// aligned.
pub(crate) fn open_direct(file: &File, write: bool) -> io::Result<File> {
    imp::open_direct(file, write)
}

/// Starts to write back the file's dirty pages and drops its clean pages from the page cache. Does
/// not wait for completion.
pub(crate) fn write_behind(file: &File) -> io::Result<()> {
    imp::write_behind(file)
}

/// Returns the size of the machine's memory in bytes.
pub(crate) fn total_memory() -> Option<u64> {
    imp::total_memory()
}

/// Returns the block size of the file's file system in bytes, a power of two. Returns `None` on
/// systems that do not support [`reflink`].
pub(crate) fn block_size(file: &File) -> io::Result<Option<u64>> {
    imp::block_size(file)
}

/// Shares the source's blocks with the destination (`FICLONERANGE`). Returns `false` if the files
/// do not support this or the range is not aligned.
pub(crate) fn reflink(
    src: &File,
    src_offset: u64,
    dst: &File,
    dst_offset: u64,
    len: u64,
) -> io::Result<bool> {
    imp::reflink(src, src_offset, dst, dst_offset, len)
}

/// Copies within the kernel (`copy_file_range`). Returns `false` if the files do not support this;
/// part of the range may already have been copied.
pub(crate) fn copy_in_kernel(
    src: &File,
    src_offset: u64,
    dst: &File,
    dst_offset: u64,
    len: u64,
) -> io::Result<bool> {
    imp::copy_in_kernel(src, src_offset, dst, dst_offset, len)
}

/// Identity of a file: equal for all open handles of the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

#[cfg(unix)]
impl FileId {
    /// Returns the identity of a file, not a device, from what stat(2) returned.
    // The widths of the fields depend on the system.
    #[allow(clippy::unnecessary_cast)]
    pub(crate) fn of_stat(found: &rustix::fs::Stat) -> Self {
        Self { device: found.st_dev as u64, inode: found.st_ino as u64 }
    }
}

impl FileId {
    /// Returns true if bytes of one file are bytes of the other: if both are the same, or if one is a
    /// block device of which the other is a part, such as the file of a loop device or the disk of a
    /// partition. On systems other than Linux, only the same file is recognized.
    pub fn shares_data_with(self, other: Self) -> bool {
        self == other || imp::is_stored_on(self, other) || imp::is_stored_on(other, self)
    }

    /// Returns true if two of `files` are the same or have bytes in common, as
    /// [`shares_data_with`](Self::shares_data_with).
    pub(crate) fn any_share_data(files: impl IntoIterator<Item = Self>) -> bool {
        let mut different = HashSet::new();
        if !files.into_iter().all(|file| different.insert(file)) {
            return true;
        }
        let mut devices = different.iter().filter(|file| file.inode == 0);
        devices.any(|&device| different.iter().any(|&file| imp::is_stored_on(device, file)))
    }

    /// Returns the identity of the file at `path`, if it exists. Follows symbolic links.
    pub fn at(path: &Path) -> Option<Self> {
        identity(&std::fs::metadata(path).ok()?)
    }

    /// Returns the identity of an open file.
    pub fn of(file: &File) -> Option<Self> {
        identity(&file.metadata().ok()?)
    }

    /// Returns the number of a block device.
    #[cfg(target_os = "linux")]
    fn block_device(self) -> Option<u64> {
        (self.inode == 0).then_some(self.device)
    }
}

/// Finds out now on which disks and files the block devices are stored, for
/// [`FileId::shares_data_with`] in a process that will not be able to read `/sys`.
pub fn note_block_devices() {
    imp::note_block_devices();
}

/// Returns the identity of a file.
#[cfg(unix)]
pub(crate) fn identity(metadata: &Metadata) -> Option<FileId> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    // A device may have several device nodes.
    if metadata.file_type().is_block_device() {
        return Some(FileId { device: metadata.rdev(), inode: 0 });
    }
    Some(FileId { device: metadata.dev(), inode: metadata.ino() })
}

/// Returns the identity of a file. Not supported on this system.
#[cfg(not(unix))]
pub(crate) fn identity(_metadata: &Metadata) -> Option<FileId> {
    None
}

/// Returns a hash of the file's length and modification time, which changes when the file is
/// written.
pub(crate) fn revision(metadata: &Metadata) -> u64 {
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
    let changed = metadata.modified().ok().and_then(since).map_or(0, |age| age.as_nanos() as u64);
    changed ^ metadata.len().rotate_left(32)
}

/// Returns true if something is mounted on the file `path`, so that its name cannot be changed.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    imp::is_mount_point(path)
}

/// Returns why a file in `directory` cannot be renamed by this process, although it can create files
/// there, if that is known.
pub(crate) fn keeps_names(directory: &Path, file: &Metadata) -> Option<&'static str> {
    imp::keeps_names(directory, file)
}

/// Returns the number of bytes that this process can write to the file system of `path`, if that is
/// known.
pub(crate) fn free_space(path: &Path) -> Option<u64> {
    imp::free_space(path)
}

/// Returns the number of bytes that become free if the file is truncated: blocks that other files or
/// snapshots share do not. 0 if that is not known.
pub(crate) fn freeable_bytes(file: &File) -> u64 {
    imp::freeable_bytes(file)
}

/// Gives the empty file `new` the owner, group and extended attributes (access control list,
/// security label) of `old`, but not its mode. Returns what cannot be kept.
pub(crate) fn copy_attributes(old: &File, new: &File) -> io::Result<Option<String>> {
    imp::copy_attributes(old, new)
}

/// Returns the number of names of the file.
#[cfg(unix)]
pub(crate) fn links(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

/// Returns the number of names of the file, which is not known on this system.
#[cfg(not(unix))]
pub(crate) fn links(_metadata: &Metadata) -> u64 {
    1
}

/// Returns the number of bytes allocated to the file.
#[cfg(unix)]
pub(crate) fn allocated_bytes(metadata: &Metadata) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(metadata.blocks() * 512)
}

/// Returns the number of bytes allocated to the file. Not supported on this system.
#[cfg(not(unix))]
pub(crate) fn allocated_bytes(_metadata: &Metadata) -> Option<u64> {
    None
}

/// Returns true for a seekable file with a length: a regular file or block device, but not a pipe,
/// a socket or a terminal.
#[cfg(unix)]
pub(crate) fn is_seekable(metadata: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.is_file() || metadata.file_type().is_block_device()
}

/// Returns true for a seekable file with a length.
#[cfg(not(unix))]
pub(crate) fn is_seekable(metadata: &Metadata) -> bool {
    metadata.is_file()
}

/// Opens an existing file for writing; with `follow`, also through a symbolic link. Returns `None`
/// for a named pipe that has no reader yet.
#[cfg(unix)]
pub(crate) fn open_to_write(
    metadata: &Metadata,
    follow: bool,
    path: &Path,
) -> io::Result<Option<File>> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let mut options = OpenOptions::new();
    options.write(true);
    let no_follow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    if !metadata.file_type().is_fifo() {
        return options.custom_flags(no_follow.bits() as i32).open(path).map(Some);
    }
    // open(2): with O_NONBLOCK, opening a pipe that has no reader fails with ENXIO.
    options.custom_flags((OFlags::NONBLOCK | no_follow).bits() as i32);
    match options.open(path) {
        Ok(file) => {
            fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
            Ok(Some(file))
        }
        Err(e) if rustix::io::Errno::from_io_error(&e) == Some(rustix::io::Errno::NXIO) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens an existing file for writing.
#[cfg(not(unix))]
pub(crate) fn open_to_write(
    _metadata: &Metadata,
    _follow: bool,
    path: &Path,
) -> io::Result<Option<File>> {
    OpenOptions::new().write(true).open(path).map(Some)
}

/// Reads exactly `buf.len()` bytes at `offset`, without changing the file position.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

/// Reads exactly `buf.len()` bytes at `offset`. The file position is unspecified afterwards.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
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

/// Writes all of `buf` at `offset`, without changing the file position.
#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, buf, offset)
}

/// Writes all of `buf` at `offset`. The file position is unspecified afterwards.
#[cfg(windows)]
pub(crate) fn write_all_at(file: &File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
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

/// Result of [`try_lock_file`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "used only on Linux"))]
pub(crate) enum FileLock {
    /// Locked by this process until the handle and all its duplicates are closed.
    Ours,
    /// Locked through another handle, usually by another process.
    HeldByOther,
    /// Not locked: other processes that use the file may not see the lock.
    Unknown,
}

/// Tries to lock the file with flock(2), without waiting.
pub(crate) fn try_lock_file(file: &File) -> FileLock {
    imp::try_lock_file(file)
}

/// Tries to lock the file with flock(2), without waiting, also on file systems on which perhaps not
/// all processes see it.
pub(crate) fn try_lock_shared_file(file: &File) -> FileLock {
    imp::try_flock(file)
}

/// Removes the lock that [`try_lock_shared_file`] set.
pub(crate) fn unlock_file(file: &File) {
    imp::unlock_file(file);
}

/// Sets a shared lock on the byte at `offset`, which need not exist, until the file is closed.
/// Returns `false` if the file system or the system does not support such locks.
pub(crate) fn lock_byte(file: &File, offset: u64) -> io::Result<bool> {
    imp::lock_byte(file, offset)
}

/// Removes the lock that [`lock_byte`] set.
pub(crate) fn unlock_byte(file: &File, offset: u64) -> io::Result<()> {
    imp::unlock_byte(file, offset)
}

/// Returns true if the byte at `offset` is locked through another open file.
pub(crate) fn is_byte_locked(file: &File, offset: u64) -> io::Result<bool> {
    imp::is_byte_locked(file, offset)
}

/// Returns the limit on the process's address space in bytes, if there is one.
pub(crate) fn address_space_limit() -> Option<u64> {
    imp::address_space_limit()
}

/// Returns true if the error is that the process or the system has too many open files.
#[cfg(unix)]
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Returns true if the error is that too many files are open. Not supported on this system.
#[cfg(not(unix))]
pub(crate) fn is_out_of_files(_error: &io::Error) -> bool {
    false
}
