//! Files of the host. Their status is read when they are added, and they are opened when the image
//! is written.
//!
//! A file that was replaced or changed in between is detected: each directory is opened relative to
//! its parent, without following symbolic links, and type, length and modification time of the file
//! are compared. Opening does not block if the file was replaced by a named pipe.

#[cfg(not(unix))]
mod portable;
#[cfg(unix)]
mod unix;

use super::tree::NameRange;
use crate::error::{Error, Result};
use crate::iso::node::FileType;
use crate::iso::time::Timestamp;
use crate::storage::number::{to_index, to_u32};
use crate::storage::source::FileSource;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

#[cfg(not(unix))]
use portable as imp;
#[cfg(unix)]
use unix as imp;

pub(super) use imp::OpenDirs;

/// Length in bytes above which a file is checked again after it was read.
const MIN_RECHECKED: u64 = 1 << 20;

/// A regular file of the host, with its status when it was added.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostFile {
    pub(super) dir: u32,
    pub(super) name: NameRange,
    pub(super) modified: Timestamp,
    /// Follow the name if it is a symbolic link.
    pub(super) follow: bool,
    /// The file has holes.
    pub(super) sparse: bool,
}

/// A directory of the host.
#[derive(Debug)]
struct HostDir {
    parent: Option<u32>,
    /// Name in the parent, or a path if there is no parent.
    name: PathBuf,
    /// Follow the name if it is a symbolic link.
    #[cfg_attr(not(unix), expect(dead_code, reason = "paths are followed"))]
    follow: bool,
}

/// All directories of the host that files were added from.
#[derive(Debug, Default)]
pub(super) struct HostDirs(Vec<HostDir>);

/// Status of a file of the host.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileStatus {
    pub(super) kind: FileType,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) sparse: bool,
    pub(super) modified: Timestamp,
    pub(super) device: (u32, u32),
    /// Device and inode number, equal for all hard links to a file.
    pub(super) identity: (u64, u64),
}

impl FileStatus {
    pub(super) fn is_regular(&self) -> bool {
        self.kind == FileType::Regular
    }
}

impl HostDirs {
    pub(super) fn add(&mut self, parent: Option<u32>, name: &Path, follow: bool) -> Result<u32> {
        let id = u32::try_from(self.0.len());
        let id = id.map_err(|_| Error::limit("more than 2^32 directories"))?;
        self.0.push(HostDir { parent, name: name.to_owned(), follow });
        Ok(id)
    }

    /// Returns the path of a directory.
    pub(super) fn path(&self, dir: u32) -> PathBuf {
        let mut names = Vec::new();
        let mut at = Some(dir);
        while let Some(HostDir { parent, name, .. }) = at.map(|at| &self.0[to_index(at)]) {
            names.push(name);
            at = *parent;
        }
        names.into_iter().rev().collect()
    }

    /// Returns the directory and its parents, innermost first.
    pub(super) fn chain(&self, dir: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(dir), |&at| self.0[to_index(at)].parent)
    }
}

/// Describes how a file changed since it was added, if it did.
fn change(file: &HostFile, len: u64, now: &FileStatus) -> Option<String> {
    if now.kind != FileType::Regular {
        Some(NOT_REGULAR.to_owned())
    } else if now.size != len {
        Some(format!("its length changed from {len} to {} bytes", now.size))
    } else if now.modified != file.modified {
        Some("its modification time changed".to_owned())
    } else {
        None
    }
}

const NOT_REGULAR: &str = "it is no longer a regular file";

fn changed(what: String, path: PathBuf) -> Error {
    let error = Error::io("changed while the image was being created", io::Error::other(what));
    error.in_file(path).hint("make sure that the files do not change, or copy them first")
}

/// Returns an open file as a source.
pub(super) fn source(file: File) -> io::Result<FileSource> {
    FileSource::from_file(file)
}

pub(super) fn path_of(dirs: &HostDirs, dir: u32, name: &[u8]) -> PathBuf {
    dirs.path(dir).join(imp::name_of(name))
}

/// Converts bytes to a name on the host.
pub(super) fn name_of(name: &[u8]) -> PathBuf {
    imp::name_of(name).into()
}

/// Returns the bytes of a path on the host.
pub(super) fn bytes_of(path: &Path) -> Vec<u8> {
    imp::bytes_of(path.as_os_str()).into_owned()
}

/// The names in a directory, in one buffer.
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
        self.spans.push((to_u32(self.bytes.len()), to_u32(name.len())));
        self.bytes.extend_from_slice(name);
    }

    pub(super) fn sort(&mut self) {
        let bytes = &self.bytes;
        let name = |(start, len): (u32, u32)| &bytes[to_index(start)..to_index(start + len)];
        self.spans.sort_unstable_by(|&a, &b| name(a).cmp(name(b)));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let name = |&(start, len): &(u32, u32)| &self.bytes[to_index(start)..to_index(start + len)];
        self.spans.iter().map(name)
    }
}

/// Splits a path into directory and name. Returns `None` if it does not end with a name.
pub(super) fn split(path: &Path) -> Option<(PathBuf, Vec<u8>)> {
    let name = imp::bytes_of(path.file_name()?).into_owned();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Some((parent.unwrap_or(Path::new(".")).to_owned(), name))
}
