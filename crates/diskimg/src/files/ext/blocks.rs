//! Where the blocks of a file are.

use super::ExtTree;
use super::inode::Inode;
use crate::error::{Error, Result};
use crate::storage::number::{to_u32, to_u64};
use byteorder::{ByteOrder, LittleEndian};

/// Consecutive blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// First block, within the file.
    pub(super) logical: u32,
    /// First block, within the file system.
    pub(super) physical: u64,
    pub(super) count: u32,
}

/// Returns the stored blocks among the first `max` blocks of a file. What is not stored reads as
/// zeros.
///
/// # Errors
/// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the tree or the map is damaged, or larger than
/// that of a file of `max` blocks can be.
pub(super) fn runs(tree: &ExtTree, inode: &Inode, max: u64) -> Result<Vec<Run>> {
    let max = u32::try_from(max).unwrap_or(u32::MAX);
    // A node of the tree has at least one extent, and there are at most five nodes above it.
    let mut search = Search { tree, max, nodes_left: u64::from(max) * 6 + 16, runs: Vec::new() };
    match inode.has_extents() {
        true => search.extents(inode.block(), None)?,
        false => search.map(inode.block())?,
    }
    Ok(search.runs)
}

struct Search<'a> {
    tree: &'a ExtTree,
    max: u32,
    nodes_left: u64,
    runs: Vec<Run>,
}

fn fault<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::corrupt("ext4 extents", message.into()))
}

impl Search<'_> {
    /// Returns a block of the tree or map.
    fn node(&mut self, block: u64) -> Result<Vec<u8>> {
        let Some(left) = self.nodes_left.checked_sub(1) else {
            return fault("more blocks of extents than the file needs");
        };
        self.nodes_left = left;
        self.tree.block(block)
    }

    /// Adds the extents of a node of the tree, which must have the depth `depth`.
    fn extents(&mut self, node: &[u8], depth: Option<u16>) -> Result<()> {
        const MAGIC: u16 = 0xf30a;
        let short = |at: usize| LittleEndian::read_u16(&node[at..]);
        if node.len() < 12 || short(0) != MAGIC {
            return fault("a node without its signature");
        }
        let (entries, found) = (usize::from(short(2)), short(6));
        if found > 5 || depth.is_some_and(|depth| depth != found) {
            return fault(format!("a node of depth {found}"));
        }
        let Some(entries) = node.get(12..12 + entries * 12) else {
            return fault(format!("{entries} extents in a node of {} bytes", node.len()));
        };
        for entry in entries.chunks_exact(12) {
            let logical = LittleEndian::read_u32(entry);
            if logical >= self.max {
                return Ok(());
            }
            match found.checked_sub(1) {
                Some(below) => {
                    let high = u64::from(LittleEndian::read_u16(&entry[8..]));
                    let child = high << 32 | u64::from(LittleEndian::read_u32(&entry[4..]));
                    let child = self.node(child)?;
                    self.extents(&child, Some(below))?;
                }
                None => {
                    let count = LittleEndian::read_u16(&entry[4..]);
                    let high = u64::from(LittleEndian::read_u16(&entry[6..]));
                    let physical = high << 32 | u64::from(LittleEndian::read_u32(&entry[8..]));
                    // Longer ones are not initialized: they read as zeros.
                    if count <= 32_768 {
                        self.add(logical, physical, count.into())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, logical: u32, physical: u64, count: u32) -> Result<()> {
        let count = count.min(self.max.saturating_sub(logical));
        let end =
            self.runs.last().map_or(0, |last| u64::from(last.logical) + u64::from(last.count));
        if u64::from(logical) < end {
            return fault(format!("extents overlap or are not in order at block {logical}"));
        }
        if count > 0 {
            self.runs.push(Run { logical, physical, count });
        }
        Ok(())
    }

    /// Adds the blocks of a map: twelve numbers of blocks, and the numbers of blocks with numbers,
    /// of up to three levels.
    fn map(&mut self, map: &[u8]) -> Result<()> {
        let mut logical = 0;
        for (index, number) in map.chunks_exact(4).enumerate() {
            let level = index.saturating_sub(11);
            self.mapped(LittleEndian::read_u32(number), to_u32(level), &mut logical)?;
        }
        Ok(())
    }

    fn mapped(&mut self, block: u32, level: u32, logical: &mut u64) -> Result<()> {
        if *logical >= u64::from(self.max) {
            return Ok(());
        }
        let per_block = self.tree.superblock.block_bytes / 4;
        match (level, block) {
            (_, 0) => *logical = logical.saturating_add(per_block.saturating_pow(level)),
            (0, _) => {
                self.add(to_u32(*logical), block.into(), 1)?;
                *logical += 1;
            }
            _ => {
                let node = self.node(block.into())?;
                for number in node.chunks_exact(4) {
                    self.mapped(LittleEndian::read_u32(number), level - 1, logical)?;
                }
            }
        }
        debug_assert!(to_u64(self.runs.len()) <= u64::from(self.max));
        Ok(())
    }
}
