//! Access to files relative to file descriptors of directories, so that no component of a path can
//! be replaced in between.

use super::{
    FileStatus, HostDir, HostDirs, HostFile, MIN_RECHECKED, NOT_REGULAR, NameList, change, changed,
    path_of,
};
use crate::error::{Error, Result};
use crate::iso::node::FileType;
use crate::iso::time::Timestamp;
use crate::iso::write::tree::Tree;
use crate::storage::number::{to_index, to_u32};
use rustix::fs::{AtFlags, Dir, FileType as Type, Mode, OFlags, RawMode, Stat};
use rustix::io::{Errno, retry_on_intr};
use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// Maximum number of directories that are kept open.
const MAX_OPEN: usize = 64;

/// The open directories: a chain, each the parent of the next.
#[derive(Debug, Default)]
pub(in crate::iso::write) struct OpenDirs(Vec<(u32, OwnedFd)>);

impl FileStatus {
    /// Returns `None` for an unknown file type.
    // The types of the fields depend on the system.
    #[allow(clippy::as_conversions, clippy::unnecessary_cast, trivial_numeric_casts)]
    fn new(stat: &Stat) -> Option<Self> {
        let size = stat.st_size as u64;
        let kind = match Type::from_raw_mode(stat.st_mode as RawMode) {
            Type::RegularFile => FileType::Regular,
            Type::Directory => FileType::Directory,
            Type::Symlink => FileType::Symlink,
            Type::BlockDevice => FileType::BlockDevice,
            Type::CharacterDevice => FileType::CharacterDevice,
            Type::Fifo => FileType::Fifo,
            Type::Socket => FileType::Socket,
            Type::Unknown => return None,
        };
        Some(Self {
            kind,
            mode: stat.st_mode as u32 & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size,
            sparse: (stat.st_blocks as u64).saturating_mul(512) < size,
            modified: Timestamp {
                seconds: stat.st_mtime as i64,
                nanoseconds: to_u32(stat.st_mtime_nsec).min(999_999_999),
            },
            device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            identity: (stat.st_dev as u64, stat.st_ino as u64),
        })
    }
}

/// Converts bytes to a name.
pub(super) fn name_of(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

/// Returns the bytes of a name.
pub(super) fn bytes_of(name: &OsStr) -> Cow<'_, [u8]> {
    name.as_bytes().into()
}

impl OpenDirs {
    /// Opens a directory, unless it is open already.
    pub(in crate::iso::write) fn open(&mut self, dirs: &HostDirs, dir: u32) -> Result<&OwnedFd> {
        if self.0.last().is_none_or(|&(last, _)| last != dir) {
            self.open_chain(dirs, dir)?;
        }
        // The chain ends with `dir` now.
        self.0.last().map(|(_, fd)| fd).ok_or_else(|| Error::invalid("no directory"))
    }

    /// Opens the parents of a directory that are not open yet, and the directory.
    fn open_chain(&mut self, dirs: &HostDirs, dir: u32) -> Result<()> {
        let mut missing = Vec::new();
        for at in dirs.chain(dir) {
            if let Some(open) = self.0.iter().position(|&(open, _)| open == at) {
                self.0.truncate(open + 1);
                break;
            }
            missing.push(at);
            if dirs.0[to_index(at)].parent.is_none() {
                self.0.clear();
            }
        }
        for at in missing.into_iter().rev() {
            let HostDir { name, follow, parent } = &dirs.0[to_index(at)];
            let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            if !follow {
                flags |= OFlags::NOFOLLOW;
            }
            let opened = match (parent, self.0.last()) {
                (Some(_), Some((_, parent))) => {
                    retry_on_intr(|| rustix::fs::openat(parent, name, flags, Mode::empty()))
                }
                _ => retry_on_intr(|| rustix::fs::open(name, flags, Mode::empty())),
            };
            let fd =
                opened.map_err(|e| Error::io("cannot open directory", e).in_file(dirs.path(at)))?;
            if self.0.len() == MAX_OPEN {
                self.0.remove(0);
            }
            self.0.push((at, fd));
        }
        Ok(())
    }

    /// Lists the names in a directory, in no particular order.
    pub(in crate::iso::write) fn list(
        &mut self,
        dirs: &HostDirs,
        dir: u32,
        names: &mut NameList,
    ) -> Result<()> {
        names.clear();
        let fd = self.open(dirs, dir)?;
        let failed = |e: Errno| Error::io("cannot list directory", e).in_file(dirs.path(dir));
        for entry in retry_on_intr(|| Dir::read_from(fd)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        Ok(())
    }

    /// Returns the status of a file in a directory.
    pub(in crate::iso::write) fn status(
        &mut self,
        dirs: &HostDirs,
        dir: u32,
        name: &[u8],
        follow: bool,
    ) -> Result<FileStatus> {
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        let fd = self.open(dirs, dir)?;
        let stat = rustix::fs::statat(fd, name, flags);
        let stat = stat.map_err(|e| error("cannot read its attributes", e, dirs, dir, name))?;
        let unknown = || Error::unsupported("unknown file type");
        FileStatus::new(&stat).ok_or_else(|| unknown().in_file(path_of(dirs, dir, name)))
    }

    /// Returns the target of a symbolic link.
    pub(in crate::iso::write) fn read_link(
        &mut self,
        dirs: &HostDirs,
        dir: u32,
        name: &[u8],
    ) -> Result<Vec<u8>> {
        let fd = self.open(dirs, dir)?;
        let target = rustix::fs::readlinkat(fd, name, Vec::new());
        let target = target.map_err(|e| error("cannot read link", e, dirs, dir, name))?;
        Ok(target.into_bytes())
    }

    /// Opens a regular file, and checks that it has not changed since it was added.
    pub(in crate::iso::write) fn open_file(
        &mut self,
        dirs: &HostDirs,
        tree: &Tree,
        file: &HostFile,
        len: u64,
    ) -> Result<File> {
        let name = tree.bytes(file.name);
        let fd = self.open(dirs, file.dir)?;
        // Without NONBLOCK, opening would block if the file was replaced by a named pipe.
        let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if !file.follow {
            flags |= OFlags::NOFOLLOW;
        }
        let opened = retry_on_intr(|| rustix::fs::openat(fd, name, flags, Mode::empty()));
        let opened = opened.map_err(|e| error("cannot open", e, dirs, file.dir, name))?;
        let opened = File::from(opened);
        self.check(dirs, tree, file, len, &opened)?;
        Ok(opened)
    }

    /// Checks that an open file has not changed since it was added.
    fn check(
        &self,
        dirs: &HostDirs,
        tree: &Tree,
        file: &HostFile,
        len: u64,
        opened: &File,
    ) -> Result<()> {
        let name = tree.bytes(file.name);
        let stat = rustix::fs::fstat(opened);
        let stat =
            stat.map_err(|e| error("cannot read its attributes", e, dirs, file.dir, name))?;
        let what = match FileStatus::new(&stat) {
            Some(now) => change(file, len, &now),
            None => Some(NOT_REGULAR.to_owned()),
        };
        match what {
            Some(what) => Err(changed(what, path_of(dirs, file.dir, name))),
            None => Ok(()),
        }
    }

    /// Checks again after a file was read that it has not changed.
    pub(in crate::iso::write) fn check_again(
        &self,
        dirs: &HostDirs,
        tree: &Tree,
        file: &HostFile,
        len: u64,
        opened: &File,
    ) -> Result<()> {
        if len <= MIN_RECHECKED {
            return Ok(());
        }
        self.check(dirs, tree, file, len, opened)
    }
}

fn error(doing: &'static str, errno: Errno, dirs: &HostDirs, dir: u32, name: &[u8]) -> Error {
    Error::io(doing, errno).in_file(path_of(dirs, dir, name))
}
