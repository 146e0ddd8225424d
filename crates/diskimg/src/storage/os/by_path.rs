//! Looking up files by path, on systems where a file cannot be looked up without opening it.

#[cfg(unix)]
use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

/// The canonical path. If the file is replaced before it is opened, the replacement is opened.
#[cfg(unix)]
#[derive(Debug)]
pub(super) struct Located(PathBuf);

#[cfg(unix)]
impl Located {
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        path.canonicalize().map(Self)
    }

    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        std::fs::metadata(&self.0)
    }

    pub(super) fn real_path(&self) -> io::Result<PathBuf> {
        Ok(self.0.clone())
    }

    pub(super) fn is_stored(&self) -> io::Result<bool> {
        Ok(true)
    }

    pub(super) fn open(&self) -> io::Result<File> {
        File::open(&self.0)
    }
}

pub(super) fn examine(path: &Path) -> io::Result<(Metadata, Option<PathBuf>)> {
    let found = std::fs::symlink_metadata(path)?;
    let target = found.is_symlink().then(|| std::fs::read_link(path)).transpose()?;
    Ok((found, target))
}
