//! The builder, which collects the contents of a new image.

use super::contents::Contents;
use super::host::{HostDirs, OpenDirs};
use super::options::{CreateOptions, Hide};
use super::plan::{Plan, Warnings};
use super::rules::{Pattern, Rules};
use super::tree::{Kind, NodeId, ROOT, Times, Tree, TreeNode, components};
use crate::error::{Error, Result};
use crate::iso::node::{FileType, Node};
use crate::storage::source::Source;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Collects the contents of a new image: files of the host, bytes, files of other images.
///
/// Paths in the image are bytes: names separated by `/`, with an optional leading `/`. A file
/// replaces an earlier file with the same path, unless [`CreateOptions::duplicates`] refuses it.
/// Directories with the same path are merged, with the attributes of the later one.
///
/// Type, length and attributes of a host file are read when it is added, its contents when the
/// image is written. It is an error if the file has changed by then.
#[derive(Debug)]
pub struct Builder {
    pub(super) options: CreateOptions,
    pub(super) tree: Tree,
    pub(super) contents: Contents,
    pub(super) dirs: HostDirs,
    pub(super) open: OpenDirs,
    pub(super) rules: Rules,
    /// Files that replaced an earlier one, for [`Duplicates::Report`](super::Duplicates::Report).
    pub(super) replaced: Warnings,
    /// Inode number in the tree of each host file, by device and inode number.
    pub(super) inodes: HashMap<(u64, u64), u32>,
    /// Content number of each host file, by device and inode number.
    pub(super) host_contents: HashMap<(u64, u64), u32>,
    /// Inode number in the tree of each file from another image, by serial number and content
    /// number.
    node_inodes: HashMap<(u32, u32), u32>,
    /// Warnings of the plan that are known already.
    pub(super) warnings: Vec<String>,
}

impl Builder {
    /// Creates a builder with an empty root directory.
    pub fn new(options: CreateOptions) -> Self {
        Self {
            options,
            tree: Tree::new(),
            contents: Contents::default(),
            dirs: HostDirs::default(),
            open: OpenDirs::default(),
            rules: Rules::default(),
            replaced: Warnings::default(),
            inodes: HashMap::new(),
            host_contents: HashMap::new(),
            node_inodes: HashMap::new(),
            warnings: Vec::new(),
        }
    }

    /// Returns the options for modification.
    pub fn options_mut(&mut self) -> &mut CreateOptions {
        &mut self.options
    }

    /// Adds a warning to those of the plan.
    pub(crate) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Excludes files that match a shell pattern when host directories are listed from now on. The
    /// pattern is compared with the name and with the whole path on the host; `*` also matches
    /// slashes. Files that are added by their own path are not affected.
    pub fn exclude(&mut self, pattern: &str) {
        self.rules.excluded.push(Pattern::new(pattern));
    }

    /// Like [`exclude`](Self::exclude), but the pattern is compared with the name only.
    pub fn exclude_name(&mut self, pattern: &str) {
        self.rules.excluded.push(Pattern::of_name(pattern));
    }

    /// Hides files, or directories with their contents, that match a shell pattern when they are
    /// added from now on. The pattern is compared with the name and with the path as given, on the
    /// host or, for contents that are not from the host and for the boot catalog, in the image; `*`
    /// also matches slashes.
    pub fn hide(&mut self, pattern: &str, how: Hide) {
        self.rules.hidden.push((Pattern::new(pattern), how.into()));
    }

    /// Sets the weight of files of the host whose path matches a shell pattern when they are added
    /// from now on. The contents of files with a greater weight have lower addresses; those of
    /// files with equal weights are in the order of the primary tree. A directory passes its weight
    /// on to the files below it that match no pattern. Of several patterns that match, the last one
    /// counts. The boot catalog and boot images come before all other files.
    pub fn weigh(&mut self, pattern: &str, weight: i32) {
        self.rules.weights.push((Pattern::new(pattern), weight));
    }

    /// Sets the weight of the file at `at`, or of all files below this directory. Returns false if
    /// it does not exist.
    pub fn set_weight(&mut self, at: &[u8], weight: i32) -> bool {
        self.edit(at, true, &mut |node| node.weight = weight)
    }

    /// Adds the contents of the host directory `dir`, recursively, to the directory `at` of the
    /// image, which gets the attributes of `dir`.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if a file cannot be read,
    /// [`Invalid`](crate::ErrorKind::Invalid) if a directory and another file have the same path,
    /// or if a symbolic link to be followed refers to a directory that contains it.
    pub fn add_tree(&mut self, at: &[u8], dir: impl AsRef<Path>) -> Result<()> {
        let node = self.directory(at)?;
        self.scan(node, dir.as_ref())
    }

    /// Adds a file of the host, or a directory with its contents, as `at`. A symbolic link is
    /// recorded as such unless [`CreateOptions::follow_symlinks`] is set.
    ///
    /// # Errors
    /// As [`add_tree`](Self::add_tree).
    pub fn add_path(&mut self, at: &[u8], path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        match self.parent_and_name(at)? {
            Some((parent, name)) => self.scan_one(parent, name, path),
            None => self.scan(ROOT, path),
        }
    }

    /// Adds a regular file with the contents `bytes`. Missing parent directories are created.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if `at` is not a valid path, or is the path
    /// of a directory.
    pub fn add_bytes(&mut self, at: &[u8], bytes: impl Into<Vec<u8>>) -> Result<()> {
        let content = self.contents.add_bytes(bytes.into())?;
        self.add_content(at, content)
    }

    /// Adds a regular file with the contents of `source`, which is read when the image is written.
    /// Missing parent directories are created.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if `at` is not a valid path, or is the path
    /// of a directory.
    pub fn add_source(&mut self, at: &[u8], source: Arc<dyn Source>) -> Result<()> {
        let content = self.contents.add_source(source)?;
        self.add_content(at, content)
    }

    fn add_content(&mut self, at: &[u8], content: u32) -> Result<()> {
        let (parent, name) = self.parent_and_name(at)?.ok_or_else(root_is_not_a_file)?;
        self.check_duplicate(parent, name, |_| at.to_vec())?;
        let hidden = self.rules.hidden(name, || at.to_vec());
        let name = self.tree.store_name(name)?;
        let node = TreeNode { hidden, ..TreeNode::plain(name, Kind::File(content)) };
        self.tree.insert(parent, node)?;
        Ok(())
    }

    /// Adds a directory and its missing parents. An existing directory is not changed.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if `at` is not a valid path, or is the path
    /// of a file that is not a directory.
    pub fn add_directory(&mut self, at: &[u8]) -> Result<()> {
        self.directory(at).map(|_| ())
    }

    /// Adds a file or directory of another image, with its attributes. `contents` are the contents
    /// of a regular file, `None` for an empty one. Nodes with the same serial number and contents
    /// stay hard links to one file.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if `at` is not a valid path, if a directory
    /// and another file would have the same path, or if the length of `contents` differs from that
    /// of the node.
    pub fn add_node(
        &mut self,
        at: &[u8],
        node: &Node,
        contents: Option<Arc<dyn Source>>,
    ) -> Result<()> {
        let kind = self.kind_of_node(at, node, contents)?;
        let id = match self.parent_and_name(at)? {
            None if node.is_dir() => ROOT,
            None => return Err(root_is_not_a_file()),
            Some((parent, name)) => {
                if !node.is_dir() {
                    self.check_duplicate(parent, name, |_| at.to_vec())?;
                }
                let hidden = self.rules.hidden(name, || at.to_vec());
                let name = self.tree.store_name(name)?;
                let mut new = TreeNode { hidden, ..TreeNode::plain(name, kind) };
                let key = match (&new.kind, node.attributes.serial, node.attributes.links) {
                    (&Kind::File(content), Some(serial), Some(2..)) => Some((serial, content)),
                    _ => None,
                };
                new.inode = key.and_then(|key| self.node_inodes.get(&key)).copied().unwrap_or(0);
                let id = self.tree.insert(parent, new)?;
                if let Some(key) = key {
                    self.node_inodes.insert(key, self.tree.node(id).inode);
                }
                id
            }
        };
        let attributes = &node.attributes;
        let new = self.tree.node_mut(id);
        new.mode = attributes.mode.map_or(new.mode, |mode| mode & 0o7777);
        new.uid = attributes.uid.unwrap_or(0);
        new.gid = attributes.gid.unwrap_or(0);
        new.times = Times {
            modified: attributes.modified,
            accessed: attributes.accessed,
            changed: attributes.changed,
        };
        Ok(())
    }

    fn kind_of_node(
        &mut self,
        at: &[u8],
        node: &Node,
        contents: Option<Arc<dyn Source>>,
    ) -> Result<Kind> {
        let (major, minor) = node.attributes.device.unwrap_or_default();
        Ok(match node.file_type {
            FileType::Directory => Kind::Directory(Vec::new()),
            FileType::Regular => {
                let len = contents.as_ref().map_or(0, |contents| contents.len());
                if len != node.size {
                    return Err(Error::invalid(format!(
                        "\"{}\" has {} bytes, but its contents have {len}",
                        String::from_utf8_lossy(at),
                        node.size
                    )));
                }
                Kind::File(match contents {
                    Some(contents) => self.contents.add_source(contents)?,
                    None => self.contents.add_bytes(Vec::new())?,
                })
            }
            FileType::Symlink => Kind::Symlink(node.link_target.clone().unwrap_or_default().into()),
            FileType::BlockDevice => Kind::Device { block: true, major, minor },
            FileType::CharacterDevice => Kind::Device { block: false, major, minor },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
        })
    }

    /// Sets the permissions of the file or directory at `at`, and of everything below it if
    /// `recursive`. `mode` gets the current permissions, and whether it is a directory, and returns
    /// the new ones. Returns false if the file does not exist.
    pub fn set_mode(
        &mut self,
        at: &[u8],
        recursive: bool,
        mode: &dyn Fn(u32, bool) -> u32,
    ) -> bool {
        self.edit(at, recursive, &mut |node| node.mode = mode(node.mode, node.is_dir()) & 0o7777)
    }

    /// Sets the owner and the group of the file or directory at `at`, and of everything below it if
    /// `recursive`. With `None`, they are not changed. Returns false if the file does not exist.
    pub fn set_owner(
        &mut self,
        at: &[u8],
        recursive: bool,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> bool {
        self.edit(at, recursive, &mut |node| {
            node.uid = uid.unwrap_or(node.uid);
            node.gid = gid.unwrap_or(node.gid);
        })
    }

    fn edit(&mut self, at: &[u8], recursive: bool, edit: &mut dyn FnMut(&mut TreeNode)) -> bool {
        let Some(first) = self.lookup(at) else { return false };
        let mut todo = vec![first];
        while let Some(id) = todo.pop() {
            let node = self.tree.node_mut(id);
            edit(node);
            todo.extend_from_slice(if recursive { node.children() } else { &[] });
        }
        true
    }

    /// Returns whether the file at `at` is a directory, or `None` if it does not exist.
    pub fn is_directory(&self, at: &[u8]) -> Option<bool> {
        self.lookup(at).map(|id| self.tree.node(id).is_dir())
    }

    /// Removes a file, or a directory with its contents. Returns false if it does not exist or is
    /// the root.
    pub fn remove(&mut self, at: &[u8]) -> bool {
        let Ok(names) = components(at) else { return false };
        let Some((name, parents)) = names.split_last() else { return false };
        let Some(parent) = self.find(parents) else { return false };
        let Ok(node) = self.tree.find(parent, name) else { return false };
        self.tree.remove(parent, node);
        true
    }

    fn find(&self, names: &[&[u8]]) -> Option<NodeId> {
        names.iter().try_fold(ROOT, |node, name| self.tree.find(node, name).ok())
    }

    fn lookup(&self, at: &[u8]) -> Option<NodeId> {
        self.find(&components(at).ok()?)
    }

    /// Assigns identifiers and addresses.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if an option is invalid or a file cannot be
    /// recorded with these options, [`Limit`](crate::ErrorKind::Limit) if the image would be too
    /// large, [`Io`](crate::ErrorKind::Io) if a boot image cannot be read.
    pub fn plan(self) -> Result<Plan> {
        Plan::new(self)
    }

    /// Splits a path into parent directory, which is created if it does not exist, and name.
    /// Returns `None` for the root.
    pub(super) fn parent_and_name<'p>(
        &mut self,
        at: &'p [u8],
    ) -> Result<Option<(NodeId, &'p [u8])>> {
        let names = components(at)?;
        let Some((&name, parents)) = names.split_last() else { return Ok(None) };
        Ok(Some((self.directories(parents)?, name)))
    }

    fn directory(&mut self, at: &[u8]) -> Result<NodeId> {
        let names = components(at)?;
        self.directories(&names)
    }

    fn directories(&mut self, names: &[&[u8]]) -> Result<NodeId> {
        names.iter().try_fold(ROOT, |parent, name| self.directory_in(parent, name))
    }

    /// Returns the directory `name` in `parent`, and creates it if it does not exist.
    pub(super) fn directory_in(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId> {
        if let Ok(found) = self.tree.find(parent, name)
            && self.tree.node(found).is_dir()
        {
            return Ok(found);
        }
        let name = self.tree.store_name(name)?;
        self.tree.insert(parent, TreeNode::plain(name, Kind::Directory(Vec::new())))
    }
}

fn root_is_not_a_file() -> Error {
    Error::invalid("the root of an image is a directory")
}
