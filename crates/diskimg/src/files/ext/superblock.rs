//! The superblock, and where it says that inodes are.

use super::ExtTree;
use crate::error::{Error, Result};
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use byteorder::{ByteOrder, LittleEndian};

/// Offset of the superblock in bytes.
const OFFSET: u64 = 1024;

/// Features (`s_feature_incompat`) that are supported as far as names are concerned: compression,
/// file types in directories, recovery, groups of descriptors, extents, 64 bits, protection from
/// multiple mounts, flexible groups, attributes in inodes, data in directories, a seed of
/// checksums, large directories, inline data, encryption, names that ignore case.
const SUPPORTED: u32 = 0x3_f7f7 & !0x20 & !0x8;

/// What is needed of the superblock.
#[derive(Debug)]
pub(super) struct Superblock {
    pub(super) block_bytes: u64,
    /// Number of blocks.
    pub(super) blocks: u64,
    pub(super) inode_bytes: u16,
    /// Inode of the journal; 0 if there is none in this file system.
    pub(super) journal_inode: u32,
    inodes: u32,
    inodes_per_group: u32,
    blocks_per_group: u32,
    first_data_block: u32,
    descriptor_bytes: u16,
    first_meta_group: u32,
    backup_groups: [u32; 2],
    compatible: u32,
    incompatible: u32,
    read_only: u32,
}

impl Superblock {
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        let mut bytes = vec![0; 1024];
        let read = source.read_exact_at(&mut bytes, OFFSET);
        read.map_err(|e| Error::io("cannot read", e).in_structure("ext4 superblock"))?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let long = |at: usize| LittleEndian::read_u32(&bytes[at..]);
        let short = |at: usize| LittleEndian::read_u16(&bytes[at..]);
        let fault = |message: String| Err(Error::corrupt("ext4 superblock", message).at(OFFSET));
        let (compatible, incompatible, read_only) = (long(0x5c), long(0x60), long(0x64));
        if incompatible & !SUPPORTED != 0 {
            let unknown = incompatible & !SUPPORTED;
            let message = format!("features {unknown:#x} of the file system are not supported");
            return Err(Error::unsupported(message).in_structure("ext4 superblock").at(OFFSET));
        }
        if long(0x18) > 6 {
            return fault(format!("a block size of 2^{} KiB", long(0x18)));
        }
        let has_64_bits = incompatible & 0x80 != 0;
        let high = if has_64_bits { u64::from(long(0x150)) } else { 0 };
        let is_dynamic = long(0x4c) > 0;
        let superblock = Self {
            block_bytes: 1024 << long(0x18),
            blocks: high << 32 | u64::from(long(4)),
            inode_bytes: if is_dynamic { short(0x58) } else { 128 },
            journal_inode: long(0xe0),
            inodes: long(0),
            inodes_per_group: long(0x28),
            blocks_per_group: long(0x20),
            first_data_block: long(0x14),
            descriptor_bytes: if has_64_bits { short(0xfe) } else { 32 },
            first_meta_group: long(0x104),
            backup_groups: [long(0x24c), long(0x250)],
            compatible,
            incompatible,
            read_only,
        };
        let Self { block_bytes, inode_bytes, descriptor_bytes, .. } = superblock;
        if superblock.inodes_per_group == 0 || superblock.blocks_per_group == 0 {
            return fault("block groups of no blocks or inodes".into());
        }
        if !(128..=block_bytes).contains(&u64::from(inode_bytes)) {
            return fault(format!("inodes of {inode_bytes} bytes in blocks of {block_bytes}"));
        }
        let is_valid =
            descriptor_bytes.is_power_of_two() && (32..=1024).contains(&descriptor_bytes);
        if !is_valid || has_64_bits && descriptor_bytes < 64 {
            return fault(format!("block group descriptors of {descriptor_bytes} bytes"));
        }
        Ok(superblock)
    }

    /// Returns true if the file system was not unmounted.
    pub(super) fn needs_recovery(&self) -> bool {
        self.incompatible & 0x4 != 0
    }

    /// Returns true if directories record the types of files.
    pub(super) fn has_file_types(&self) -> bool {
        self.incompatible & 0x2 != 0
    }

    /// Returns the block of the descriptor of a group, and the offset within it.
    fn descriptor(&self, group: u32) -> (u64, u64) {
        let per_block = to_u32_block(self.block_bytes) / u32::from(self.descriptor_bytes);
        let (index, within) = (group / per_block, group % per_block);
        let within = u64::from(within) * u64::from(self.descriptor_bytes);
        let has_meta_groups = self.incompatible & 0x10 != 0;
        if !has_meta_groups || index < self.first_meta_group {
            return (OFFSET / self.block_bytes + 1 + u64::from(index), within);
        }
        let first = index.saturating_mul(per_block);
        let start = u64::from(first) * u64::from(self.blocks_per_group);
        let shifted = self.block_bytes == 1024 && first == 0 && self.first_data_block == 0;
        let superblocks = u64::from(self.has_backup(first)) + u64::from(shifted);
        (u64::from(self.first_data_block) + start + superblocks, within)
    }

    /// Returns true if a group begins with a copy of the superblock.
    fn has_backup(&self, group: u32) -> bool {
        let is_power = |base: u32| {
            std::iter::successors(Some(base), |power| power.checked_mul(base))
                .take_while(|&power| power <= group)
                .any(|power| power == group)
        };
        let (sparse, sparse_2) = (self.read_only & 1 != 0, self.compatible & 0x200 != 0);
        match group {
            0 => true,
            _ if sparse_2 => self.backup_groups.contains(&group),
            1 => true,
            _ => !sparse || is_power(3) || is_power(5) || is_power(7),
        }
    }

    /// Returns the block of an inode, and the offset within it.
    pub(super) fn inode(&self, tree: &ExtTree, number: u32) -> Result<(u64, u64)> {
        let Some(index) = number.checked_sub(1).filter(|_| number <= self.inodes) else {
            let message = format!("inode {number} of {} inodes", self.inodes);
            return Err(Error::corrupt("ext4", message));
        };
        let (group, index) = (index / self.inodes_per_group, index % self.inodes_per_group);
        let (block, within) = self.descriptor(group);
        let mut descriptor = vec![0; usize::from(self.descriptor_bytes)];
        tree.read_block(block, within, &mut descriptor)?;
        let high =
            if descriptor.len() >= 64 { LittleEndian::read_u32(&descriptor[40..]) } else { 0 };
        let table = u64::from(high) << 32 | u64::from(LittleEndian::read_u32(&descriptor[8..]));
        let offset = u64::from(index) * u64::from(self.inode_bytes);
        let block = table.saturating_add(offset / self.block_bytes);
        Ok((block, offset % self.block_bytes))
    }
}

/// Converts a block size, which is at most 64 KiB.
fn to_u32_block(bytes: u64) -> u32 {
    u32::try_from(to_usize(bytes)).unwrap_or(1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(read_only: u32, compatible: u32) -> Superblock {
        let mut bytes = vec![0; 1024];
        let mut set = |at: usize, value: u32| {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        for (at, value) in [(0x20, 8192), (0x28, 128), (4, 1 << 20), (0, 1 << 20), (0x18, 2)] {
            set(at, value);
        }
        set(0x64, read_only);
        set(0x5c, compatible);
        set(0x60, 0x10);
        set(0x104, 1);
        set(0x24c, 9);
        Superblock::parse(&bytes).expect("valid")
    }

    #[test]
    fn backups_are_in_groups_0_and_1_and_the_powers_of_3_5_and_7() {
        let groups = |superblock: &Superblock| -> Vec<u32> {
            (0..60).filter(|&group| superblock.has_backup(group)).collect()
        };
        assert_eq!(groups(&superblock(1, 0)), [0, 1, 3, 5, 7, 9, 25, 27, 49]);
        assert_eq!(groups(&superblock(1, 0x200)), [0, 9]);
        assert_eq!(groups(&superblock(0, 0)).len(), 60);
    }

    #[test]
    fn descriptors_are_after_the_superblock_or_in_their_own_group() {
        let superblock = superblock(1, 0);
        // 128 descriptors of 32 bytes in a block of 4096.
        assert_eq!(superblock.descriptor(3), (1, 96));
        assert_eq!(superblock.descriptor(129), (128 * 8192, 32));
    }

    #[test]
    fn inode_and_descriptor_sizes_that_do_not_fit_are_errors() {
        for (at, value) in [(0x18, 7), (0x28, 0), (0x20, 0), (0x60, 1 << 30)] {
            let mut bytes = vec![0; 1024];
            for (at, value) in [(0x20, 8192), (0x28, 128), (at, value)] {
                bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            }
            Superblock::parse(&bytes).expect_err("invalid");
        }
    }
}
