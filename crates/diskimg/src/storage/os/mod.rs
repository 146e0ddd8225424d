//! Everything that differs between operating systems, behind one set of
//! functions: holes, space reservation, in-kernel copies, block devices.
//!
//! `linux.rs` uses what Linux offers; `portable.rs` answers "not here" in the
//! same vocabulary, and the callers fall back to plain reads and writes.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(not(target_os = "linux"))]
mod portable;
#[cfg(not(target_os = "linux"))]
use portable as imp;

/// A file that was looked up and not opened yet: its type and its place can be
/// judged first. What is opened then is that file, as far as the system can
/// tell, whatever its name leads to by then.
#[derive(Debug)]
pub(crate) struct Located(imp::Located);

impl Located {
    /// Looks `path` up; does not wait for a FIFO's other end.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        imp::Located::at(path).map(Self)
    }

    /// Its type and size.
    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    /// Where it is: its path without symbolic links.
    pub(crate) fn real_path(&self) -> io::Result<PathBuf> {
        self.0.real_path()
    }

    /// Whether it is a regular file that keeps what was stored in it: no device, FIFO or socket,
    /// and nothing that the kernel makes up as it is read (`/proc`, `/sys` and their like).
    pub(crate) fn is_stored(&self) -> io::Result<bool> {
        Ok(self.metadata()?.is_file() && self.0.is_stored()?)
    }

    /// Opens it for reading.
    pub(crate) fn open(&self) -> io::Result<File> {
        self.0.open()
    }
}

/// Where an open file is: its path without symbolic links. `None` where the
/// system does not tell.
pub(crate) fn real_path(file: &File) -> Option<PathBuf> {
    imp::real_path(file)
}

/// A stretch of a file that is all data or all hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Exclusive end of the stretch, a host offset.
    pub end: u64,
    /// True if nothing is stored here: it reads as zeros at no cost.
    pub hole: bool,
}

/// The stretch of `file` that holds `offset`, or `None` where the file system
/// cannot tell (then all is data).
pub(crate) fn segment_at(file: &File, offset: u64, len: u64) -> io::Result<Option<Segment>> {
    imp::segment_at(file, offset, len)
}

/// Gives the range's space back, so that it reads as zeros. `false` where the
/// file cannot do that.
pub(crate) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    imp::punch_hole(file, offset, len)
}

/// Reserves space for the range; it reads as zeros. `false` where the file
/// system cannot.
pub(crate) fn preallocate(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    imp::preallocate(file, offset, len)
}

/// Opens the file once more, for I/O that passes by the page cache (O_DIRECT):
/// offsets, lengths and addresses must then be aligned.
pub(crate) fn open_direct(file: &File, write: bool) -> io::Result<File> {
    imp::open_direct(file, write)
}

/// Has the system start to write back what is dirty of the file's cache, and
/// forget what is not; does not wait for it.
pub(crate) fn write_behind(file: &File) -> io::Result<()> {
    imp::write_behind(file)
}

/// Bytes of this machine's memory.
pub(crate) fn total_memory() -> Option<u64> {
    imp::total_memory()
}

/// The size of the blocks that the file's file system allocates, in bytes, a power of two;
/// `None` where nothing can be shared anyway.
pub(crate) fn block_size(file: &File) -> io::Result<Option<u64>> {
    imp::block_size(file)
}

/// Shares the source's blocks with the destination (FICLONERANGE). `false`
/// where the two files or the alignment do not allow it.
pub(crate) fn reflink(
    src: &File,
    src_offset: u64,
    dst: &File,
    dst_offset: u64,
    len: u64,
) -> io::Result<bool> {
    imp::reflink(src, src_offset, dst, dst_offset, len)
}

/// Copies in the kernel (copy_file_range): nothing passes through this
/// process. `false` where the two files do not allow it; what was copied until
/// then is harmless.
pub(crate) fn copy_in_kernel(
    src: &File,
    src_offset: u64,
    dst: &File,
    dst_offset: u64,
    len: u64,
) -> io::Result<bool> {
    imp::copy_in_kernel(src, src_offset, dst, dst_offset, len)
}

/// What two open handles have in common when they are the same file, and the
/// space it takes. `None` where the system has no such notion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

/// The identity of an open file.
#[cfg(unix)]
pub(crate) fn identity(metadata: &Metadata) -> Option<FileId> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    // Any number of nodes may stand for one device.
    if metadata.file_type().is_block_device() {
        return Some(FileId { device: metadata.rdev(), inode: 0 });
    }
    Some(FileId { device: metadata.dev(), inode: metadata.ino() })
}

/// The identity of an open file.
#[cfg(not(unix))]
pub(crate) fn identity(_metadata: &Metadata) -> Option<FileId> {
    None
}

/// What changes when the file is written to: its length and the time of its last change, mixed.
pub(crate) fn revision(metadata: &Metadata) -> u64 {
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
    let changed = metadata.modified().ok().and_then(since).map_or(0, |age| age.as_nanos() as u64);
    changed ^ metadata.len().rotate_left(32)
}

/// Bytes that the file occupies on its file system.
#[cfg(unix)]
pub(crate) fn allocated_bytes(metadata: &Metadata) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(metadata.blocks() * 512)
}

/// Bytes that the file occupies on its file system.
#[cfg(not(unix))]
pub(crate) fn allocated_bytes(_metadata: &Metadata) -> Option<u64> {
    None
}

/// True for a file whose bytes have positions and a length: a regular file or
/// a block device. A pipe, a socket or a terminal has neither.
#[cfg(unix)]
pub(crate) fn is_positioned(metadata: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.is_file() || metadata.file_type().is_block_device()
}

/// True for a file whose bytes have positions and a length.
#[cfg(not(unix))]
pub(crate) fn is_positioned(metadata: &Metadata) -> bool {
    metadata.is_file()
}

/// Opens a file that is there for writing; `None` for a named pipe that nobody
/// reads yet.
#[cfg(unix)]
pub(crate) fn open_to_write(path: &Path, metadata: &Metadata) -> io::Result<Option<File>> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if !metadata.file_type().is_fifo() {
        return options.open(path).map(Some);
    }
    // open(2): a pipe that is opened so is ENXIO without a reader.
    options.custom_flags(OFlags::NONBLOCK.bits() as i32);
    match options.open(path) {
        Ok(file) => {
            fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
            Ok(Some(file))
        }
        Err(e) if rustix::io::Errno::from_io_error(&e) == Some(rustix::io::Errno::NXIO) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens a file that is there for writing.
#[cfg(not(unix))]
pub(crate) fn open_to_write(path: &Path, _metadata: &Metadata) -> io::Result<Option<File>> {
    std::fs::OpenOptions::new().write(true).open(path).map(Some)
}

/// Reads exactly `buf.len()` bytes at `offset`, leaving the file position alone
/// where the system can.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

/// Reads exactly `buf.len()` bytes at `offset`.
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

/// Writes all of `buf` at `offset`.
#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, buf, offset)
}

/// Writes all of `buf` at `offset`.
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

/// Whose an open file is: see [`try_lock_file`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "elsewhere nothing is known"))]
pub(crate) enum FileLock {
    /// Ours, until this handle and all its duplicates are closed, or the process ends.
    Ours,
    /// Somebody else holds it.
    HeldByOther,
    /// It is not known that locks reach all who see the file.
    Unknown,
}

/// Locks the file against all who ask so, if that takes no waiting (flock(2)).
pub(crate) fn try_lock_file(file: &File) -> FileLock {
    imp::try_lock_file(file)
}

/// The limit on this process's address space, if there is one.
pub(crate) fn address_space_limit() -> Option<u64> {
    imp::address_space_limit()
}

/// True if the process, or the system, may open no more files.
#[cfg(unix)]
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// True if the process, or the system, may open no more files.
#[cfg(not(unix))]
pub(crate) fn is_out_of_files(_error: &io::Error) -> bool {
    false
}
