//! The host's files: looked at when the image is planned, opened again when it
//! is written.
//!
//! What is opened then is what was looked at: a directory is reached from the
//! one above it, by its name and through no link, and of a file kind, length
//! and time of last change are compared. Nothing waits for a pipe that took a
//! file's place.

use super::tree::{Span, Tree};
use crate::host::source::FileSource;
use crate::iso::time::Timestamp;
use crate::vocabulary::error::{Error, Result};
use rustix::fs::{AtFlags, Dir, FileType as Type, Mode, OFlags, RawMode, Stat};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Directories kept open, each in the one before.
const OPEN: usize = 64;

/// Longer files may have changed while they were read.
const AT_ONCE: u64 = 1 << 20;

/// A regular file of the host, as it was when it was looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostFile {
    pub(super) dir: u32,
    pub(super) name: Span,
    pub(super) modified: Timestamp,
    /// Symbolic links in its name are followed.
    pub(super) follow: bool,
    /// Part of it is not stored, and reads as zeros.
    pub(super) sparse: bool,
}

/// A directory of the host.
#[derive(Debug)]
struct HostDir {
    parent: Option<u32>,
    /// In the parent; without one, a path.
    name: PathBuf,
    follow: bool,
}

/// All directories of the host that files came from.
#[derive(Debug, Default)]
pub(super) struct HostDirs(Vec<HostDir>);

/// Those of them that are open: a chain, from one down to one inside it.
#[derive(Debug, Default)]
pub(super) struct OpenDirs(Vec<(u32, OwnedFd)>);

/// What a file of the host is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked {
    pub(super) kind: Type,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) sparse: bool,
    pub(super) modified: Timestamp,
    pub(super) device: (u32, u32),
    /// What tells that two names are one file.
    pub(super) identity: (u64, u64),
}

impl Looked {
    pub(super) fn is_regular(&self) -> bool {
        self.kind == Type::RegularFile
    }

    // The fields' types differ between systems.
    #[allow(clippy::unnecessary_cast, trivial_numeric_casts)]
    fn new(stat: &Stat) -> Self {
        let size = stat.st_size as u64;
        Self {
            kind: Type::from_raw_mode(stat.st_mode as RawMode),
            mode: stat.st_mode as u32 & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size,
            sparse: (stat.st_blocks as u64).saturating_mul(512) < size,
            modified: Timestamp {
                seconds: stat.st_mtime as i64,
                nanoseconds: (stat.st_mtime_nsec as u32).min(999_999_999),
            },
            device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            identity: (stat.st_dev as u64, stat.st_ino as u64),
        }
    }
}

impl HostDirs {
    pub(super) fn add(&mut self, parent: Option<u32>, name: &Path, follow: bool) -> Result<u32> {
        let id = u32::try_from(self.0.len());
        let id = id.map_err(|_| Error::limit("more than 4 thousand million directories"))?;
        self.0.push(HostDir { parent, name: name.to_owned(), follow });
        Ok(id)
    }

    /// Where the directory was found.
    pub(super) fn path(&self, dir: u32) -> PathBuf {
        let mut names = Vec::new();
        let mut at = Some(dir);
        while let Some(HostDir { parent, name, .. }) = at.map(|at| &self.0[at as usize]) {
            names.push(name);
            at = *parent;
        }
        names.into_iter().rev().collect()
    }

    /// Itself and the directories that it is in, as they were found.
    pub(super) fn chain(&self, dir: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(dir), |&at| self.0[at as usize].parent)
    }
}

impl OpenDirs {
    /// Opens a directory, or finds it open.
    pub(super) fn open(&mut self, dirs: &HostDirs, dir: u32) -> Result<&OwnedFd> {
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
            if dirs.0[at as usize].parent.is_none() {
                self.0.clear();
            }
        }
        for at in missing.into_iter().rev() {
            let HostDir { name, follow, parent } = &dirs.0[at as usize];
            let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            if !follow {
                flags |= OFlags::NOFOLLOW;
            }
            let opened = match (parent, self.0.last()) {
                (Some(_), Some((_, above))) => {
                    rustix::fs::openat(above, name, flags, Mode::empty())
                }
                _ => rustix::fs::open(name, flags, Mode::empty()),
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
    pub(super) fn list(&mut self, dirs: &HostDirs, dir: u32, names: &mut NameList) -> Result<()> {
        names.clear();
        let fd = self.open(dirs, dir)?;
        let failed = |e: rustix::io::Errno| {
            Error::io("cannot list directory", e.into()).in_file(dirs.path(dir))
        };
        for entry in Dir::read_from(fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        Ok(())
    }

    /// What a file in a directory is.
    pub(super) fn look(
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
        Ok(Looked::new(&stat))
    }

    /// Where a symbolic link leads.
    pub(super) fn read_link(&mut self, dirs: &HostDirs, dir: u32, name: &[u8]) -> Result<Vec<u8>> {
        let fd = self.open(dirs, dir)?;
        let target = rustix::fs::readlinkat(fd, name, Vec::new());
        let target = target.map_err(|e| concerning("cannot read link", e, dirs, dir, name))?;
        Ok(target.into_bytes())
    }

    /// Opens the contents of a regular file, and sees that it is what was looked at.
    pub(super) fn open_file(
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
        let opened = rustix::fs::openat(fd, name, flags, Mode::empty());
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
        let what = if now.kind != Type::RegularFile {
            "it is no regular file any more".to_owned()
        } else if now.size != len {
            format!("its length changed from {len} to {} bytes", now.size)
        } else if now.modified != file.modified {
            "it was written to".to_owned()
        } else {
            return Ok(());
        };
        let error = Error::io("changed since the image was planned", io::Error::other(what));
        Err(error
            .in_file(path_of(dirs, file.dir, name))
            .hint("let nobody change the files, or copy them first"))
    }

    /// After a file was read: it is still what it was when that began.
    pub(super) fn check_again(
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

/// The file as a source.
pub(super) fn source(file: File) -> io::Result<FileSource> {
    FileSource::from_file(file)
}

pub(super) fn path_of(dirs: &HostDirs, dir: u32, name: &[u8]) -> PathBuf {
    dirs.path(dir).join(OsStr::from_bytes(name))
}

fn concerning(
    doing: &'static str,
    errno: rustix::io::Errno,
    dirs: &HostDirs,
    dir: u32,
    name: &[u8],
) -> Error {
    Error::io(doing, errno.into()).in_file(path_of(dirs, dir, name))
}

/// Names of a directory in one buffer.
#[derive(Debug, Default)]
pub(super) struct NameList {
    bytes: Vec<u8>,
    spans: Vec<(u32, u32)>,
}

impl NameList {
    fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }

    fn push(&mut self, name: &[u8]) {
        self.spans.push((self.bytes.len() as u32, name.len() as u32));
        self.bytes.extend_from_slice(name);
    }

    pub(super) fn sort(&mut self) {
        let bytes = &self.bytes;
        let name = |(start, len): (u32, u32)| &bytes[start as usize..(start + len) as usize];
        self.spans.sort_unstable_by(|&a, &b| name(a).cmp(name(b)));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let name = |&(start, len): &(u32, u32)| &self.bytes[start as usize..(start + len) as usize];
        self.spans.iter().map(name)
    }
}

/// The directory of a path, and its name there.
pub(super) fn split(path: &Path) -> Option<(PathBuf, Vec<u8>)> {
    let name = path.file_name()?.as_bytes().to_vec();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Some((parent.unwrap_or(Path::new(".")).to_owned(), name))
}
