//! What replacing a file by renaming another one over it depends on, and what it would lose.

use rustix::fs::{
    AtFlags, CWD, IFlags, Mode, StatxAttributes, StatxFlags, XattrFlags, fchmod, fgetxattr,
    fgetxattr_query, flistxattr, flistxattr_query, fremovexattr, fsetxattr, ioctl_getflags,
    ioctl_setflags, statvfs, statx,
};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

/// The extended attribute that holds the access control list: acl(5).
const ACL: &CStr = c"system.posix_acl_access";

/// Prefixes of the names of extended attributes that belong to a file: xattr(7). Others describe
/// how or where it is stored.
const KEPT: [&[u8]; 7] = [
    b"user.",
    b"trusted.",
    b"security.selinux",
    b"security.SMACK64",
    b"system.posix_acl_access",
    b"system.nfs4_acl",
    b"system.richacl",
];

pub(in crate::storage::os) fn is_mount_point(path: &Path) -> bool {
    // Kernels before 5.8 do not report it.
    statx(CWD, path, AtFlags::empty(), StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

pub(in crate::storage::os) fn keeps_names(
    directory: &Path,
    file: &Metadata,
) -> Option<&'static str> {
    const STICKY: u32 = 0o1000;
    let found = directory.metadata().ok()?;
    let user = rustix::process::geteuid();
    let is_owner = [file.uid(), found.uid()].contains(&user.as_raw());
    if found.mode() & STICKY != 0 && !is_owner && !owns_all_files() {
        return Some("it belongs to another user, in a directory with the sticky bit");
    }
    let flags = ioctl_getflags(File::open(directory).ok()?).ok()?;
    flags.contains(IFlags::APPEND).then_some("its directory is append-only")
}

/// Returns true if this process may do with all files what only their owners may do: `CAP_FOWNER`,
/// capabilities(7), which root has unless it was dropped.
fn owns_all_files() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    match capabilities(None) {
        Ok(own) => own.effective.contains(CapabilitySet::FOWNER),
        Err(_) => rustix::process::geteuid().is_root(),
    }
}

pub(in crate::storage::os) fn free_space(path: &Path) -> Option<u64> {
    let found = statvfs(path).ok()?;
    let blocks = match rustix::process::geteuid().is_root() {
        true => found.f_bfree,
        false => found.f_bavail,
    };
    blocks.checked_mul(found.f_frsize)
}

pub(in crate::storage::os) fn copy_attributes(
    old: &File,
    new: &File,
) -> io::Result<Option<String>> {
    let (from, to) = (old.metadata()?, new.metadata()?);
    if from.gid() != to.gid() && fchown(new, None, Some(from.gid())).is_err() {
        return Ok(Some("its group".to_owned()));
    }
    if from.uid() != to.uid() {
        // Afterwards, only a process with CAP_FOWNER could set the mode.
        fchmod(new, Mode::from_raw_mode(from.mode() & 0o777))?;
        if fchown(new, Some(from.uid()), None).is_err() {
            return Ok(Some("its owner".to_owned()));
        }
    }
    copy_no_copy_on_write(old, new);
    let (attributes, present) = (names(old)?, names(new)?);
    for name in split(&attributes) {
        let value = value(old, name)?;
        if self::value(new, name).is_ok_and(|present| present == value) {
            continue;
        }
        if fsetxattr(new, name, &value, XattrFlags::empty()).is_err() {
            return Ok(Some(match name == ACL {
                true => "its access control list".to_owned(),
                false => format!("its extended attribute '{}'", name.to_string_lossy()),
            }));
        }
    }
    // The directory's default list applies to new files.
    let is_listed = |list: &[u8]| split(list).any(|name| name == ACL);
    if is_listed(&present) && !is_listed(&attributes) {
        fremovexattr(new, ACL)?;
    }
    Ok(None)
}

/// Sets the attribute that disables copy on write (btrfs), which must be set on an empty file.
/// Errors are ignored: not every file system has it.
fn copy_no_copy_on_write(old: &File, new: &File) {
    if let (Ok(old), Ok(flags)) = (ioctl_getflags(old), ioctl_getflags(new))
        && old.contains(IFlags::NOCOW)
    {
        let _ = ioctl_setflags(new, flags | IFlags::NOCOW);
    }
}

/// Returns the names of the extended attributes, each with a terminating zero byte.
fn names(file: &File) -> io::Result<Vec<u8>> {
    read(|| flistxattr_query(file.as_fd()), |buf| flistxattr(file.as_fd(), buf))
}

/// Splits a list of names, and omits those that need not be kept.
fn split(names: &[u8]) -> impl Iterator<Item = &CStr> {
    let names = names.split_inclusive(|&byte| byte == 0);
    names
        .filter(|name| KEPT.iter().any(|prefix| name.starts_with(prefix)))
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
}

fn value(file: &File, name: &CStr) -> io::Result<Vec<u8>> {
    read(|| fgetxattr_query(file.as_fd(), name), |buf| fgetxattr(file.as_fd(), name, buf))
}

/// Reads a value whose length is queried first. A file system without extended attributes has
/// none.
fn read(
    query: impl Fn() -> rustix::io::Result<usize>,
    read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<u8>> {
    loop {
        let len = match query() {
            Ok(len) => len,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let mut buf = vec![0; len];
        match read(&mut buf) {
            Ok(len) => {
                buf.truncate(len);
                return Ok(buf);
            }
            // It has become longer in the meantime.
            Err(Errno::RANGE) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
