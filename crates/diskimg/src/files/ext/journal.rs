//! The journal: newer versions of blocks, which a mount would write to their places.
//!
//! ```text
//!   superblock │ descriptor, block, block, …, commit │ descriptor, … revocation, … commit │ …
//!                └ transaction n                       └ transaction n + 1
//! ```
//!
//! A descriptor lists where the blocks after it belong. A revocation lists blocks whose versions in
//! earlier transactions are void. A transaction without a commit block never happened. Fast commits
//! are not replayed, and checksums are not verified. Numbers are big-endian.

use super::ExtTree;
use super::blocks::{self, Run};
use super::inode::Inode;
use crate::error::{Error, Result};
use crate::storage::number::to_index;
use byteorder::{BigEndian, ByteOrder};
use std::collections::HashMap;

/// First four bytes of blocks of the journal itself.
pub(super) const MAGIC: u32 = 0xc03b_3998;

/// Maximum number of blocks of a journal that is replayed: 4 GiB with blocks of 4 KiB. mke2fs makes
/// journals of 1 GiB at most.
const MAX_BLOCKS: u64 = 1 << 20;

/// Maximum number of revocations, also of the same block; they are kept in memory.
const MAX_REVOKED: usize = 1 << 20;

/// Length of the header of a block, in bytes.
const HEADER: usize = 12;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOCATION: u32 = 5;

/// Where the newest versions of blocks are.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// For each block: the block with its newest version, and whether that begins with the
    /// journal's signature, which is stored as zeros.
    blocks: HashMap<u64, (u64, bool)>,
}

impl Overlay {
    /// Returns the block that has the newest version of `block`, and whether it is escaped.
    pub(super) fn find(&self, block: u64) -> (u64, bool) {
        self.blocks.get(&block).copied().unwrap_or((block, false))
    }
}

/// Reads the journal.
///
/// # Errors
/// Returns [`Corrupt`](crate::ErrorKind::Corrupt), [`Unsupported`](crate::ErrorKind::Unsupported)
/// or [`Limit`](crate::ErrorKind::Limit) if it cannot be replayed.
pub(super) fn read(tree: &ExtTree) -> Result<Overlay> {
    if tree.superblock.journal_inode == 0 {
        return Err(Error::unsupported("the journal is on another device"));
    }
    let inode = Inode::read(tree, tree.superblock.journal_inode)?;
    let blocks = inode.size / tree.superblock.block_bytes;
    if blocks > MAX_BLOCKS {
        return Err(Error::limit(format!("a journal of {blocks} blocks, more than {MAX_BLOCKS}")));
    }
    let stored = tree.superblock.blocks.min(tree.source.len() / tree.superblock.block_bytes);
    if blocks > stored {
        return fault(format!("{blocks} blocks in a file system of which {stored} are stored"));
    }
    let journal = Journal::open(tree, blocks::runs(tree, &inode, blocks)?)?;
    if journal.start == 0 {
        return Ok(Overlay::default());
    }
    let mut replay = Replay::default();
    let end = journal.scan(&mut |transaction, item| replay.collect_revoked(transaction, item))?;
    replay.end = Some(end);
    journal.scan(&mut |transaction, item| replay.collect_blocks(transaction, item))?;
    Ok(Overlay { blocks: replay.blocks })
}

struct Journal<'a> {
    tree: &'a ExtTree,
    runs: Vec<Run>,
    /// First block of the log, and the block after its last.
    first: u32,
    end: u32,
    /// First block of the oldest transaction, and its number; block 0 if the log is empty.
    start: u32,
    sequence: u32,
    has_64_bits: bool,
    /// Version of the checksums: 0, 2 or 3.
    checksums: u8,
}

/// What a transaction has.
enum Item {
    /// A new version of a block, in a block of the file system.
    Block { target: u64, stored: u64, escaped: bool },
    /// Earlier versions of a block are void.
    Revoked(u64),
}

#[derive(Default)]
struct Replay {
    /// For each revoked block, the last transaction that revokes it.
    revoked: HashMap<u64, u32>,
    /// Number of revocations, also of the same block.
    revocations: usize,
    blocks: HashMap<u64, (u64, bool)>,
    /// The transaction after the last complete one.
    end: Option<u32>,
}

impl Replay {
    fn collect_revoked(&mut self, transaction: u32, item: Item) -> Result<()> {
        if let Item::Revoked(block) = item {
            self.revoked.insert(block, transaction);
            self.revocations += 1;
            if self.revocations > MAX_REVOKED {
                let message = format!("a journal with more than {MAX_REVOKED} revocations");
                return Err(Error::limit(message));
            }
        }
        Ok(())
    }

    fn collect_blocks(&mut self, transaction: u32, item: Item) -> Result<()> {
        let Item::Block { target, stored, escaped } = item else { return Ok(()) };
        // Transactions are numbered modulo 2^32.
        let precedes = |a: u32, b: u32| a.wrapping_sub(b) > u32::MAX / 2;
        let is_complete = self.end.is_some_and(|end| precedes(transaction, end));
        let revoked = self.revoked.get(&target);
        // A revocation of a transaction that never happened is void, too.
        let revoked = revoked.filter(|&&by| self.end.is_some_and(|end| precedes(by, end)));
        if is_complete && revoked.is_none_or(|&by| precedes(by, transaction)) {
            self.blocks.insert(target, (stored, escaped));
        }
        Ok(())
    }
}

impl<'a> Journal<'a> {
    fn open(tree: &'a ExtTree, runs: Vec<Run>) -> Result<Self> {
        let Some(first) = runs.first().filter(|run| run.logical == 0) else {
            return fault("no superblock");
        };
        let bytes = tree.block(first.physical)?;
        let number = |at: usize| BigEndian::read_u32(&bytes[at..]);
        if number(0) != MAGIC || !matches!(number(4), 3 | 4) {
            return fault("no superblock");
        }
        if u64::from(number(12)) != tree.superblock.block_bytes {
            return fault(format!("blocks of {} bytes", number(12)));
        }
        let features = if number(4) == 4 { number(0x28) } else { 0 };
        if features & !0x3f != 0 {
            let message = format!("features {:#x} of the journal", features & !0x3f);
            return Err(Error::unsupported(message).in_structure("ext4 journal"));
        }
        let fast = match (features & 0x20, number(0x54)) {
            (0, _) => 0,
            (_, 0) => 256,
            (_, blocks) => blocks,
        };
        let checksums = match features & 0x18 {
            0 => 0,
            8 => 2,
            _ => 3,
        };
        let (first, end) = (number(0x14), number(0x10).saturating_sub(fast));
        let start = number(0x1c);
        if start != 0 && (first == 0 || !(first..end).contains(&start)) {
            return fault(format!("a log from {start} in the blocks {first} to {end}"));
        }
        let (sequence, has_64_bits) = (number(0x18), features & 2 != 0);
        Ok(Self { tree, runs, first, end, start, sequence, has_64_bits, checksums })
    }

    /// Returns the block of the file system that has a block of the journal.
    fn stored(&self, block: u32) -> Result<u64> {
        let after = self.runs.partition_point(|run| run.logical <= block);
        let run = after.checked_sub(1).map(|index| self.runs[index]);
        match run.filter(|run| block - run.logical < run.count) {
            Some(run) => Ok(run.physical.saturating_add(u64::from(block - run.logical))),
            None => fault(format!("block {block} is not stored")),
        }
    }

    /// Passes what the transactions have to `take`, in order, and returns the number of the
    /// transaction after the last complete one. Begins with the oldest one and ends where the next
    /// block is not one of the log: there, the log ended when the system crashed.
    fn scan(&self, take: &mut dyn FnMut(u32, Item) -> Result<()>) -> Result<u32> {
        let (mut at, mut transaction) = (self.start, self.sequence);
        let mut left = self.end - self.first;
        let mut advance = |at: &mut u32| {
            *at = if *at + 1 >= self.end { self.first } else { *at + 1 };
            left = left.saturating_sub(1);
            left > 0
        };
        loop {
            let bytes = self.tree.block(self.stored(at)?)?;
            let number = |at: usize| BigEndian::read_u32(&bytes[at..]);
            if number(0) != MAGIC || number(8) != transaction {
                return Ok(transaction);
            }
            match number(4) {
                DESCRIPTOR => {
                    for (target, escaped) in self.tags(&bytes) {
                        if !advance(&mut at) {
                            return Ok(transaction);
                        }
                        let stored = self.stored(at)?;
                        take(transaction, Item::Block { target, stored, escaped })?;
                    }
                }
                COMMIT => transaction = transaction.wrapping_add(1),
                REVOCATION => {
                    for block in self.revoked(&bytes) {
                        take(transaction, Item::Revoked(block))?;
                    }
                }
                _ => return Ok(transaction),
            }
            if !advance(&mut at) {
                return Ok(transaction);
            }
        }
    }

    /// Returns the blocks that a descriptor lists, and whether they are escaped.
    fn tags(&self, bytes: &[u8]) -> Vec<(u64, bool)> {
        let len = match (self.checksums, self.has_64_bits) {
            (3, _) => 16,
            (2, wide) => {
                if wide {
                    14
                } else {
                    10
                }
            }
            (_, wide) => {
                if wide {
                    12
                } else {
                    8
                }
            }
        };
        let end = bytes.len() - if self.checksums > 0 { 4 } else { 0 };
        let (mut at, mut tags) = (HEADER, Vec::new());
        while let Some(tag) = bytes[..end].get(at..at + len) {
            let flags = match self.checksums {
                3 => BigEndian::read_u32(&tag[4..]),
                _ => BigEndian::read_u16(&tag[6..]).into(),
            };
            let high = if self.has_64_bits { BigEndian::read_u32(&tag[8..]) } else { 0 };
            let target = u64::from(high) << 32 | u64::from(BigEndian::read_u32(tag));
            tags.push((target, flags & 1 != 0));
            // A UUID follows, unless it is the same as before.
            at += len + if flags & 2 == 0 { 16 } else { 0 };
            if flags & 8 != 0 {
                break;
            }
        }
        tags
    }

    /// Returns the blocks that a revocation lists.
    fn revoked(&self, bytes: &[u8]) -> Vec<u64> {
        let used = to_index(BigEndian::read_u32(&bytes[HEADER..])).min(bytes.len());
        let list = bytes.get(HEADER + 4..used).unwrap_or_default();
        match self.has_64_bits {
            true => list.chunks_exact(8).map(BigEndian::read_u64).collect(),
            false => list.chunks_exact(4).map(|n| BigEndian::read_u32(n).into()).collect(),
        }
    }
}

fn fault<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::corrupt("ext4 journal", message.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revocations_of_one_block_are_counted_each() {
        let mut replay = Replay::default();
        for _ in 0..MAX_REVOKED {
            replay.collect_revoked(1, Item::Revoked(7)).expect("few enough");
        }
        let error = replay.collect_revoked(1, Item::Revoked(7)).expect_err("too many");
        assert_eq!(error.kind(), crate::ErrorKind::Limit);
        assert_eq!(replay.revoked.len(), 1);
    }
}
