//! Collecting what an image shall hold.

use super::contents::Contents;
use super::host::{HostDirs, OpenDirs};
use super::options::CreateOptions;
use super::plan::Plan;
use super::tree::{Kind, NodeId, ROOT, Times, Tree, TreeNode, components};
use crate::error::{Error, Result};
use crate::iso::node::{FileType, Node};
use crate::storage::source::Source;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Collects what an image shall hold: files of the host, bytes, files of other images.
///
/// A path in the image is bytes, its names separated by `/`, with or without one in front. What
/// comes later replaces a file of the same path; directories of the same path become one, with
/// the attributes of the later.
///
/// Of the host's files, kind, length and attributes are taken when they are added, and their
/// contents when the image is written. A file that has changed by then is an error.
#[derive(Debug)]
pub struct Builder {
    pub(super) options: CreateOptions,
    pub(super) tree: Tree,
    pub(super) contents: Contents,
    pub(super) dirs: HostDirs,
    pub(super) open: OpenDirs,
    pub(super) excluded: Vec<Vec<u8>>,
    /// The number in the tree of a file of the host.
    pub(super) inodes: HashMap<(u64, u64), u32>,
    /// Its contents.
    pub(super) host_contents: HashMap<(u64, u64), u32>,
    /// The same of files in other images, by serial number and contents.
    node_inodes: HashMap<(u32, u32), u32>,
}

impl Builder {
    /// Begins with an empty root.
    pub fn new(options: CreateOptions) -> Self {
        Self {
            options,
            tree: Tree::new(),
            contents: Contents::default(),
            dirs: HostDirs::default(),
            open: OpenDirs::default(),
            excluded: Vec::new(),
            inodes: HashMap::new(),
            host_contents: HashMap::new(),
            node_inodes: HashMap::new(),
        }
    }

    /// What the image shall be like, to be changed.
    pub fn options_mut(&mut self) -> &mut CreateOptions {
        &mut self.options
    }

    /// Leaves out what matches from now on when directories of the host are listed: a shell
    /// pattern (`*` takes slashes, too) that is compared with the name and with the whole path on
    /// the host. What is added by its own path is not asked.
    pub fn exclude(&mut self, pattern: &str) {
        self.excluded.push(pattern.as_bytes().to_vec());
    }

    /// Adds what is in the host's directory `dir`, and in the directories in it, under the
    /// directory `at` of the image, which takes its attributes.
    ///
    /// # Errors
    /// What the system said of a file; invalid if a name is that of another kind of file
    /// already, or a link that is to be followed leads into a directory that it is in.
    pub fn add_tree(&mut self, at: &[u8], dir: impl AsRef<Path>) -> Result<()> {
        let node = self.directory(at)?;
        self.scan(node, dir.as_ref())
    }

    /// Adds a file of the host, or a directory with all that is in it, under exactly this path.
    /// A symbolic link is recorded as one unless [`CreateOptions::follow_symlinks`] is set.
    ///
    /// # Errors
    /// As [`add_tree`](Self::add_tree).
    pub fn add_path(&mut self, at: &[u8], path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        match self.place(at)? {
            Some((parent, name)) => self.scan_one(parent, name, path),
            None => self.scan(ROOT, path),
        }
    }

    /// Adds a regular file with these contents. Directories that it is in are made.
    ///
    /// # Errors
    /// Invalid if that is no path, or one of a directory.
    pub fn add_bytes(&mut self, at: &[u8], bytes: impl Into<Vec<u8>>) -> Result<()> {
        let content = self.contents.add_bytes(bytes.into())?;
        self.add_content(at, content)
    }

    /// Adds a regular file with the contents of `source`, which is read when the image is written.
    ///
    /// # Errors
    /// Invalid if that is no path, or one of a directory.
    pub fn add_source(&mut self, at: &[u8], source: Arc<dyn Source>) -> Result<()> {
        let content = self.contents.add_source(source)?;
        self.add_content(at, content)
    }

    fn add_content(&mut self, at: &[u8], content: u32) -> Result<()> {
        let (parent, name) = self.place(at)?.ok_or_else(root_is_no_file)?;
        let name = self.tree.keep(name)?;
        self.tree.insert(parent, TreeNode::plain(name, Kind::File(content)))?;
        Ok(())
    }

    /// Adds a directory, and those that it is in. One that is there stays as it is.
    ///
    /// # Errors
    /// Invalid if that is no path, or one of another kind of file.
    pub fn add_directory(&mut self, at: &[u8]) -> Result<()> {
        self.directory(at).map(|_| ())
    }

    /// Adds a file or directory as another image has it, with its attributes; `contents` are a
    /// regular file's (none: it is empty). Nodes of one image with the same serial number and
    /// contents stay names of one file.
    ///
    /// # Errors
    /// Invalid if that is no path, or one of another kind of file, or if the length of the
    /// contents is not the node's.
    pub fn add_node(
        &mut self,
        at: &[u8],
        node: &Node,
        contents: Option<Arc<dyn Source>>,
    ) -> Result<()> {
        let kind = self.kind_of_node(at, node, contents)?;
        let id = match self.place(at)? {
            None if node.is_dir() => ROOT,
            None => return Err(root_is_no_file()),
            Some((parent, name)) => {
                let name = self.tree.keep(name)?;
                let mut new = TreeNode::plain(name, kind);
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
                        "\"{}\" has {} bytes, but contents of {len} bytes came with it",
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

    /// Takes a file, or a directory with all that is in it, out again. `false` if there is none;
    /// the root stays.
    pub fn remove(&mut self, at: &[u8]) -> bool {
        let Ok(names) = components(at) else { return false };
        let mut parent = None;
        let mut node = ROOT;
        for name in names {
            let Ok(child) = self.tree.find(node, name) else { return false };
            parent = Some(node);
            node = child;
        }
        parent.is_some_and(|parent| {
            self.tree.remove(parent, node);
            true
        })
    }

    /// Makes names and addresses for everything.
    ///
    /// # Errors
    /// Invalid if an option is, or a file cannot be recorded as the options say; a limit if the
    /// image would be too large.
    pub fn plan(self) -> Result<Plan> {
        Plan::new(self)
    }

    /// The directory of a path and the name in it; `None` for the root.
    pub(super) fn place<'p>(&mut self, at: &'p [u8]) -> Result<Option<(NodeId, &'p [u8])>> {
        let names = components(at)?;
        let Some((&name, above)) = names.split_last() else { return Ok(None) };
        Ok(Some((self.directories(above)?, name)))
    }

    fn directory(&mut self, at: &[u8]) -> Result<NodeId> {
        let names = components(at)?;
        self.directories(&names)
    }

    fn directories(&mut self, names: &[&[u8]]) -> Result<NodeId> {
        names.iter().try_fold(ROOT, |parent, name| self.directory_in(parent, name))
    }

    /// Finds or makes a directory.
    pub(super) fn directory_in(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId> {
        if let Ok(found) = self.tree.find(parent, name)
            && self.tree.node(found).is_dir()
        {
            return Ok(found);
        }
        let name = self.tree.keep(name)?;
        self.tree.insert(parent, TreeNode::plain(name, Kind::Directory(Vec::new())))
    }
}

fn root_is_no_file() -> Error {
    Error::invalid("the root of an image is a directory")
}
