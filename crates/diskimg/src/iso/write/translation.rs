//! Translation tables: a file in each directory that lists the original name of each identifier,
//! for readers without Rock Ridge. As written by mkisofs, a line has the type of the file, the
//! identifier, the name and, for links and devices, the target or the device number.
//!
//! ```text
//! F README_F.TXT;1          <tab>read me first.txt
//! L LINK.;1                 <tab>link<tab>target
//! ```

use super::builder::Builder;
use super::contents::{Content, Contents, Data};
use super::hierarchy::{Directory, Hierarchy};
use super::tree::{Hidden, Kind, NodeId, Tree, TreeNode};
use crate::error::Result;
use crate::storage::number::to_u64;
use std::collections::HashMap;
use std::sync::Arc;

/// Column after the identifier, which is padded with spaces: the length of the longest identifier
/// that mkisofs records.
const WIDTH: usize = 208;

/// The tables: content number of each table by directory.
#[derive(Debug, Default)]
pub(super) struct Translation(HashMap<NodeId, u32>);

impl Translation {
    /// Adds a table, still empty, to every directory that is not empty in the primary tree.
    pub(super) fn new(builder: &mut Builder) -> Result<Self> {
        let Some(options) = builder.options.translation_tables.clone() else {
            return Ok(Self::default());
        };
        super::tree::check_name(options.name.as_bytes())?;
        let tree = &mut builder.tree;
        let shown = |id: &NodeId| !tree.node(*id).hidden.contains(Hidden::PRIMARY);
        let listed = |id: &NodeId| tree.node(*id).children().iter().any(shown);
        let dirs: Vec<NodeId> = tree.all().filter(listed).collect();
        let mut tables = HashMap::new();
        for dir in dirs {
            let content = Content { len: 0, data: Data::Bytes(Arc::default()) };
            let content = builder.contents.add(content)?;
            let name = tree.store_name(options.name.as_bytes())?;
            let mut node = TreeNode::plain(name, Kind::File(content));
            node.hidden.set(Hidden::JOLIET | Hidden::UDF, !options.in_joliet);
            tree.insert(dir, node)?;
            tables.insert(dir, content);
        }
        Ok(Self(tables))
    }

    /// Fills in the tables.
    pub(super) fn fill(&self, tree: &Tree, primary: &Hierarchy, contents: &mut Contents) {
        for dir in &primary.dirs {
            let Some(&content) = self.0.get(&dir.node) else { continue };
            let bytes: Arc<[u8]> = table(tree, primary, dir, content).into();
            contents.set(content, Content { len: to_u64(bytes.len()), data: Data::Bytes(bytes) });
        }
    }
}

fn table(tree: &Tree, primary: &Hierarchy, dir: &Directory, own: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in primary.entries_of(dir) {
        let node = tree.node(entry.node);
        let device;
        let (kind, target): (_, &[u8]) = match &node.kind {
            Kind::File(content) if *content == own => continue,
            Kind::File(_) => (b'F', b""),
            Kind::Directory(_) => (b'D', b""),
            Kind::Symlink(target) => (b'L', target),
            &Kind::Device { block, major, minor } => {
                device = format!("{major} {minor}");
                (if block { b'B' } else { b'C' }, device.as_bytes())
            }
            Kind::Fifo => (b'P', b""),
            Kind::Socket => (b'S', b""),
        };
        let identifier = primary.entry_name(entry);
        out.extend_from_slice(&[kind, b' ']);
        out.extend_from_slice(identifier);
        out.resize(out.len() + WIDTH.saturating_sub(identifier.len()), b' ');
        out.push(b'\t');
        out.extend_from_slice(tree.name(entry.node));
        if !target.is_empty() {
            out.push(b'\t');
            out.extend_from_slice(target);
        }
        out.push(b'\n');
    }
    out
}
