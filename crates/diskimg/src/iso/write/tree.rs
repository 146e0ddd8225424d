//! The tree that an image shall hold, before it has names or addresses: small
//! nodes side by side, their names in one buffer.

use crate::error::{Error, Result};
use crate::iso::time::Timestamp;
use crate::storage::number::{to_index, to_u32};

/// A node, by its place in the tree.
pub(super) type NodeId = u32;

/// The directory that all is in.
pub(super) const ROOT: NodeId = 0;

/// Bytes in the tree's buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameRange {
    start: u32,
    len: u32,
}

/// One file or directory.
#[derive(Debug, Clone)]
pub(super) struct TreeNode {
    pub(super) name: NameRange,
    pub(super) kind: Kind,
    /// Permissions, set-id and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Which file it is: names of one file have the same. 0: a file of its own, which gets the
    /// next number.
    pub(super) inode: u32,
    pub(super) times: Times,
}

/// When a file changed, as far as anyone said.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) modified: Option<Timestamp>,
    pub(super) accessed: Option<Timestamp>,
    pub(super) changed: Option<Timestamp>,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Its children, sorted by their names' bytes.
    Directory(Vec<NodeId>),
    /// A regular file; its contents by their place in [`Contents`](super::contents::Contents).
    File(u32),
    /// Where it leads.
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
    /// The last number given.
    inodes: u32,
}

impl TreeNode {
    /// One that nobody said anything of but what it is.
    pub(super) fn plain(name: NameRange, kind: Kind) -> Self {
        let mode = if matches!(kind, Kind::Directory(_)) { 0o755 } else { 0o644 };
        Self { name, kind, mode, uid: 0, gid: 0, inode: 0, times: Times::default() }
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

    /// How many nodes there are, those that were removed too.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// All nodes that are in the tree.
    pub(super) fn all(&self) -> impl Iterator<Item = NodeId> {
        let mut todo = vec![ROOT];
        std::iter::from_fn(move || {
            let id = todo.pop()?;
            todo.extend(self.node(id).children());
            Some(id)
        })
    }

    /// The last of the numbers that tell files apart.
    pub(super) fn last_inode(&self) -> u32 {
        self.inodes
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        self.bytes(self.node(id).name)
    }

    pub(super) fn bytes(&self, span: NameRange) -> &[u8] {
        &self.bytes[to_index(span.start)..to_index(span.start + span.len)]
    }

    /// Keeps a name.
    ///
    /// # Errors
    /// A limit, if the names take 4 GiB together.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Result<NameRange> {
        let fits = u32::try_from(self.bytes.len() + bytes.len()).is_ok();
        if !fits {
            return Err(Error::limit("the tree's names take more than 4 GiB together"));
        }
        let span = NameRange { start: to_u32(self.bytes.len()), len: to_u32(bytes.len()) };
        self.bytes.extend_from_slice(bytes);
        Ok(span)
    }

    /// The child of that name, or where it would stand among the children.
    pub(super) fn find(&self, dir: NodeId, name: &[u8]) -> std::result::Result<NodeId, usize> {
        let children = self.node(dir).children();
        // What comes sorted is added behind the last.
        if children.last().is_none_or(|&last| self.name(last) < name) {
            return Err(children.len());
        }
        let found = children.binary_search_by(|&child| self.name(child).cmp(name));
        found.map(|at| children[at])
    }

    /// Puts a node into a directory. Two directories of one name become one, with the attributes
    /// of the later; any other file replaces one that was there.
    ///
    /// # Errors
    /// Invalid, if one of the two is a directory and the other is not.
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
                        return Err(self.both_kinds(id));
                    }
                    _ => {}
                }
                self.nodes[to_index(id)] = node;
                Ok(id)
            }
            Err(at) => {
                let id = NodeId::try_from(self.nodes.len()).ok().filter(|&id| id < NodeId::MAX);
                let id = id.ok_or_else(|| Error::limit("more than 4 thousand million files"))?;
                self.nodes.push(node);
                if let Kind::Directory(children) = &mut self.nodes[to_index(dir)].kind {
                    children.insert(at, id);
                }
                Ok(id)
            }
        }
    }

    fn both_kinds(&self, id: NodeId) -> Error {
        let name = String::from_utf8_lossy(self.name(id)).into_owned();
        Error::invalid(format!("\"{name}\" is to be a directory and another kind of file"))
    }

    /// Gives every file the content that stands for its own.
    pub(super) fn replace_contents(&mut self, stands_for: &[u32]) {
        for node in &mut self.nodes {
            if let Kind::File(content) = &mut node.kind {
                *content = stands_for[to_index(*content)];
            }
        }
    }

    /// Takes a child, with all that is in it, out of a directory.
    pub(super) fn remove(&mut self, dir: NodeId, child: NodeId) {
        if let Kind::Directory(children) = &mut self.nodes[to_index(dir)].kind {
            children.retain(|&other| other != child);
        }
    }
}

/// The names that a path in the image consists of.
///
/// # Errors
/// Invalid, if one of them is `.` or `..`, has a zero byte or more than 255 bytes.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
    parts.map(|part| check_name(part).map(|()| part)).collect()
}

pub(super) fn check_name(name: &[u8]) -> Result<()> {
    let why = match name {
        b"." | b".." => "is no name of a file",
        _ if name.contains(&0) => "has a zero byte in it",
        _ if name.contains(&b'/') || name.is_empty() => "is no name of a file",
        _ if name.len() > 255 => "is longer than 255 bytes",
        _ => return Ok(()),
    };
    Err(Error::invalid(format!("\"{}\" {why}", String::from_utf8_lossy(name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tree: &mut Tree, name: &str) -> TreeNode {
        let name = tree.keep(name.as_bytes()).expect("fits");
        TreeNode::plain(name, Kind::Fifo)
    }

    #[test]
    fn children_are_sorted_whatever_the_order_they_came_in() {
        let mut tree = Tree::new();
        for name in ["b", "a", "ab", "c", "B", "aa"] {
            let node = file(&mut tree, name);
            tree.insert(ROOT, node).expect("new");
        }
        let names: Vec<_> = tree.node(ROOT).children().iter().map(|&id| tree.name(id)).collect();
        assert_eq!(names, [b"B" as &[u8], b"a", b"aa", b"ab", b"b", b"c"]);
        let c = tree.find(ROOT, b"c").expect("is there");
        tree.remove(ROOT, c);
        assert!(tree.find(ROOT, b"c").is_err());
    }

    #[test]
    fn who_replaces_the_first_name_of_a_file_does_not_become_that_file() {
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
    fn a_directory_and_a_file_do_not_share_a_name() {
        let mut tree = Tree::new();
        let node = file(&mut tree, "x");
        tree.insert(ROOT, node).expect("new");
        let name = tree.keep(b"x").expect("fits");
        let dir = TreeNode::plain(name, Kind::Directory(Vec::new()));
        let error = tree.insert(ROOT, dir).expect_err("both");
        assert!(error.to_string().contains("\"x\""), "{error}");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        assert_eq!(components(b"/a//b/").expect("fine"), [b"a", b"b"]);
        assert!(components(b"").expect("the root").is_empty());
        for path in [&b"a/../b"[..], b".", b"a\0b", &[b'x'; 256]] {
            assert!(components(path).is_err());
        }
    }
}
