//! Adding files of the host to the tree.

use super::builder::Builder;
use super::contents::{Content, Data};
use super::host::{self, FileStatus, HostFile, NameList};
use super::options::Duplicates;
use super::tree::{Kind, NodeId, Times, TreeNode, check_name};
use crate::error::{Error, Result};
use crate::iso::node::FileType as Type;
use crate::remedy::Remedy;
use crate::storage::output::reserved_output;
use std::path::Path;

/// A directory that remains to be listed.
struct PendingDir {
    /// The directory of the host.
    dir: u32,
    /// The directory in the tree.
    node: NodeId,
    identity: (u64, u64),
}

impl Builder {
    /// Adds the contents of a host directory, recursively, to `node`.
    pub(super) fn scan(&mut self, node: NodeId, path: &Path) -> Result<()> {
        // Symbolic links in the path are followed, because the path is the caller's.
        let dir = self.dirs.add(None, path, true)?;
        let status = self.open.status(&self.dirs, dir, b".", true)?;
        self.set_attributes(node, &status);
        let weight = self.rules.weight(|| host::bytes_of(path));
        self.tree.node_mut(node).weight = weight.unwrap_or_default();
        self.scan_all(PendingDir { dir, node, identity: status.identity })
    }

    /// Adds a file of the host, or a directory with its contents, to `parent` as `name`.
    pub(super) fn scan_one(&mut self, parent: NodeId, name: &[u8], path: &Path) -> Result<()> {
        let Some((host_parent, own)) = host::split(path) else {
            // `/` or `..`, which are directories.
            let node = self.directory_in(parent, name)?;
            return self.scan(node, path);
        };
        let dir = self.dirs.add(None, &host_parent, true)?;
        let pending = self.add_file(parent, name, dir, &own, &[])?;
        pending.map_or(Ok(()), |pending| self.scan_all(pending))
    }

    fn scan_all(&mut self, first: PendingDir) -> Result<()> {
        let mut pending = vec![first];
        let mut names = NameList::default();
        // The identity of each directory, for detecting symbolic links to one of their parents.
        let mut identities = std::collections::HashMap::new();
        // An image in its own tree is not part of it, nor is what it is written to.
        let reserved = reserved_output().map(|(temporary, _)| temporary);
        let reserved = reserved
            .as_ref()
            .and_then(|path| path.file_name())
            .map(|name| host::bytes_of(Path::new(name)));
        while let Some(PendingDir { dir, node, identity }) = pending.pop() {
            let mut parents = Vec::new();
            if self.options.follow_symlinks {
                identities.insert(dir, identity);
                parents.extend(self.dirs.chain(dir).filter_map(|at| identities.get(&at).copied()));
            }
            self.open.list(&self.dirs, dir, &mut names)?;
            names.sort();
            let found = pending.len();
            for name in names.iter() {
                check_name(name)?;
                if reserved.as_deref() == Some(name) || self.is_excluded(dir, name) {
                    continue;
                }
                pending.extend(self.add_file(node, name, dir, name, &parents)?);
            }
            // The last one is popped first.
            pending[found..].reverse();
        }
        Ok(())
    }

    fn is_excluded(&self, dir: u32, name: &[u8]) -> bool {
        self.rules.is_excluded(name, || self.host_path(dir, name))
    }

    /// Returns the path of a host file as bytes.
    fn host_path(&self, dir: u32, name: &[u8]) -> Vec<u8> {
        host::bytes_of(&host::path_of(&self.dirs, dir, name))
    }

    /// Applies [`CreateOptions::duplicates`](super::CreateOptions::duplicates) to a file that is
    /// not a directory and is about to be inserted. `new` returns its path.
    pub(super) fn check_duplicate(
        &mut self,
        parent: NodeId,
        name: &[u8],
        new: impl FnOnce(&Self) -> Vec<u8>,
    ) -> Result<()> {
        if self.options.duplicates == Duplicates::Replace {
            return Ok(());
        }
        let Ok(old) = self.tree.find(parent, name) else { return Ok(()) };
        let old = match self.tree.node(old).kind {
            // An error in any case.
            Kind::Directory(_) => return Ok(()),
            Kind::File(content) => self.contents.host_path(content, &self.dirs, &self.tree),
            _ => None,
        };
        let old = old.map_or_else(|| "an earlier file".into(), |path| path.display().to_string());
        let new = new(self);
        let [new, name] = [&new, name].map(String::from_utf8_lossy);
        if self.options.duplicates == Duplicates::Refuse {
            return Err(Error::invalid(format!(
                "{old} and {new} would have the same path in the image, ending in \"{name}\""
            )));
        }
        self.replaced.line(|| format!("{new} replaces {old} as \"{name}\""));
        Ok(())
    }

    /// Adds the file `own` of the host directory `dir` to `parent` as `name`. Returns a directory
    /// to be listed by the caller. `parents` are the identities of `dir` and its parents.
    fn add_file(
        &mut self,
        parent: NodeId,
        name: &[u8],
        dir: u32,
        own: &[u8],
        parents: &[(u64, u64)],
    ) -> Result<Option<PendingDir>> {
        let follow = self.options.follow_symlinks;
        let mut status = self.open.status(&self.dirs, dir, own, false)?;
        let mut through_link = false;
        if follow && status.kind == Type::Symlink {
            through_link = true;
            status = self.open.status(&self.dirs, dir, own, true)?;
        }
        if parents.contains(&status.identity) && status.kind == Type::Directory {
            let path = host::path_of(&self.dirs, dir, own);
            let message = "the symbolic link refers to a directory that contains it";
            return Err(Error::invalid(message)
                .in_file(path)
                .hint("exclude it")
                .with_remedy(Remedy::KeepSymlinks));
        }
        if status.kind != Type::Directory {
            self.check_duplicate(parent, name, |builder| builder.host_path(dir, own))?;
        }
        let hidden = self.rules.hidden(own, || self.host_path(dir, own));
        let weight = self.rules.weight(|| self.host_path(dir, own));
        let weight = weight.unwrap_or(self.tree.node(parent).weight);
        let name = self.tree.store_name(name)?;
        let mut node = TreeNode::plain(name, self.kind_of(dir, own, &status, through_link)?);
        (node.hidden, node.weight) = (hidden, weight);
        if !matches!(node.kind, Kind::Directory(_)) {
            node.inode = self.inodes.get(&status.identity).copied().unwrap_or(0);
        }
        let id = self.tree.insert(parent, node)?;
        self.set_attributes(id, &status);
        if status.kind != Type::Directory {
            let content = match self.tree.node(id).kind {
                Kind::File(content) => Some(content),
                _ => None,
            };
            let inode = self.tree.node(id).inode;
            self.inodes.insert(status.identity, inode);
            if let Some(content) = content {
                self.host_contents.insert(status.identity, content);
            }
            return Ok(None);
        }
        let dir = self.dirs.add(Some(dir), &host::name_of(own), through_link)?;
        Ok(Some(PendingDir { dir, node: id, identity: status.identity }))
    }

    fn kind_of(
        &mut self,
        dir: u32,
        own: &[u8],
        status: &FileStatus,
        through_link: bool,
    ) -> Result<Kind> {
        let (major, minor) = status.device;
        Ok(match status.kind {
            Type::Directory => Kind::Directory(Vec::new()),
            Type::Regular => {
                if let Some(&content) = self.host_contents.get(&status.identity) {
                    return Ok(Kind::File(content));
                }
                let name = self.tree.store_name(own)?;
                let FileStatus { modified, sparse, size, .. } = *status;
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

    fn set_attributes(&mut self, id: NodeId, status: &FileStatus) {
        let node = self.tree.node_mut(id);
        (node.mode, node.uid, node.gid) = (status.mode, status.uid, status.gid);
        // The times of access and attribute change are omitted: they differ in a copy of the tree,
        // which must produce the same image.
        let modified = Some(status.modified);
        node.times = Times { modified, accessed: None, changed: None };
    }
}
