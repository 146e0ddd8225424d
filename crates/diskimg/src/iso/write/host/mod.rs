//! The host's files: looked at when the image is planned, opened again when it
//! is written.
//!
//! What is opened then is what was looked at: a directory is reached from the
//! one above it, by its name and through no link, and of a file kind, length
//! and time of last change are compared. Nothing waits for a pipe that took a
//! file's place.

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

/// Longer files may have changed while they were read.
const AT_ONCE: u64 = 1 << 20;

/// A regular file of the host, as it was when it was looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostFile {
    pub(super) dir: u32,
    pub(super) name: NameRange,
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

/// What a file of the host is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked {
    pub(super) kind: FileType,
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
        self.kind == FileType::Regular
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
        while let Some(HostDir { parent, name, .. }) = at.map(|at| &self.0[to_index(at)]) {
            names.push(name);
            at = *parent;
        }
        names.into_iter().rev().collect()
    }

    /// Itself and the directories that it is in, as they were found.
    pub(super) fn chain(&self, dir: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(dir), |&at| self.0[to_index(at)].parent)
    }
}

/// What became of a file since it was looked at.
fn change(file: &HostFile, len: u64, now: &Looked) -> Option<String> {
    if now.kind != FileType::Regular {
        Some("it is no regular file any more".to_owned())
    } else if now.size != len {
        Some(format!("its length changed from {len} to {} bytes", now.size))
    } else if now.modified != file.modified {
        Some("it was written to".to_owned())
    } else {
        None
    }
}

fn changed(what: String, path: PathBuf) -> Error {
    let error = Error::io("changed since the image was planned", io::Error::other(what));
    error.in_file(path).hint("let nobody change the files, or copy them first")
}

/// The file as a source.
pub(super) fn source(file: File) -> io::Result<FileSource> {
    FileSource::from_file(file)
}

pub(super) fn path_of(dirs: &HostDirs, dir: u32, name: &[u8]) -> PathBuf {
    dirs.path(dir).join(imp::name_of(name))
}

/// A name on the host, of its bytes.
pub(super) fn name_of(name: &[u8]) -> PathBuf {
    imp::name_of(name).into()
}

/// The bytes of a path on the host.
pub(super) fn bytes_of(path: &Path) -> Vec<u8> {
    imp::bytes_of(path.as_os_str()).into_owned()
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

/// The directory of a path, and its name there.
pub(super) fn split(path: &Path) -> Option<(PathBuf, Vec<u8>)> {
    let name = imp::bytes_of(path.file_name()?).into_owned();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Some((parent.unwrap_or(Path::new(".")).to_owned(), name))
}
