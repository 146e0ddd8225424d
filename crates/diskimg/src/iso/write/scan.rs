//! The host's files, taken into the tree.

use super::builder::Builder;
use super::contents::{Content, Data};
use super::glob;
use super::host::{self, HostFile, Looked, NameList};
use super::tree::{Kind, NodeId, Times, TreeNode, check_name};
use crate::error::{Error, Result};
use crate::iso::node::FileType as Type;
use std::path::Path;

/// A directory that is still to be listed.
struct Todo {
    /// Of the host.
    dir: u32,
    /// In the tree.
    node: NodeId,
    identity: (u64, u64),
}

impl Builder {
    /// What is in a directory of the host, and in the directories in it.
    pub(super) fn scan(&mut self, node: NodeId, path: &Path) -> Result<()> {
        // The path itself was given by the caller: links in it are followed.
        let dir = self.dirs.add(None, path, true)?;
        let looked = self.open.look(&self.dirs, dir, b".", true)?;
        self.take_attributes(node, &looked);
        self.scan_all(Todo { dir, node, identity: looked.identity })
    }

    /// A file of the host, or a directory and all in it, under this name.
    pub(super) fn scan_one(&mut self, parent: NodeId, name: &[u8], path: &Path) -> Result<()> {
        let Some((above, own)) = host::split(path) else {
            // `/` or `..`: certainly a directory.
            let node = self.directory_in(parent, name)?;
            return self.scan(node, path);
        };
        let dir = self.dirs.add(None, &above, true)?;
        let todo = self.take(parent, name, dir, &own, &[])?;
        todo.map_or(Ok(()), |todo| self.scan_all(todo))
    }

    fn scan_all(&mut self, first: Todo) -> Result<()> {
        let mut todo = vec![first];
        let mut names = NameList::default();
        // Directories that the one at hand is in, and itself: what a link must not lead back to.
        let mut identities = std::collections::HashMap::new();
        while let Some(Todo { dir, node, identity }) = todo.pop() {
            let mut above = Vec::new();
            if self.options.follow_symlinks {
                identities.insert(dir, identity);
                above.extend(self.dirs.chain(dir).filter_map(|at| identities.get(&at).copied()));
            }
            self.open.list(&self.dirs, dir, &mut names)?;
            names.sort();
            let found = todo.len();
            for name in names.iter() {
                check_name(name)?;
                if self.is_excluded(dir, name) {
                    continue;
                }
                todo.extend(self.take(node, name, dir, name, &above)?);
            }
            // The last is taken first.
            todo[found..].reverse();
        }
        Ok(())
    }

    fn is_excluded(&self, dir: u32, name: &[u8]) -> bool {
        if self.excluded.is_empty() {
            return false;
        }
        let path = host::path_of(&self.dirs, dir, name);
        let path = host::bytes_of(&path);
        let mut patterns = self.excluded.iter();
        patterns.any(|pattern| glob::matches(pattern, name) || glob::matches(pattern, &path))
    }

    /// Takes one file in. A directory is the caller's to list.
    fn take(
        &mut self,
        parent: NodeId,
        name: &[u8],
        dir: u32,
        own: &[u8],
        above: &[(u64, u64)],
    ) -> Result<Option<Todo>> {
        let follow = self.options.follow_symlinks;
        let mut looked = self.open.look(&self.dirs, dir, own, false)?;
        let mut through_link = false;
        if follow && looked.kind == Type::Symlink {
            through_link = true;
            looked = self.open.look(&self.dirs, dir, own, true)?;
        }
        if above.contains(&looked.identity) && looked.kind == Type::Directory {
            let path = host::path_of(&self.dirs, dir, own);
            let message = "the symbolic link leads to a directory that it is in";
            return Err(Error::invalid(message)
                .in_file(path)
                .hint("exclude it, or do not follow links"));
        }
        let name = self.tree.keep(name)?;
        let mut node = TreeNode::plain(name, self.kind_of(dir, own, &looked, through_link)?);
        if !matches!(node.kind, Kind::Directory(_)) {
            node.inode = self.inodes.get(&looked.identity).copied().unwrap_or(0);
        }
        let id = self.tree.insert(parent, node)?;
        self.take_attributes(id, &looked);
        if looked.kind != Type::Directory {
            let content = match self.tree.node(id).kind {
                Kind::File(content) => Some(content),
                _ => None,
            };
            let inode = self.tree.node(id).inode;
            self.inodes.insert(looked.identity, inode);
            if let Some(content) = content {
                self.host_contents.insert(looked.identity, content);
            }
            return Ok(None);
        }
        let dir = self.dirs.add(Some(dir), &host::name_of(own), through_link)?;
        Ok(Some(Todo { dir, node: id, identity: looked.identity }))
    }

    fn kind_of(
        &mut self,
        dir: u32,
        own: &[u8],
        looked: &Looked,
        through_link: bool,
    ) -> Result<Kind> {
        let (major, minor) = looked.device;
        Ok(match looked.kind {
            Type::Directory => Kind::Directory(Vec::new()),
            Type::Regular => {
                if let Some(&content) = self.host_contents.get(&looked.identity) {
                    return Ok(Kind::File(content));
                }
                let name = self.tree.keep(own)?;
                let Looked { modified, sparse, size, .. } = *looked;
                let file = HostFile { dir, name, modified, follow: through_link, sparse };
                Kind::File(self.contents.add(Content { len: size, data: Data::Host(file) })?)
            }
            Type::Symlink => Kind::Symlink(self.open.read_link(&self.dirs, dir, own)?.into()),
            Type::BlockDevice => Kind::Device { block: true, major, minor },
            Type::CharacterDevice => Kind::Device { block: false, major, minor },
            Type::Fifo => Kind::Fifo,
            Type::Socket => Kind::Socket,
        })
    }

    fn take_attributes(&mut self, id: NodeId, looked: &Looked) {
        let node = self.tree.node_mut(id);
        (node.mode, node.uid, node.gid) = (looked.mode, looked.uid, looked.gid);
        // Not the last read, nor the last change of attributes: a copy of the tree has others,
        // and would make another image.
        let modified = Some(looked.modified);
        node.times = Times { modified, accessed: None, changed: None };
    }
}
