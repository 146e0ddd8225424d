//! What all Unix systems have in common.

use super::FileId;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{
    FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown,
};
use std::path::Path;

impl FileId {
    /// Returns the identity of a file, not a device, from what stat(2) returned.
    // The widths of the fields depend on the system.
    #[allow(clippy::unnecessary_cast)]
    pub(crate) fn of_stat(found: &rustix::fs::Stat) -> Self {
        Self { device: found.st_dev as u64, inode: found.st_ino as u64 }
    }
}

pub(super) fn identity(file: &File) -> Option<FileId> {
    Some(identity_from(&file.metadata().ok()?))
}

pub(super) fn identity_at(path: &Path, follow: bool) -> Option<FileId> {
    let found = if follow { path.metadata() } else { path.symlink_metadata() };
    Some(identity_from(&found.ok()?))
}

pub(super) fn identity_from(metadata: &Metadata) -> FileId {
    // A device may have several device nodes.
    if metadata.file_type().is_block_device() {
        return FileId { device: metadata.rdev(), inode: 0 };
    }
    FileId { device: metadata.dev(), inode: metadata.ino() }
}

pub(super) fn links(file: &File) -> u64 {
    file.metadata().map_or(1, |found| found.nlink())
}

pub(super) fn allocated_bytes(file: &File) -> io::Result<Option<u64>> {
    Ok(allocated_bytes_by(&file.metadata()?))
}

pub(super) fn allocated_bytes_by(metadata: &Metadata) -> Option<u64> {
    Some(metadata.blocks() * 512)
}

pub(super) fn may_have_several_names(metadata: &Metadata) -> bool {
    metadata.nlink() > 1
}

pub(super) fn is_seekable(metadata: &Metadata) -> bool {
    metadata.is_file() || metadata.file_type().is_block_device()
}

pub(super) fn open_no_follow(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits() as i32;
    options.clone().custom_flags(flags).open(path)
}

pub(super) fn open_to_write(
    metadata: &Metadata,
    follow: bool,
    path: &Path,
) -> io::Result<Option<File>> {
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
        Err(e) if Errno::from_io_error(&e) == Some(Errno::NXIO) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(super) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    FileExt::read_exact_at(file, buf, offset)
}

pub(super) fn write_all_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    FileExt::write_all_at(file, buf, offset)
}

pub(super) fn stdin() -> io::Result<File> {
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

pub(super) fn stdout() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

pub(super) fn is_character_device(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.file_type().is_char_device())
}

pub(super) fn keeps_existing(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, ResourceBusy};
    matches!(error.kind(), PermissionDenied | ResourceBusy | CrossesDevices)
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

pub(super) fn flush_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory) {
        Ok(directory) => directory.sync_all(),
        // A directory may be writable but not readable. The file exists anyway.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(e) => Err(e),
    }
}

pub(super) fn is_out_of_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

pub(super) fn names_device_or_network(_: &Path) -> bool {
    false
}

pub(super) fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

pub(super) fn take_mode_and_owner(old: &Path, new: &File) -> io::Result<()> {
    const KEPT: u32 = 0o1777;
    let metadata = match std::fs::symlink_metadata(old) {
        Ok(metadata) if metadata.is_file() => metadata,
        _ => return Ok(()),
    };
    let wanted = Permissions::from_mode(metadata.mode() & KEPT);
    let set_mode = || match new.set_permissions(wanted.clone()) {
        // The file belongs to another user already, and has its mode.
        Err(_) if (new.metadata()?.mode() ^ wanted.mode()) & 0o777 == 0 => Ok(()),
        outcome => outcome,
    };
    // Only root may change the owner, but members of a group may set it, so these are separate
    // calls, whose errors are ignored. Afterwards, this process may not be allowed to set the mode,
    // but chown may have cleared bits of it.
    set_mode()?;
    let _ = fchown(new, None, Some(metadata.gid()));
    let _ = fchown(new, Some(metadata.uid()), None);
    set_mode()
}
