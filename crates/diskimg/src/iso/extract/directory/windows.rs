//! Windows: paths, of which every directory is held open, so that none of them can be renamed,
//! removed or replaced by a link meanwhile.
//!
//! Paths have the prefix `\\?\`, so that they may be longer than 260 characters. The system does not
//! check names then; they are checked here. Permissions and owners are not set.

use crate::iso::extract::ExtractOptions;
use crate::iso::node::{Attributes, Node};
use crate::iso::time::Timestamp;
use crate::storage::os;
use crate::storage::source::HostFileId;
use std::fs::{File, FileTimes, OpenOptions};
use std::io;
use std::os::windows::fs::{MetadataExt, OpenOptionsExt, symlink_dir, symlink_file};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_REPARSE_POINT, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    FILE_LIST_DIRECTORY, FILE_READ_ATTRIBUTES, FILE_SHARE_READ, FILE_SHARE_WRITE,
    FILE_WRITE_ATTRIBUTES,
};

/// An open directory of the host.
pub(in crate::iso::extract) struct Directory {
    path: PathBuf,
    /// Open so that it can be neither renamed nor removed.
    held: File,
}

impl Directory {
    /// Creates and opens the destination. The path is the caller's, so links in it are followed.
    pub(in crate::iso::extract) fn create(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Self::open(path.canonicalize()?)
    }

    fn open(path: PathBuf) -> io::Result<Self> {
        // Only access to data is subject to share modes.
        let access = FILE_LIST_DIRECTORY | FILE_READ_ATTRIBUTES;
        let mut options = OpenOptions::new();
        options
            .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE)
            .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT);
        // Without the right to set its times, it is extracted into nevertheless.
        let held = options
            .access_mode(access | FILE_WRITE_ATTRIBUTES)
            .open(&path)
            .or_else(|_| options.access_mode(access).open(&path))?;
        let found = held.metadata()?;
        if found.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT != 0 {
            return Err(io::Error::other("it is a symbolic link or a junction"));
        }
        if !found.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { path, held })
    }

    /// Returns the path of an entry.
    fn entry(&self, name: &[u8]) -> io::Result<PathBuf> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidFilename, why);
        let name = std::str::from_utf8(name).map_err(|_| invalid("the name is not Unicode"))?;
        match os::refusal(name) {
            Some(why) => Err(invalid(why)),
            None => Ok(self.path.join(name)),
        }
    }

    /// Creates a directory with the default permissions, or opens an existing one. Links are not
    /// followed.
    pub(in crate::iso::extract) fn make_dir(&self, name: &[u8]) -> io::Result<Self> {
        let path = self.entry(name)?;
        match std::fs::create_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Self::open(path),
        }
    }

    /// Creates a file, which must not exist, not even as a link to nothing.
    pub(in crate::iso::extract) fn make_file(&self, name: &[u8]) -> io::Result<File> {
        let file = OpenOptions::new().write(true).create_new(true).open(self.entry(name)?)?;
        os::make_sparse(&file);
        Ok(file)
    }

    /// Returns the identity of an entry, if it exists. A symbolic link is not followed.
    pub(in crate::iso::extract) fn identity(&self, name: &[u8]) -> Option<HostFileId> {
        HostFileId::of_name(&self.entry(name).ok()?)
    }

    /// Removes a file, if it exists.
    pub(in crate::iso::extract) fn remove_file(&self, name: &[u8]) -> io::Result<()> {
        match std::fs::remove_file(self.entry(name)?) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Creates a symbolic link. One to a directory that does not exist yet becomes one to a file,
    /// because the system distinguishes them and the image does not.
    pub(in crate::iso::extract) fn make_symlink(
        &self,
        name: &[u8],
        target: &[u8],
        _: &Attributes,
        _: &ExtractOptions,
    ) -> io::Result<()> {
        let link = self.entry(name)?;
        let target = std::str::from_utf8(target)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidFilename, "it is not Unicode"))?;
        let target = PathBuf::from(target.replace('/', "\\"));
        // A program that opens it later would connect to that computer.
        if os::names_device_or_network(&target) {
            let message = "it leads to a device or to another computer";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        if self.path.join(&target).is_dir() {
            symlink_dir(target, link)
        } else {
            symlink_file(target, link)
        }
    }

    /// Creates `name` in `parent` as a hard link to the file at `path` below this directory. Each
    /// directory in `path` is opened separately, without following links.
    pub(in crate::iso::extract) fn link(
        &self,
        path: &[u8],
        parent: &Self,
        name: &[u8],
    ) -> io::Result<()> {
        let mut names = path.split(|&byte| byte == b'/');
        let last = names.next_back().unwrap_or(path);
        let mut held: Vec<Self> = Vec::new();
        for component in names {
            let next = Self::open(held.last().unwrap_or(self).entry(component)?)?;
            held.push(next);
        }
        std::fs::hard_link(held.last().unwrap_or(self).entry(last)?, parent.entry(name)?)
    }

    /// Windows has no devices, named pipes and sockets in directories.
    pub(in crate::iso::extract) fn make_special(
        &self,
        _: &[u8],
        _: &Node,
        _: &ExtractOptions,
    ) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Sets the times of this directory.
    pub(in crate::iso::extract) fn set_own_attributes(
        &self,
        attributes: &Attributes,
        options: &ExtractOptions,
    ) -> io::Result<()> {
        set_attributes(&self.held, attributes, options)
    }
}

/// Sets the times of an open file or directory.
pub(in crate::iso::extract) fn set_attributes(
    file: &File,
    attributes: &Attributes,
    options: &ExtractOptions,
) -> io::Result<()> {
    let Some(modified) = attributes.modified.filter(|_| options.times).and_then(system_time) else {
        return Ok(());
    };
    let mut times = FileTimes::new().set_modified(modified);
    if let Some(accessed) = attributes.accessed.and_then(system_time) {
        times = times.set_accessed(accessed);
    }
    file.set_times(times)
}

/// Returns `None` for a time that the system cannot represent.
fn system_time(time: Timestamp) -> Option<SystemTime> {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = match time.seconds < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(seconds),
        false => SystemTime::UNIX_EPOCH.checked_add(seconds),
    };
    whole?.checked_add(Duration::from_nanos(time.nanoseconds.into()))
}
