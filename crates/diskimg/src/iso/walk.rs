//! All that a tree holds, once.

use crate::error::{Error, Result};
use crate::iso::node::{Entry, FileTree, Node, is_usable_name};
use crate::open::limits::Limits;
use crate::storage::number::to_u64;
use std::collections::HashSet;
use std::sync::Arc;

/// A file or directory, and where in the tree it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// Its path from the root: names with `/` between them.
    pub path: Vec<u8>,
    /// What it is.
    pub node: Node,
}

impl Found {
    /// The last name of its path.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
    }
}

/// Goes through a tree, directories before what is in them, the entries of each in recorded
/// order. The root itself is not among them.
///
/// What cannot be followed is an error in its place, and the walk goes on behind it: a directory
/// that cannot be read, wholly or in part, or was visited already, a name that cannot be part of a path. Behind a
/// [`Limit`](crate::ErrorKind::Limit) nothing comes any more.
#[derive(Debug)]
pub struct Walk {
    tree: Arc<dyn FileTree>,
    limits: Limits,
    /// Bytes of the image: directories that do not overlap are not longer together.
    directory_bytes_left: u64,
    entries_left: u64,
    /// Directories seen, by their place.
    seen: HashSet<u64>,
    /// Directories being read, the root's first.
    open: Vec<Level>,
    /// A directory to go into, before anything else.
    next: Option<Node>,
    path: Vec<u8>,
    ended: bool,
}

#[derive(Debug)]
struct Level {
    entries: std::vec::IntoIter<Entry>,
    /// Bytes of the path that lead here.
    path: usize,
}

impl Walk {
    /// From `start`, a directory, on, whose path that is.
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
            entries_left: limits.tree_entries,
            limits,
            seen: HashSet::new(),
            open: Vec::new(),
            next: Some(start),
            path: path.to_vec(),
            ended: false,
        }
    }

    /// Does not go into the directory that was found last.
    pub fn skip_directory(&mut self) {
        self.next = None;
    }

    /// Goes into a directory; gives why not all of it can be read.
    fn enter(&mut self, dir: &Node) -> Result<Option<Error>> {
        let fault =
            |message: &'static str| Err(Error::corrupt("directory", message).at(dir.location));
        if !self.seen.insert(dir.location) {
            return fault("it is reached in more than one way, or lies within itself");
        }
        let depth = to_u64(self.open.len()) + 1;
        if depth > self.limits.directory_depth {
            let found = format!("{depth} directories inside each other");
            return Err(Error::over_limit("directory_depth", found, self.limits.directory_depth)
                .in_structure("directory"));
        }
        let bytes: u64 = dir.extents().iter().map(|extent| extent.len).sum();
        let Some(left) = self.directory_bytes_left.checked_sub(bytes) else {
            return fault("the directories are longer than the image: they overlap");
        };
        self.directory_bytes_left = left;
        let (entries, lost) = self.tree.read_dir_as_far(dir)?;
        self.open.push(Level { entries: entries.into_iter(), path: self.path.len() });
        Ok(lost)
    }

    fn in_path(&self, error: Error) -> Error {
        let path = String::from_utf8_lossy(&self.path);
        error.remark(format!("in /{path}"))
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
            self.path.truncate(level.path);
            match level.entries.next() {
                Some(entry) => break entry,
                None => self.open.pop(),
            };
        };
        let Some(left) = self.entries_left.checked_sub(1) else {
            self.ended = true;
            let found = "more files and directories";
            let most = self.limits.tree_entries;
            return Some(Err(Error::over_limit("tree_entries", found, most)));
        };
        self.entries_left = left;
        if !is_usable_name(&entry.name) {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            let error = Error::corrupt("directory", format!("{name:?} cannot be part of a path"));
            return Some(Err(self.in_path(error.at(entry.node.location))));
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
