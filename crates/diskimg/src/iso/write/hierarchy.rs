//! The directory hierarchy of ECMA-119: directories numbered by level, records sorted, identifiers
//! unique.

use super::identifier::{Identifiers, Naming, Unnamed};
use super::tree::{Hidden, Kind, NodeId, ROOT, Tree, TreeNode, check_name};
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u32};
use std::collections::HashMap;
use std::ops::Range;

/// Maximum number of directory levels, including the root (ECMA-119, 6.8.2.1).
const LEVELS: u32 = 8;

/// The primary hierarchy, or that of Joliet.
#[derive(Debug, Default)]
pub(super) struct Hierarchy {
    /// In the order of the path table. The first is the root, which has number 1 there.
    pub(super) dirs: Vec<Directory>,
    pub(super) entries: Vec<Entry>,
    names: Vec<u8>,
    /// Index in `dirs` for each node; `u32::MAX` if it is not a directory.
    by_node: Vec<u32>,
}

/// A directory, and the location of its records.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) node: NodeId,
    /// Index of the parent in [`Hierarchy::dirs`]. The root is its own parent.
    pub(super) parent: u32,
    /// Index of the original parent, if the directory is relocated.
    pub(super) moved_from: Option<u32>,
    pub(super) entries: Range<u32>,
    /// Number of subdirectories in the source tree, for the link count.
    pub(super) subdirectories: u32,
    name: (u32, u8),
    /// First sector.
    pub(super) lba: u32,
    /// Length of the records in sectors.
    pub(super) sectors: u32,
    /// Length of the continuation areas, which follow the records, in sectors.
    pub(super) continued: u32,
}

/// An entry of a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) node: NodeId,
    name: u32,
    name_len: u8,
    pub(super) role: Role,
    /// Index in [`Hierarchy::dirs`], if the entry is a directory.
    pub(super) dir: u32,
}

/// Role of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The node itself.
    Itself,
    /// An entry at the original position of a relocated directory (Rock Ridge CL).
    Placeholder,
    /// A relocated directory at its new position (Rock Ridge RE).
    Moved,
}

/// Parameters of a hierarchy.
pub(super) struct Plan<'p> {
    pub(super) naming: &'p dyn Naming,
    /// Include only directories and regular files.
    pub(super) plain: bool,
    /// Omit the nodes that are hidden in this way, and everything below them.
    pub(super) without: Hidden,
    /// A directory that is not included.
    pub(super) left_out: Option<NodeId>,
    /// Relocated directories.
    pub(super) moved: &'p Relocation,
    /// Called for each node whose identifier differs from its name.
    pub(super) report: &'p mut dyn FnMut(NodeId),
}

impl Plan<'_> {
    /// Returns whether a node is part of the hierarchy.
    fn includes(&self, tree: &Tree, node: NodeId) -> bool {
        let is_plain = matches!(tree.node(node).kind, Kind::Directory(_) | Kind::File(_));
        let is_hidden = tree.node(node).hidden.contains(self.without);
        (is_plain || !self.plain) && !is_hidden && self.left_out != Some(node)
    }
}

/// The directories to be relocated because they are too deep.
#[derive(Debug, Default)]
pub(super) struct Relocation {
    /// The directories, in the order in which they were found.
    nodes: Vec<NodeId>,
    /// Original parent of each of them.
    from: HashMap<NodeId, NodeId>,
    /// The directory that contains them.
    into: NodeId,
    /// True if it was created for the relocated directories.
    is_created: bool,
}

impl Relocation {
    /// Finds the directories that are too deep, and creates the directory `into` for them.
    pub(super) fn find(tree: &mut Tree, into: &str) -> Result<Self> {
        let mut found = Self::default();
        let mut todo = vec![(ROOT, 1)];
        while let Some((dir, level)) = todo.pop() {
            for &child in tree.node(dir).children() {
                let node = tree.node(child);
                if !node.is_dir() || node.hidden.contains(Hidden::PRIMARY) {
                    continue;
                }
                if level < LEVELS {
                    todo.push((child, level + 1));
                    continue;
                }
                found.from.insert(child, dir);
                found.nodes.push(child);
                // Its new level: root, directory of relocated directories, directory.
                todo.push((child, 3));
            }
        }
        if !found.nodes.is_empty() {
            check_name(into.as_bytes())?;
            found.into = match tree.find(ROOT, into.as_bytes()) {
                Ok(id) if tree.node(id).is_dir() => id,
                _ => {
                    found.is_created = true;
                    let name = tree.store_name(into.as_bytes())?;
                    tree.insert(ROOT, TreeNode::plain(name, Kind::Directory(Vec::new())))?
                }
            };
        }
        Ok(found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Returns the directory of relocated directories if it was created for the relocated directories. Trees
    /// without them do not have it.
    pub(super) fn created(&self) -> Option<NodeId> {
        self.is_created.then_some(self.into)
    }

    fn children(&self, tree: &Tree, dir: NodeId) -> Vec<(NodeId, Role)> {
        let role = |&child: &NodeId| {
            let moved = self.from.contains_key(&child);
            (child, if moved { Role::Placeholder } else { Role::Itself })
        };
        let mut children: Vec<_> = tree.node(dir).children().iter().map(role).collect();
        if !self.nodes.is_empty() && dir == self.into {
            children.extend(self.nodes.iter().map(|&node| (node, Role::Moved)));
        }
        children
    }
}

impl Hierarchy {
    pub(super) fn new(tree: &Tree, mut plan: Plan<'_>) -> Result<Self> {
        let mut new = Self { by_node: vec![u32::MAX; tree.len()], ..Self::default() };
        new.push_dir(ROOT, 0, (0, 0));
        let mut identifiers = Identifiers::default();
        let mut at = 0;
        while at < new.dirs.len() {
            new.fill(tree, at, &mut plan, &mut identifiers)?;
            at += 1;
        }
        for &node in &plan.moved.nodes {
            let from = plan.moved.from.get(&node).map(|&from| new.by_node[to_index(from)]);
            let dir = to_index(new.by_node[to_index(node)]);
            new.dirs[dir].moved_from = from;
        }
        for at in 0..new.entries.len() {
            if new.entries[at].role == Role::Placeholder {
                new.entries[at].dir = new.by_node[to_index(new.entries[at].node)];
            }
        }
        // The parent directory number in a path table has 16 bits.
        if new.dirs.len() > usize::from(u16::MAX) {
            let message =
                format!("{} directories; the maximum of a path table is 65535", new.dirs.len());
            return Err(Error::limit(message));
        }
        Ok(new)
    }

    fn push_dir(&mut self, node: NodeId, parent: u32, name: (u32, u8)) -> u32 {
        let id = to_u32(self.dirs.len());
        self.by_node[to_index(node)] = id;
        self.dirs.push(Directory {
            node,
            parent,
            moved_from: None,
            entries: 0..0,
            subdirectories: 0,
            name,
            lba: 0,
            sectors: 0,
            continued: 0,
        });
        id
    }

    /// Creates the entries of one directory, in the order of their records, and adds its
    /// subdirectories to `dirs`.
    fn fill(
        &mut self,
        tree: &Tree,
        at: usize,
        plan: &mut Plan<'_>,
        identifiers: &mut Identifiers,
    ) -> Result<()> {
        let mut children = plan.moved.children(tree, self.dirs[at].node);
        children.retain(|&(child, _)| plan.includes(tree, child));
        let is_dir = |&(child, role): &(NodeId, Role)| {
            tree.node(child).is_dir() && role != Role::Placeholder
        };
        let unnamed: Vec<_> = children
            .iter()
            .map(|child| Unnamed { name: tree.name(child.0), is_dir: is_dir(child) })
            .collect();
        identifiers.assign(plan.naming, &unnamed, &mut |child, _| {
            (plan.report)(children[child].0);
        });
        let first = to_u32(self.entries.len());
        for (child, identifier) in identifiers.finished(plan.naming, &unnamed) {
            let (node, role) = children[child];
            let name = u32::try_from(self.names.len());
            let name = name.map_err(|_| Error::limit("the total length of names exceeds 4 GiB"))?;
            let name_len = u8::try_from(identifier.len())
                .map_err(|_| Error::invalid("an identifier is longer than 255 bytes"))?;
            self.names.extend_from_slice(&identifier);
            let dir = match is_dir(&children[child]) {
                true => self.push_dir(node, to_u32(at), (name, name_len)),
                false => 0,
            };
            self.entries.push(Entry { node, name, name_len, role, dir });
        }
        let directories =
            children.iter().filter(|child| tree.node(child.0).is_dir() && child.1 != Role::Moved);
        self.dirs[at].subdirectories = to_u32(directories.count());
        self.dirs[at].entries = first..to_u32(self.entries.len());
        Ok(())
    }

    pub(super) fn entries_of(&self, dir: &Directory) -> &[Entry] {
        &self.entries[to_index(dir.entries.start)..to_index(dir.entries.end)]
    }

    pub(super) fn entry_name(&self, entry: &Entry) -> &[u8] {
        &self.names[to_index(entry.name)..][..usize::from(entry.name_len)]
    }

    /// Returns the identifier of a directory. That of the root is a zero byte.
    pub(super) fn dir_name(&self, dir: &Directory) -> &[u8] {
        match dir.node {
            ROOT => &[0],
            _ => &self.names[to_index(dir.name.0)..][..usize::from(dir.name.1)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::PrimaryNames;
    use super::super::options::CreateOptions;
    use super::super::tree::components;
    use super::*;

    fn tree(paths: &[&str]) -> Tree {
        let mut tree = Tree::new();
        for path in paths {
            let mut at = ROOT;
            for name in components(path.as_bytes()).expect("a path") {
                let name = tree.store_name(name).expect("fits");
                let node = TreeNode::plain(name, Kind::Directory(Vec::new()));
                at = tree.insert(at, node).expect("fits");
            }
        }
        tree
    }

    fn hierarchy(tree: &Tree, moved: &Relocation) -> Hierarchy {
        let naming = PrimaryNames::new(&CreateOptions::default());
        let plan = Plan {
            naming: &naming,
            plain: false,
            without: Hidden::PRIMARY,
            left_out: None,
            moved,
            report: &mut |_| {},
        };
        Hierarchy::new(tree, plan).expect("fits")
    }

    #[test]
    fn directories_are_numbered_by_level_then_parent_then_name() {
        let tree = tree(&["b/y", "a/z", "a/x", "c"]);
        let hierarchy = hierarchy(&tree, &Relocation::default());
        let names: Vec<_> = hierarchy.dirs.iter().map(|dir| hierarchy.dir_name(dir)).collect();
        assert_eq!(names, [&[0][..], b"a", b"b", b"c", b"x", b"z", b"y"]);
        let parents: Vec<_> = hierarchy.dirs.iter().map(|dir| dir.parent).collect();
        assert_eq!(parents, [0, 0, 0, 0, 1, 1, 2]);
        assert_eq!(hierarchy.dirs[0].subdirectories, 3);
    }

    #[test]
    fn directories_that_are_too_deep_are_relocated_until_none_is() {
        let deep = (1..=30).map(|n| n.to_string()).collect::<Vec<_>>().join("/");
        let mut tree = tree(&[&deep, "1/2/3/4/5/6/7/other"]);
        let moved = Relocation::find(&mut tree, "rr_moved").expect("fits");
        let hierarchy = hierarchy(&tree, &moved);
        let depth = |dir: &Directory| {
            let (mut dir, mut depth) = (dir, 1);
            while dir.node != ROOT {
                dir = &hierarchy.dirs[dir.parent as usize];
                depth += 1;
            }
            depth
        };
        assert_eq!(hierarchy.dirs.iter().map(depth).max(), Some(8));
        // All 31 directories and `rr_moved`, each once.
        assert_eq!(hierarchy.dirs.len(), 33);
        let placeholders = hierarchy.entries.iter().filter(|e| e.role == Role::Placeholder);
        for entry in placeholders {
            let target = &hierarchy.dirs[entry.dir as usize];
            assert_eq!(target.node, entry.node);
            let from = &hierarchy.dirs[target.moved_from.expect("moved") as usize];
            assert!(tree.node(from.node).children().contains(&entry.node));
        }
    }
}
