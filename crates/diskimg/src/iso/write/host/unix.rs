//! Directories by their descriptors, so that nothing in a path can be exchanged.

use super::{AT_ONCE, HostDir, HostDirs, HostFile, Looked, NameList, change, changed, path_of};
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

/// Directories kept open, each in the one before.
const OPEN: usize = 64;

/// Those that are open: a chain, from one down to one inside it.
#[derive(Debug, Default)]
pub(in crate::iso::write) struct OpenDirs(Vec<(u32, OwnedFd)>);

impl Looked {
    /// `None` for a kind of file that nobody knows.
    // The fields' types differ between systems.
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

/// A name, of its bytes.
pub(super) fn name_of(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

/// A name's bytes.
pub(super) fn bytes_of(name: &OsStr) -> Cow<'_, [u8]> {
    name.as_bytes().into()
}

impl OpenDirs {
    /// Opens a directory, or finds it open.
    pub(in crate::iso::write) fn open(&mut self, dirs: &HostDirs, dir: u32) -> Result<&OwnedFd> {
        if self.0.last().is_none_or(|&(last, _)| last != dir) {
            self.reach(dirs, dir)?;
        }
        // The chain ends with what was asked for.
        self.0.last().map(|(_, fd)| fd).ok_or_else(|| Error::invalid("no directory"))
    }

    fn reach(&mut self, dirs: &HostDirs, dir: u32) -> Result<()> {
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
                (Some(_), Some((_, above))) => {
                    retry_on_intr(|| rustix::fs::openat(above, name, flags, Mode::empty()))
                }
                _ => retry_on_intr(|| rustix::fs::open(name, flags, Mode::empty())),
            };
            let fd = opened
                .map_err(|e| Error::io("cannot open directory", e.into()).in_file(dirs.path(at)))?;
            if self.0.len() == OPEN {
                self.0.remove(0);
            }
            self.0.push((at, fd));
        }
        Ok(())
    }

    /// The names in a directory, in no order.
    pub(in crate::iso::write) fn list(
        &mut self,
        dirs: &HostDirs,
        dir: u32,
        names: &mut NameList,
    ) -> Result<()> {
        names.clear();
        let fd = self.open(dirs, dir)?;
        let failed =
            |e: Errno| Error::io("cannot list directory", e.into()).in_file(dirs.path(dir));
        for entry in retry_on_intr(|| Dir::read_from(fd)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        Ok(())
    }

    /// What a file in a directory is.
    pub(in crate::iso::write) fn look(
        &mut self,
        dirs: &HostDirs,
        dir: u32,
        name: &[u8],
        follow: bool,
    ) -> Result<Looked> {
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        let fd = self.open(dirs, dir)?;
        let stat = rustix::fs::statat(fd, name, flags);
        let stat = stat.map_err(|e| concerning("cannot look at it", e, dirs, dir, name))?;
        let unknown = || Error::unsupported("a file of unknown kind");
        Looked::new(&stat).ok_or_else(|| unknown().in_file(path_of(dirs, dir, name)))
    }

    /// Where a symbolic link leads.
    pub(in crate::iso::write) fn read_link(
        &mut self,
        dirs: &HostDirs,
        dir: u32,
        name: &[u8],
    ) -> Result<Vec<u8>> {
        let fd = self.open(dirs, dir)?;
        let target = rustix::fs::readlinkat(fd, name, Vec::new());
        let target = target.map_err(|e| concerning("cannot read link", e, dirs, dir, name))?;
        Ok(target.into_bytes())
    }

    /// Opens the contents of a regular file, and sees that it is what was looked at.
    pub(in crate::iso::write) fn open_file(
        &mut self,
        dirs: &HostDirs,
        tree: &Tree,
        file: &HostFile,
        len: u64,
    ) -> Result<File> {
        let name = tree.bytes(file.name);
        let fd = self.open(dirs, file.dir)?;
        // A pipe would be waited for.
        let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if !file.follow {
            flags |= OFlags::NOFOLLOW;
        }
        let opened = retry_on_intr(|| rustix::fs::openat(fd, name, flags, Mode::empty()));
        let opened = opened.map_err(|e| concerning("cannot open", e, dirs, file.dir, name))?;
        let opened = File::from(opened);
        self.check(dirs, tree, file, len, &opened)?;
        Ok(opened)
    }

    /// Sees that an open file is still what was looked at.
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
        let stat = stat.map_err(|e| concerning("cannot look at it", e, dirs, file.dir, name))?;
        let now = Looked::new(&stat);
        let what = match now {
            Some(now) => change(file, len, &now),
            None => Some("it is no regular file any more".to_owned()),
        };
        match what {
            Some(what) => Err(changed(what, path_of(dirs, file.dir, name))),
            None => Ok(()),
        }
    }

    /// After a file was read: it is still what it was when that began.
    pub(in crate::iso::write) fn check_again(
        &self,
        dirs: &HostDirs,
        tree: &Tree,
        file: &HostFile,
        len: u64,
        opened: &File,
    ) -> Result<()> {
        if len <= AT_ONCE {
            return Ok(());
        }
        self.check(dirs, tree, file, len, opened)
    }
}

fn concerning(doing: &'static str, errno: Errno, dirs: &HostDirs, dir: u32, name: &[u8]) -> Error {
    Error::io(doing, errno.into()).in_file(path_of(dirs, dir, name))
}
