//! The operating system's interfaces for storage: holes, space reservation, in-kernel copies, file
//! identities, devices, locks.
//!
//! This file is what the rest of the crate sees. Each system implements it:
//!
//! | system | code |
//! |---|---|
//! | all Unix systems | `unix.rs`: what they have in common |
//! | Linux | `linux/` |
//! | macOS | `macos.rs` |
//! | other Unix systems | `unknown.rs` |
//! | Windows | `windows/` |
//!
//! What a system lacks, it imports from `absent.rs`: callers then fall back to plain reads and
//! writes, or do without. `docs/platforms.md` says what users notice of it.

use crate::storage::hints::AllocationHints;
use std::collections::HashSet;
use std::fs::{File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

mod absent;
#[cfg(not(target_os = "linux"))]
mod by_path;
#[cfg(unix)]
mod unix;

#[cfg_attr(target_os = "linux", path = "linux/mod.rs")]
#[cfg_attr(target_os = "macos", path = "macos.rs")]
#[cfg_attr(windows, path = "windows/mod.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "macos", windows)), path = "unknown.rs")]
mod imp;

#[cfg(windows)]
pub(crate) use imp::refusal;

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

/// Opens a file with these options, which must set no flags of their own. Fails for a symbolic
/// link.
pub(crate) fn open_no_follow(options: &OpenOptions, path: &Path) -> io::Result<File> {
    imp::open_no_follow(options, path)
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

/// Prepares an empty file for holes.
pub(crate) fn make_sparse(file: &File) {
    imp::make_sparse(file);
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

/// Starts to write back the file's dirty pages, which stay in the page cache. Does not wait for
/// completion. A hint: an error of writing is reported when the file is flushed.
pub(crate) fn start_writeback(file: &File) {
    imp::start_writeback(file);
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

/// Returns true if the destination can share blocks with the source. Changes nothing.
pub(crate) fn can_reflink(src: &File, dst: &File) -> bool {
    imp::can_reflink(src, dst)
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
        imp::identity_at(path, true)
    }

    /// Returns the identity of what is not a file of this host, such as an export of a server, by a
    /// name that no other has and that is spelled in one way.
    pub fn elsewhere(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        // No file system has this number; 0 would be a block device.
        Self { device: u64::MAX, inode: hasher.finish().max(1) }
    }

    /// Returns the identity of the file at `path`, if it exists, or of the symbolic link there.
    pub(crate) fn of_name(path: &Path) -> Option<Self> {
        imp::identity_at(path, false)
    }

    /// Returns the identity of an open file.
    pub fn of(file: &File) -> Option<Self> {
        imp::identity(file)
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

/// Returns options to create a file that only its owner may access. Without these, it gets its mode
/// from the umask. On Windows, it inherits the access control list of its directory.
pub(crate) fn private_options() -> OpenOptions {
    imp::private_options()
}

/// Gives the new file the permissions of the old one and, where permitted, its owner and group.
/// Set-ID bits are not kept, as after a write to the old file. Does nothing on Windows.
pub(crate) fn take_mode_and_owner(old: &Path, new: &File) -> io::Result<()> {
    imp::take_mode_and_owner(old, new)
}

/// Returns the number of names of the file.
pub(crate) fn links(file: &File) -> u64 {
    imp::links(file)
}

/// Returns the number of bytes allocated to the file, if that is known.
pub(crate) fn allocated_bytes(file: &File) -> io::Result<Option<u64>> {
    imp::allocated_bytes(file)
}

/// Returns the number of bytes allocated to the file with this metadata, if they say so.
pub(crate) fn allocated_bytes_by(metadata: &Metadata) -> Option<u64> {
    imp::allocated_bytes_by(metadata)
}

/// Returns true if the file with this metadata may have several names (hard links).
pub(crate) fn may_have_several_names(metadata: &Metadata) -> bool {
    imp::may_have_several_names(metadata)
}

/// Returns true for a seekable file with a length: a regular file or block device, but not a pipe,
/// a socket or a terminal.
pub(crate) fn is_seekable(metadata: &Metadata) -> bool {
    imp::is_seekable(metadata)
}

/// Returns the length of a block device. The file position is unspecified afterwards.
pub(crate) fn device_len(file: &File) -> io::Result<u64> {
    imp::device_len(file)
}

/// Opens an existing file for writing; with `follow`, also through a symbolic link. Returns `None`
/// for a named pipe that has no reader yet.
pub(crate) fn open_to_write(
    metadata: &Metadata,
    follow: bool,
    path: &Path,
) -> io::Result<Option<File>> {
    imp::open_to_write(metadata, follow, path)
}

/// Reads exactly `buf.len()` bytes at `offset`. The file position is unspecified afterwards.
pub(crate) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    imp::read_exact_at(file, buf, offset)
}

/// Writes all of `buf` at `offset`. The file position is unspecified afterwards.
pub(crate) fn write_all_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    imp::write_all_at(file, buf, offset)
}

/// Returns standard input as a file, without the buffer of [`io::stdin`].
pub(crate) fn stdin() -> io::Result<File> {
    imp::stdin()
}

/// Returns standard output as a file, without the line buffering of [`io::stdout`].
///
/// # Errors
/// Returns the error of the system if the descriptor or handle cannot be duplicated.
pub(crate) fn stdout() -> io::Result<File> {
    imp::stdout()
}

/// Returns true for a terminal or another character device.
pub(crate) fn is_character_device(file: &File) -> io::Result<bool> {
    imp::is_character_device(file)
}

/// Returns true for the errors of renaming over a file that can perhaps be written: its directory or
/// a security module keeps its name, or it became a mount point.
pub(crate) fn keeps_existing(error: &io::Error) -> bool {
    imp::keeps_existing(error)
}

/// Renames a file, and replaces an existing one. On Windows, a file that other programs have open can
/// perhaps not be replaced: virus scanners open new files, so it is tried for a second.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    imp::rename(from, to)
}

/// Flushes a directory, which makes renames in it durable. Does nothing on Windows.
pub(crate) fn flush_directory(directory: &Path) -> io::Result<()> {
    imp::flush_directory(directory)
}

/// Returns true if opening the path, which an image names, would access another computer or a device,
/// whatever is there. Always false on Unix, where no path does so by itself.
pub(crate) fn names_device_or_network(path: &Path) -> bool {
    imp::names_device_or_network(path)
}

/// Result of [`try_lock_file`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "not all systems have locks")]
pub(crate) enum FileLock {
    /// Locked by this process until the handle and all its duplicates are closed.
    Ours,
    /// Locked through another handle, usually by another process.
    HeldByOther,
    /// Not locked: other processes that use the file may not see the lock.
    Unknown,
}

/// Tries to lock the file with flock(2) or LockFileEx, without waiting.
pub(crate) fn try_lock_file(file: &File) -> FileLock {
    imp::try_lock_file(file)
}

/// Tries to lock the file like [`try_lock_file`], also on file systems on which perhaps not
/// all processes see it.
pub(crate) fn try_lock_shared_file(file: &File) -> FileLock {
    imp::try_lock_shared_file(file)
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

/// A process that has locked a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockHolder {
    /// Its number.
    pub pid: u32,
    /// The name of the program that it runs, which the system may have cut.
    pub command: String,
}

/// Returns a process that has locked the byte at `offset` by [`lock_byte`], if the system tells
/// which.
pub(crate) fn lock_holder(file: &File, offset: u64) -> Option<LockHolder> {
    imp::lock_holder(file, offset)
}

/// A file that other processes cannot open to write it, until this is dropped.
#[derive(Debug)]
pub(crate) struct Exclusion(#[allow(dead_code, reason = "held")] imp::Exclusion);

/// Keeps other processes from opening the file to write it, on systems where share modes do this
/// (Windows); if this process `writes` it itself, keeps only other processes of this program from
/// writing it. Returns `None` elsewhere.
///
/// # Errors
/// Returns an error if another process writes the file.
pub(crate) fn exclude_writers(file: &File, writes: bool) -> io::Result<Option<Exclusion>> {
    Ok(imp::exclude_writers(file, writes)?.map(Exclusion))
}

/// Returns the limit on the process's address space in bytes, if there is one.
pub(crate) fn address_space_limit() -> Option<u64> {
    imp::address_space_limit()
}

/// Returns true if the error is that the process or the system has too many open files.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    imp::is_out_of_files(error)
}
