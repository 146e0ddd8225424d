//! Linux: `SEEK_DATA`, `SEEK_HOLE`, `fallocate`, `FICLONERANGE`, `O_PATH`.

mod block_devices;
mod byte_locks;
mod fiemap;
mod lock_holder;
mod replacement;
mod writeback;

// Byte locks exclude writers, and no file needs to be made sparse.
pub(super) use super::absent::{Exclusion, exclude_writers, make_sparse};
pub(super) use super::unix::*;

pub(super) use byte_locks::{is_byte_locked, lock_byte, unlock_byte};
pub(super) use fiemap::freeable_bytes;
pub(super) use lock_holder::lock_holder;
pub(super) use replacement::{copy_attributes, free_space, is_mount_point, keeps_names};
pub(super) use writeback::start_writeback;

use super::{FileLock, Segment};
use crate::storage::hints::AllocationHints;
pub(super) use block_devices::{is_stored_on, note_block_devices};
use rustix::fs::{
    Advice, FallocateFlags, FlockOperation, OFlags, SeekFrom, copy_file_range, fadvise, fallocate,
    flock, fstatfs, readlinkat, seek,
};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Pseudo file systems, whose files have no stored contents: statfs(2) and linux/magic.h.
const PSEUDO: [u32; 20] = [
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6265_6570, // configfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x1980_0202, // mqueue
    0x6e73_6673, // nsfs
    0x5049_5045, // pipes
    0x534f_434b, // sockets
    0x0904_1934, // anonymous inodes
    0x4249_4e4d, // binfmt_misc
    0x0765_5821, // resctrl
];

#[derive(Debug)]
pub(super) struct Located {
    /// Opened with `O_PATH`, which does not access the file.
    handle: File,
    path: PathBuf,
}

impl Located {
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH.bits() as i32;
        let handle = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        Ok(Self { handle, path: path.to_owned() })
    }

    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        self.handle.metadata()
    }

    pub(super) fn real_path(&self) -> io::Result<PathBuf> {
        real_path(&self.handle).map_or_else(|| self.path.canonicalize(), Ok)
    }

    pub(super) fn is_stored(&self) -> io::Result<bool> {
        let kind = fstatfs(&self.handle)?.f_type;
        Ok(!PSEUDO.contains(&(kind as u32)))
    }

    pub(super) fn open(&self) -> io::Result<File> {
        let link = link_to(&self.handle);
        if link.is_symlink() {
            return File::open(link);
        }
        // Without /proc, open the path again and check that it is still the same file.
        let file = File::open(&self.path)?;
        if identity(&file) != identity(&self.handle) {
            return Err(io::Error::other("it was replaced while it was being opened"));
        }
        Ok(file)
    }
}

pub(super) fn examine(path: &Path) -> io::Result<(Metadata, Option<PathBuf>)> {
    let flags = (OFlags::PATH | OFlags::NOFOLLOW).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    // readlink(2): an empty name is the link that is open.
    let target = found.is_symlink().then(|| readlinkat(&file, c"", Vec::new())).transpose()?;
    Ok((found, target.map(|target| OsString::from_vec(target.into_bytes()).into())))
}

/// Returns the path of a link to an open file, which is valid even if the file was renamed:
/// proc_pid_fd(5).
fn link_to(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

pub(super) fn real_path(file: &File) -> Option<PathBuf> {
    std::fs::read_link(link_to(file)).ok()
}

pub(super) fn segment_at(file: &File, offset: u64, len: u64) -> io::Result<Option<Segment>> {
    // lseek(2): SEEK_DATA past the last data fails with ENXIO. A file system that does not support
    // holes fails with EINVAL or reports the whole file as data.
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) if data > offset => Ok(Some(Segment { end: data.min(len), hole: true })),
        Ok(_) => match seek(file, SeekFrom::Hole(offset)) {
            Ok(hole) if hole > offset => Ok(Some(Segment { end: hole.min(len), hole: false })),
            Ok(_) | Err(Errno::INVAL | Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        },
        // No data follows: a hole up to the end, unless the file was truncated.
        Err(Errno::NXIO) if file.metadata()?.len() < len => {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was truncated while it was read"))
        }
        Err(Errno::NXIO) => Ok(Some(Segment { end: len, hole: true })),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    try_fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
}

pub(super) fn preallocate(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    try_fallocate(file, FallocateFlags::empty(), offset, len)
}

fn try_fallocate(file: &File, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<bool> {
    loop {
        return match fallocate(file, mode, offset, len) {
            Ok(()) => Ok(true),
            Err(Errno::INTR) => continue,
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => Ok(false),
            Err(e) => Err(e.into()),
        };
    }
}

pub(super) fn open_direct(file: &File, write: bool) -> io::Result<File> {
    let flags = OFlags::DIRECT.bits() as i32;
    let opened =
        OpenOptions::new().read(!write).write(write).custom_flags(flags).open(link_to(file));
    opened.map_err(|e| match Errno::from_io_error(&e) {
        Some(Errno::INVAL) => io::Error::new(
            io::ErrorKind::Unsupported,
            "the file system does not support direct I/O",
        ),
        _ => e,
    })
}

pub(super) fn write_behind(file: &File) -> io::Result<()> {
    // posix_fadvise(2): drops clean pages. Linux starts to write back dirty pages.
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}

pub(super) fn total_memory() -> Option<u64> {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    (info.totalram as u64).checked_mul(unit)
}

pub(super) fn block_size(file: &File) -> io::Result<Option<u64>> {
    let block = rustix::fs::fstatvfs(file)?.f_frsize;
    Ok(block.is_power_of_two().then_some(block))
}

/// `struct fsxattr` of ioctl_xfs_fsgetxattr(2).
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    padding: [u8; 8],
}

/// `FS_XFLAG_EXTSIZE`: `extsize` is valid.
const EXTENT_SIZE_FLAG: u32 = 0x800;

pub(super) fn set_allocation_hints(file: &File, hints: AllocationHints) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    if hints.no_copy_on_write
        && let Ok(flags) = ioctl_getflags(file)
    {
        let _ = ioctl_setflags(file, flags | IFlags::NOCOW);
    }
    if let Ok(size @ 1..) = u32::try_from(hints.extent_size) {
        let _ = set_extent_size(file, size);
    }
}

fn set_extent_size(file: &File, size: u32) -> rustix::io::Result<()> {
    use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};
    const GET: Opcode = opcode::read::<FsXattr>(b'X', 31);
    const SET: Opcode = opcode::write::<FsXattr>(b'X', 32);
    // SAFETY: FS_IOC_FSGETXATTR writes one `struct fsxattr`, which has the same layout as
    // `FsXattr`.
    #[allow(unsafe_code)]
    let mut attributes = unsafe { ioctl(file, Getter::<GET, FsXattr>::new()) }?;
    attributes.xflags |= EXTENT_SIZE_FLAG;
    attributes.extsize = size;
    // SAFETY: FS_IOC_FSSETXATTR reads one `struct fsxattr` and does not write to memory.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(file, Setter::<SET, FsXattr>::new(attributes))
    }
}

/// `struct file_clone_range` of ioctl_ficlonerange(2).
#[repr(C)]
struct FileCloneRange {
    src_fd: i64,
    src_offset: u64,
    src_length: u64,
    dest_offset: u64,
}

/// Tries to clone a range that is not aligned to blocks. This is not valid if the file systems could
/// clone, and not supported otherwise.
pub(super) fn can_reflink(src: &File, dst: &File) -> bool {
    clone_range(src, 1, dst, 1, 1) == Err(Errno::INVAL)
}

pub(super) fn reflink(
    src: &File,
    src_offset: u64,
    dst: &File,
    dst_offset: u64,
    len: u64,
) -> io::Result<bool> {
    match clone_range(src, src_offset, dst, dst_offset, len) {
        Ok(()) => Ok(true),
        // Different file systems, no reflink support, or a range that is not aligned to blocks: the
        // caller must copy instead.
        Err(
            Errno::OPNOTSUPP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::NOTTY
            | Errno::NOSYS
            | Errno::PERM
            | Errno::TXTBSY,
        ) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn clone_range(
    src: &File,
    src_offset: u64,
    dst: &File,
    dst_offset: u64,
    len: u64,
) -> rustix::io::Result<()> {
    use rustix::ioctl::{Setter, ioctl, opcode};
    const FICLONERANGE: rustix::ioctl::Opcode = opcode::write::<FileCloneRange>(0x94, 13);
    let range = FileCloneRange {
        src_fd: i64::from(src.as_raw_fd()),
        src_offset,
        src_length: len,
        dest_offset: dst_offset,
    };
    // SAFETY: FICLONERANGE reads one `struct file_clone_range`, which has the same layout as
    // `FileCloneRange`, and does not write to memory. Both descriptors stay open during the call,
    // because `src` and `dst` are borrowed.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(dst, Setter::<FICLONERANGE, FileCloneRange>::new(range))
    }
}

pub(super) fn copy_in_kernel(
    src: &File,
    mut src_offset: u64,
    dst: &File,
    mut dst_offset: u64,
    len: u64,
) -> io::Result<bool> {
    let end = src_offset + len;
    while src_offset < end {
        let left = usize::try_from(end - src_offset).unwrap_or(usize::MAX);
        // The kernel advances both offsets by the number of bytes copied.
        match copy_file_range(src, Some(&mut src_offset), dst, Some(&mut dst_offset), left) {
            // Some file systems copy nothing and return no error.
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(
                Errno::XDEV
                | Errno::INVAL
                | Errno::NOSYS
                | Errno::OPNOTSUPP
                | Errno::PERM
                | Errno::BADF
                | Errno::TXTBSY,
            ) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(true)
}

/// Local file systems, on which every process that can open a file sees its flock(2): statfs(2).
/// On NFS, SMB, FUSE and other file systems this is not guaranteed.
const LOCAL: [u32; 9] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0x2fc1_2fc1, // ZFS
    0xf2f5_2010, // F2FS
    0xca45_1a4e, // bcachefs
];

pub(super) fn try_lock_file(file: &File) -> FileLock {
    if !retry_on_intr(|| fstatfs(file)).is_ok_and(|stat| LOCAL.contains(&(stat.f_type as u32))) {
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

pub(super) fn address_space_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::As).current
}

pub(super) fn device_len(file: &File) -> io::Result<u64> {
    // The metadata of a block device has no length; seeking to the end returns it.
    Ok(seek(file, SeekFrom::End(0))?)
}
