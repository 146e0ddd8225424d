//! Recursive traversal of a directory tree.

use crate::error::{Error, Result};
use crate::iso::node::{Entry, FileTree, Node, is_usable_name};
use crate::open::limits::Limits;
use crate::storage::number::to_u64;
use std::collections::HashSet;
use std::sync::Arc;

/// Maximum length of a path in bytes: Linux's `PATH_MAX`, and libisofs's maximum. Every path
/// repeats the names of its directories.
const MAX_PATH: usize = 4096;

/// Maximum number of bytes read for the entries of directories, besides their records, as a
/// multiple of the image's length: file entries, allocation extents, continuation areas. Each of
/// them has one owner in an image that a writer made, and is read once, unless a file has several
/// names: a UDF name takes 40 bytes, and its file entry usually 2048.
pub(crate) const MAX_COST_RATIO: u64 = 64;

/// A file or directory, and its path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// Path from the root: names separated by `/`.
    pub path: Vec<u8>,
    /// The file or directory.
    pub node: Node,
}

impl Found {
    /// Returns the last component of the path.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
    }
}

/// Iterator over the files and directories of a tree. A directory comes before its entries, which
/// are in recorded order. The root itself is not included.
///
/// An error is yielded, and the iteration continues, for a directory that cannot be read completely
/// or has been visited before and for a name that cannot be a component of a path. The iteration
/// ends after the [`Limit`](crate::ErrorKind::Limit) error for too many entries.
#[derive(Debug)]
pub struct Walk {
    tree: Arc<dyn FileTree>,
    limits: Limits,
    /// Bytes that directories may still have. The initial value is the length of the image, which
    /// the total length of directories that do not overlap cannot exceed.
    directory_bytes_left: u64,
    /// Remaining cost of reading directories (see [`MAX_COST_RATIO`]).
    cost_left: u64,
    entries_left: u64,
    /// Locations of the directories visited so far.
    seen: HashSet<u64>,
    /// Directories being read, outermost first.
    open: Vec<Level>,
    /// The directory to descend into next.
    next: Option<Node>,
    path: Vec<u8>,
    ended: bool,
}

#[derive(Debug)]
struct Level {
    entries: std::vec::IntoIter<Entry>,
    /// Length of the directory's path in bytes.
    path_len: usize,
}

impl Walk {
    /// Creates an iterator over what is below `start`, a directory with the path `path`.
    pub(crate) fn new(
        tree: Arc<dyn FileTree>,
        start: Node,
        path: &[u8],
        image_bytes: u64,
        limits: Limits,
    ) -> Self {
        Self {
            tree,
            directory_bytes_left: image_bytes,
            cost_left: image_bytes.saturating_mul(MAX_COST_RATIO),
            entries_left: limits.tree_entries,
            limits,
            seen: HashSet::new(),
            open: Vec::new(),
            next: Some(start),
            path: path.to_vec(),
            ended: false,
        }
    }

    /// Skips the contents of the directory that was returned last.
    pub fn skip_directory(&mut self) {
        self.next = None;
    }

    /// Descends into a directory. Returns an error in `Ok` if only some of its entries can be read.
    fn enter(&mut self, dir: &Node) -> Result<Option<Error>> {
        let fault =
            |message: &'static str| Err(Error::corrupt("directory", message).at(dir.location));
        if !self.seen.insert(dir.location) {
            return fault("reached by more than one path, or contained in itself");
        }
        let depth = to_u64(self.open.len()) + 1;
        if depth > self.limits.directory_depth {
            let found = format!("{depth} nested directories");
            return Err(Error::over_limit("directory_depth", found, self.limits.directory_depth)
                .in_structure("directory"));
        }
        let bytes: u64 = dir.extents().iter().map(|extent| extent.len).sum();
        let Some(left) = self.directory_bytes_left.checked_sub(bytes) else {
            return fault("directories overlap: their total length exceeds that of the image");
        };
        self.directory_bytes_left = left;
        if self.cost_left == 0 {
            return fault("not read: the directories before it share too many structures");
        }
        let (listing, error) = self.tree.read_dir_partial(dir)?;
        self.cost_left = self.cost_left.saturating_sub(listing.cost);
        self.open.push(Level { entries: listing.entries.into_iter(), path_len: self.path.len() });
        Ok(error)
    }

    fn in_path(&self, error: Error) -> Error {
        let path = String::from_utf8_lossy(&self.path);
        error.prepend_hint(format!("in /{path}"))
    }
}

impl Iterator for Walk {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        if let Some(dir) = self.next.take() {
            match self.enter(&dir) {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Some(Err(self.in_path(error))),
            }
        }
        let entry = loop {
            let level = self.open.last_mut()?;
            self.path.truncate(level.path_len);
            match level.entries.next() {
                Some(entry) => break entry,
                None => self.open.pop(),
            };
        };
        let Some(left) = self.entries_left.checked_sub(1) else {
            self.ended = true;
            let found = "more files and directories";
            let limit = self.limits.tree_entries;
            return Some(Err(Error::over_limit("tree_entries", found, limit)));
        };
        self.entries_left = left;
        if !is_usable_name(&entry.name) {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            let error = Error::corrupt("directory", format!("invalid file name {name:?}"));
            return Some(Err(self.in_path(error.at(entry.node.location))));
        }
        if self.path.len() + 1 + entry.name.len() > MAX_PATH {
            let what = format!("a path of more than {MAX_PATH} bytes");
            let error = Error::corrupt("directory", what).at(entry.node.location);
            return Some(Err(self.in_path(error)));
        }
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&entry.name);
        if entry.node.is_dir() {
            self.next = Some(entry.node.clone());
        }
        Some(Ok(Found { path: self.path.clone(), node: entry.node }))
    }
}
