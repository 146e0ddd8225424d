//! Access to files by path, for systems without file descriptors of directories.

use super::{FileStatus, HostDirs, HostFile, MIN_RECHECKED, NameList, change, changed, path_of};
use crate::error::{Error, Result};
use crate::iso::node::FileType;
use crate::iso::write::tree::Tree;
use std::borrow::Cow;
use std::collections::hash_map::DefaultHasher;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::hash::{Hash, Hasher};
use std::io;
use std::path::Path;

/// Keeps no directories open.
#[derive(Debug, Default)]
pub(in crate::iso::write) struct OpenDirs {}

impl FileStatus {
    fn new(metadata: &Metadata, path: &Path) -> Self {
        let kind = metadata.file_type();
        let kind = match (kind.is_dir(), kind.is_symlink()) {
            (true, _) => FileType::Directory,
            (_, true) => FileType::Symlink,
            _ => FileType::Regular,
        };
        let mut hash = DefaultHasher::new();
        path.canonicalize().unwrap_or_else(|_| path.to_owned()).hash(&mut hash);
        Self {
            kind,
            mode: if kind == FileType::Directory { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            size: metadata.len(),
            sparse: false,
            modified: metadata.modified().map(Into::into).unwrap_or_default(),
            device: (0, 0),
            identity: (0, hash.finish()),
        }
    }
}

/// Converts bytes to a name.
pub(super) fn name_of(name: &[u8]) -> OsString {
    String::from_utf8_lossy(name).into_owned().into()
}

/// Returns the bytes of a name, with `/` as the separator.
pub(super) fn bytes_of(name: &OsStr) -> Cow<'_, [u8]> {
    name.to_string_lossy().replace('\\', "/").into_bytes().into()
}

impl OpenDirs {
    /// Lists the names in a directory, in no particular order.
    pub(in crate::iso::write) fn list(
        &mut self,
        dirs: &HostDirs,
        dir: u32,
        names: &mut NameList,
    ) -> Result<()> {
        names.clear();
        let path = dirs.path(dir);
        let failed = |e: io::Error| Error::io("cannot list directory", e).in_file(&path);
        for entry in path.read_dir().map_err(failed)? {
            names.push(&bytes_of(&entry.map_err(failed)?.file_name()));
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
        let path = path_of(dirs, dir, name);
        let metadata = if follow { path.metadata() } else { path.symlink_metadata() };
        match metadata {
            Ok(metadata) => Ok(FileStatus::new(&metadata, &path)),
            Err(e) => Err(Error::io("cannot read its attributes", e).in_file(path)),
        }
    }

    /// Returns the target of a symbolic link.
    pub(in crate::iso::write) fn read_link(
        &mut self,
        dirs: &HostDirs,
        dir: u32,
        name: &[u8],
    ) -> Result<Vec<u8>> {
        let path = path_of(dirs, dir, name);
        match path.read_link() {
            Ok(target) => Ok(bytes_of(target.as_os_str()).into_owned()),
            Err(e) => Err(Error::io("cannot read link", e).in_file(path)),
        }
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
        let path = path_of(dirs, file.dir, name);
        let status = self.status(dirs, file.dir, name, file.follow)?;
        if let Some(what) = change(file, len, &status) {
            return Err(changed(what, path));
        }
        File::open(&path).map_err(|e| Error::io("cannot open", e).in_file(path))
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
        let path = path_of(dirs, file.dir, tree.bytes(file.name));
        let Ok(metadata) = opened.metadata() else { return Ok(()) };
        match change(file, len, &FileStatus::new(&metadata, &path)) {
            Some(what) if len > MIN_RECHECKED => Err(changed(what, path)),
            _ => Ok(()),
        }
    }
}
