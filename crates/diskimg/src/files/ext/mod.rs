//! The directories of ext2, ext3 and ext4.
//!
//! ```text
//!   block group 0          1                    …
//!   ┌───────────┬────────┬─────────┬───────────┬──────────────────────────────┐
//!   │ superblock│ groups │ bitmaps │ inodes    │ blocks: directories, extents │ …
//!   └───────────┴────────┴─────────┴───────────┴──────────────────────────────┘
//!      at 1024     │          ▲         ▲ │          ▲
//!                  └──────────┴─────────┘ └──────────┘
//! ```
//!
//! An inode has the attributes of a file and says where its blocks are: by a tree of extents
//! (`blocks.rs`), by a map of blocks, or inline. The blocks of a directory are a list of names and
//! inodes; the hash tree of a large one is made to look like unused entries of that list. After a
//! crash, the newest metadata is in the journal (`journal.rs`).
//!
//! Checksums are not verified. Specification: Linux, "ext4 Data Structures and Algorithms".

mod blocks;
mod directory;
mod inode;
mod journal;
mod superblock;

use self::inode::Inode;
use self::journal::Overlay;
use self::superblock::Superblock;
use crate::error::{Error, Result};
use crate::iso::{Content, Entry, FileExtent, FileTree, FileType, Findings, Listing, Node};
use crate::open::limits::Limits;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::sync::Arc;

/// Inode of the root directory.
const ROOT: u32 = 2;

/// An ext2, ext3 or ext4 file system.
#[derive(Debug)]
pub(super) struct ExtTree {
    source: Arc<dyn Source>,
    superblock: Superblock,
    /// Blocks whose newest version is in the journal.
    journal: Overlay,
    limits: Limits,
}

impl ExtTree {
    /// Opens the file system. Adds warnings.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or [`Unsupported`](crate::ErrorKind::Unsupported) if
    /// its directories cannot be read, [`Io`](crate::ErrorKind::Io) if reading fails.
    pub(super) fn open(
        source: Arc<dyn Source>,
        limits: &Limits,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let superblock = Superblock::read(&*source)?;
        let journal = Overlay::default();
        let mut tree = Self { source, superblock, journal, limits: limits.clone() };
        if tree.superblock.needs_recovery() {
            match journal::read(&tree) {
                Ok(journal) => tree.journal = journal,
                Err(error) if error.is_storage_failure() => return Err(error),
                Err(error) => warnings.push(format!(
                    "the journal cannot be replayed, so that names may be out of date: {error}"
                )),
            }
        }
        Ok(tree)
    }

    /// Reads bytes of a block, in the version that the journal has of it.
    fn read_block(&self, block: u64, within: u64, buf: &mut [u8]) -> Result<()> {
        let size = self.superblock.block_bytes;
        let (stored, escaped) = self.journal.find(block);
        let offset = stored.checked_mul(size).and_then(|at| at.checked_add(within));
        let Some(offset) = offset.filter(|_| block < self.superblock.blocks) else {
            let blocks = self.superblock.blocks;
            let message = format!("block {block} of a file system of {blocks} blocks");
            return Err(Error::corrupt("ext4", message));
        };
        let read = self.source.read_exact_at(buf, offset);
        read.map_err(|e| Error::io("cannot read", e).in_structure("ext4").at(offset))?;
        if escaped && within == 0 && buf.len() >= 4 {
            buf[..4].copy_from_slice(&journal::MAGIC.to_be_bytes());
        }
        Ok(())
    }

    /// Returns a block.
    fn block(&self, block: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; to_usize(self.superblock.block_bytes)];
        self.read_block(block, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Returns the first bytes of a file: at most `max`, in which holes are zeros.
    fn contents(&self, inode: &Inode, max: u64) -> Result<Vec<u8>> {
        if inode.is_inline() {
            let mut bytes = inode.inline_data();
            bytes.truncate(to_usize(inode.size.min(max)));
            return Ok(bytes);
        }
        let size = self.superblock.block_bytes;
        let len = inode.size.min(max);
        let mut bytes = vec![0; to_usize(len)];
        for run in blocks::runs(self, inode, len.div_ceil(size))? {
            for index in 0..u64::from(run.count) {
                let at = (u64::from(run.logical) + index) * size;
                if at < len {
                    let part = &mut bytes[to_usize(at)..to_usize((at + size).min(len))];
                    self.read_block(run.physical + index, 0, part)?;
                }
            }
        }
        Ok(bytes)
    }

    /// Returns the file of an inode.
    fn node(&self, number: u32, inode: &Inode) -> Result<Node> {
        let link_target = match inode.file_type() {
            Some(FileType::Symlink) if inode.size <= self.limits.link_bytes => {
                Some(match inode.fast_link() {
                    Some(target) => target,
                    None => self.contents(inode, self.limits.link_bytes)?,
                })
            }
            Some(FileType::Symlink) => {
                let found = format!("a symbolic link of {} bytes", inode.size);
                return Err(Error::over_limit("link_bytes", found, self.limits.link_bytes)
                    .in_structure("ext4"));
            }
            Some(_) => None,
            None => {
                let message = format!("inode {number} has the invalid mode {:#o}", inode.mode);
                return Err(Error::corrupt("ext4", message));
            }
        };
        Ok(Node {
            file_type: inode.file_type().unwrap_or(FileType::Regular),
            size: inode.size,
            attributes: inode.attributes(number),
            link_target,
            content: match inode.file_type() {
                // The walk needs only the length.
                Some(FileType::Directory) => {
                    Content::Extents(vec![FileExtent { offset: None, len: inode.size }])
                }
                _ => Content::Unsupported("in an ext4 file system, whose files are not read"),
            },
            location: number.into(),
        })
    }
}

impl FileTree for ExtTree {
    fn root(&self) -> Result<Node> {
        let node = self.node(ROOT, &Inode::read(self, ROOT)?)?;
        match node.is_dir() {
            true => Ok(node),
            false => Err(Error::corrupt("ext4", "the root is not a directory")),
        }
    }

    fn first_bytes(&self, file: &Node, max: u64) -> Result<Option<Vec<u8>>> {
        let number = u32::try_from(file.location).unwrap_or(0);
        let inode = Inode::read(self, number)?;
        match inode.is_encrypted() {
            true => Err(Error::unsupported("the file is encrypted").in_structure("ext4")),
            false => self.contents(&inode, max).map(Some),
        }
    }

    fn read_dir_reporting(&self, dir: &Node, _: &mut Findings<'_>) -> Result<Listing> {
        let number = u32::try_from(dir.location).unwrap_or(0);
        let inode = Inode::read(self, number)?;
        let max = self.limits.directory_bytes;
        if inode.size > max {
            let found = format!("a directory of {} bytes", inode.size);
            return Err(Error::over_limit("directory_bytes", found, max).in_structure("ext4"));
        }
        if inode.is_encrypted() {
            return Err(Error::unsupported("the names in this directory are encrypted")
                .in_structure("ext4"));
        }
        let (names, mut error) = directory::names(self, number, &inode)?;
        let inode_bytes = u64::from(self.superblock.inode_bytes);
        let mut cost = to_u64(names.len()).saturating_mul(inode_bytes);
        let mut entries = Vec::with_capacity(names.len());
        // Many names can have one inode, so the targets of links may be longer than the image.
        let mut targets = 0;
        for name in names {
            let file = Inode::read(self, name.inode);
            match file.and_then(|inode| self.node(name.inode, &inode)) {
                Ok(node) => {
                    targets += node.link_target.as_ref().map_or(0, |target| to_u64(target.len()));
                    if targets > max {
                        let found = format!("a directory with links of {targets} bytes");
                        let failed = Error::over_limit("directory_bytes", found, max);
                        error = Some(failed.in_structure("ext4"));
                        break;
                    }
                    entries.push(Entry { name: name.name, node });
                }
                Err(failed) if failed.is_storage_failure() => return Err(failed),
                Err(failed) => {
                    let shown = String::from_utf8_lossy(&name.name).into_owned();
                    let what = format!("the file {shown:?} cannot be read");
                    error.get_or_insert(failed.prepend_hint(what));
                }
            }
        }
        cost = cost.saturating_add(targets);
        // Large directories are in the order of a hash. A stable sort would need more memory.
        entries
            .sort_unstable_by(|a, b| (&a.name, a.node.location).cmp(&(&b.name, b.node.location)));
        Ok(Listing { entries, cost, error })
    }
}
