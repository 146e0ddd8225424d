//! The tree of a new image, before identifiers and addresses are assigned. Nodes are small and in
//! one list; their names are in one buffer.

use super::options::Hide;
use crate::error::{Error, Result};
use crate::iso::time::Timestamp;
use crate::storage::number::{to_index, to_u32};
use bitflags::bitflags;

/// A node, as an index in the list of nodes.
pub(super) type NodeId = u32;

/// The root directory.
pub(super) const ROOT: NodeId = 0;

/// A name, as a range of the tree's buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameRange {
    start: u32,
    len: u32,
}

/// A file or directory.
#[derive(Debug, Clone)]
pub(super) struct TreeNode {
    pub(super) name: NameRange,
    pub(super) kind: Kind,
    /// Permissions, set-user-ID, set-group-ID and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Inode number, equal for all hard links to a file. 0 for a new file, which gets the next
    /// number when it is inserted.
    pub(super) inode: u32,
    pub(super) times: Times,
    pub(super) hidden: Hidden,
    /// Contents with a greater weight have lower addresses.
    pub(super) weight: i32,
}

bitflags! {
    /// How a node is hidden.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Hidden: u8 {
        /// Not in the primary tree.
        const PRIMARY = 1;
        /// Not in the Joliet tree.
        const JOLIET = 2;
        /// Not in the UDF tree.
        const UDF = 4;
        /// Recorded with the file flag "hidden".
        const FLAG = 8;
    }
}

impl From<Hide> for Hidden {
    fn from(how: Hide) -> Self {
        match how {
            Hide::FromPrimary => Self::PRIMARY,
            Hide::FromJoliet => Self::JOLIET,
            Hide::FromUdf => Self::UDF,
            Hide::WithFlag => Self::FLAG,
        }
    }
}

/// Timestamps of a file, as far as known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) modified: Option<Timestamp>,
    pub(super) accessed: Option<Timestamp>,
    pub(super) changed: Option<Timestamp>,
}

/// Type of a node, with the data specific to it.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// A directory, with its children sorted by the bytes of their names.
    Directory(Vec<NodeId>),
    /// A regular file, with its number in [`Contents`](super::contents::Contents).
    File(u32),
    /// A symbolic link, with its target.
    Symlink(Box<[u8]>),
    Device {
        block: bool,
        major: u32,
        minor: u32,
    },
    Fifo,
    Socket,
}

/// All nodes. The first is the root.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<TreeNode>,
    bytes: Vec<u8>,
    /// The last inode number assigned.
    inodes: u32,
}

impl TreeNode {
    /// Creates a node with default attributes.
    pub(super) fn plain(name: NameRange, kind: Kind) -> Self {
        let mode = if matches!(kind, Kind::Directory(_)) { 0o755 } else { 0o644 };
        Self {
            name,
            kind,
            mode,
            uid: 0,
            gid: 0,
            inode: 0,
            times: Times::default(),
            hidden: Hidden::empty(),
            weight: 0,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }

    pub(super) fn children(&self) -> &[NodeId] {
        match &self.kind {
            Kind::Directory(children) => children,
            _ => &[],
        }
    }
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = TreeNode::plain(NameRange { start: 0, len: 0 }, Kind::Directory(Vec::new()));
        Self { nodes: vec![root], bytes: Vec::new(), inodes: 0 }
    }

    pub(super) fn node(&self, id: NodeId) -> &TreeNode {
        &self.nodes[to_index(id)]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut TreeNode {
        &mut self.nodes[to_index(id)]
    }

    /// Returns the number of nodes, including removed ones.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns all nodes that are in the tree.
    pub(super) fn all(&self) -> impl Iterator<Item = NodeId> {
        let mut todo = vec![ROOT];
        std::iter::from_fn(move || {
            let id = todo.pop()?;
            todo.extend(self.node(id).children());
            Some(id)
        })
    }

    /// Gives a node an inode number of its own, because its contents are no longer those of its
    /// other hard links.
    pub(super) fn separate(&mut self, id: NodeId) {
        self.inodes += 1;
        self.node_mut(id).inode = self.inodes;
    }

    /// Returns the last inode number assigned.
    pub(super) fn last_inode(&self) -> u32 {
        self.inodes
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        self.bytes(self.node(id).name)
    }

    pub(super) fn bytes(&self, range: NameRange) -> &[u8] {
        &self.bytes[to_index(range.start)..to_index(range.start + range.len)]
    }

    /// Stores a name in the buffer.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if the total length of names exceeds 4 GiB.
    pub(super) fn store_name(&mut self, bytes: &[u8]) -> Result<NameRange> {
        let fits = u32::try_from(self.bytes.len() + bytes.len()).is_ok();
        if !fits {
            return Err(Error::limit("the total length of names exceeds 4 GiB"));
        }
        let range = NameRange { start: to_u32(self.bytes.len()), len: to_u32(bytes.len()) };
        self.bytes.extend_from_slice(bytes);
        Ok(range)
    }

    /// Returns the child with the name `name`, or the index at which it would be inserted.
    pub(super) fn find(&self, dir: NodeId, name: &[u8]) -> std::result::Result<NodeId, usize> {
        let children = self.node(dir).children();
        // Fast path for names that are added in order.
        if children.last().is_none_or(|&last| self.name(last) < name) {
            return Err(children.len());
        }
        let found = children.binary_search_by(|&child| self.name(child).cmp(name));
        found.map(|at| children[at])
    }

    /// Inserts a node into a directory. If a node with the same name exists, two directories are
    /// merged, with the attributes of the new one; any other file is replaced.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if only one of the two is a directory.
    pub(super) fn insert(&mut self, dir: NodeId, mut node: TreeNode) -> Result<NodeId> {
        if node.inode == 0 {
            self.inodes += 1;
            node.inode = self.inodes;
        }
        match self.find(dir, self.bytes(node.name)) {
            Ok(id) => {
                let old = &mut self.nodes[to_index(id)];
                match (&mut old.kind, &node.kind) {
                    (Kind::Directory(children), Kind::Directory(_)) => {
                        node.kind = Kind::Directory(std::mem::take(children));
                    }
                    (Kind::Directory(_), _) | (_, Kind::Directory(_)) => {
                        return Err(self.kind_conflict(id));
                    }
                    _ => {}
                }
                self.nodes[to_index(id)] = node;
                Ok(id)
            }
            Err(at) => {
                let id = NodeId::try_from(self.nodes.len()).ok().filter(|&id| id < NodeId::MAX);
                let id = id.ok_or_else(|| Error::limit("more than 2^32 - 1 files"))?;
                self.nodes.push(node);
                if let Kind::Directory(children) = &mut self.nodes[to_index(dir)].kind {
                    children.insert(at, id);
                }
                Ok(id)
            }
        }
    }

    fn kind_conflict(&self, id: NodeId) -> Error {
        let name = String::from_utf8_lossy(self.name(id)).into_owned();
        Error::invalid(format!("\"{name}\" is the name of both a directory and another file"))
    }

    /// Replaces the content of every file by `replacements[content]`.
    pub(super) fn replace_contents(&mut self, replacements: &[u32]) {
        for node in &mut self.nodes {
            if let Kind::File(content) = &mut node.kind {
                *content = replacements[to_index(*content)];
            }
        }
    }

    /// Removes a child, with its contents, from a directory.
    pub(super) fn remove(&mut self, dir: NodeId, child: NodeId) {
        if let Kind::Directory(children) = &mut self.nodes[to_index(dir)].kind {
            children.retain(|&other| other != child);
        }
    }
}

/// Splits a path in the image into its components.
///
/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) if one of them is `.` or `..`, contains a zero
/// byte, or is longer than 255 bytes.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
    parts.map(|part| check_name(part).map(|()| part)).collect()
}

pub(super) fn check_name(name: &[u8]) -> Result<()> {
    let why = match name {
        b"." | b".." => "is not a valid file name",
        _ if name.contains(&0) => "contains a zero byte",
        _ if name.contains(&b'/') || name.is_empty() => "is not a valid file name",
        _ if name.len() > 255 => "is longer than 255 bytes",
        _ => return Ok(()),
    };
    Err(Error::invalid(format!("\"{}\" {why}", String::from_utf8_lossy(name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tree: &mut Tree, name: &str) -> TreeNode {
        let name = tree.store_name(name.as_bytes()).expect("fits");
        TreeNode::plain(name, Kind::Fifo)
    }

    #[test]
    fn children_are_sorted_independent_of_the_order_of_insertion() {
        let mut tree = Tree::new();
        for name in ["b", "a", "ab", "c", "B", "aa"] {
            let node = file(&mut tree, name);
            tree.insert(ROOT, node).expect("new");
        }
        let names: Vec<_> = tree.node(ROOT).children().iter().map(|&id| tree.name(id)).collect();
        assert_eq!(names, [b"B" as &[u8], b"a", b"aa", b"ab", b"b", b"c"]);
        let c = tree.find(ROOT, b"c").expect("exists");
        tree.remove(ROOT, c);
        assert!(tree.find(ROOT, b"c").is_err());
    }

    #[test]
    fn a_file_that_replaces_one_of_two_hard_links_gets_its_own_inode() {
        let mut tree = Tree::new();
        let first = file(&mut tree, "first");
        let first = tree.insert(ROOT, first).expect("new");
        let mut second = file(&mut tree, "second");
        second.inode = tree.node(first).inode;
        let second = tree.insert(ROOT, second).expect("new");
        let other = file(&mut tree, "first");
        assert_eq!(tree.insert(ROOT, other).expect("replaces"), first);
        assert_ne!(tree.node(first).inode, tree.node(second).inode);
        let third = file(&mut tree, "third");
        let third = tree.insert(ROOT, third).expect("new");
        assert_ne!(tree.node(first).inode, tree.node(third).inode);
    }

    #[test]
    fn a_directory_and_a_file_cannot_have_the_same_name() {
        let mut tree = Tree::new();
        let node = file(&mut tree, "x");
        tree.insert(ROOT, node).expect("new");
        let name = tree.store_name(b"x").expect("fits");
        let dir = TreeNode::plain(name, Kind::Directory(Vec::new()));
        let error = tree.insert(ROOT, dir).expect_err("both");
        assert!(error.to_string().contains("\"x\""), "{error}");
    }

    #[test]
    fn invalid_paths_are_refused() {
        assert_eq!(components(b"/a//b/").expect("fine"), [b"a", b"b"]);
        assert!(components(b"").expect("the root").is_empty());
        for path in [&b"a/../b"[..], b".", b"a\0b", &[b'x'; 256]] {
            assert!(components(path).is_err());
        }
    }
}
