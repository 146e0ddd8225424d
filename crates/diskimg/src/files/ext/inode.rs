//! Inodes: the attributes of a file, and where its contents are.

use super::ExtTree;
use crate::error::Result;
use crate::iso::{Attributes, FileType, Timestamp};
use crate::storage::number::{to_index, to_usize};
use byteorder::{ByteOrder, LittleEndian};

/// Length in bytes of the part of an inode that locates the contents.
const BLOCK: usize = 60;

/// An inode, as far as it is needed.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) mode: u16,
    pub(super) size: u64,
    flags: u32,
    bytes: Vec<u8>,
}

impl Inode {
    pub(super) fn read(tree: &ExtTree, number: u32) -> Result<Self> {
        let (block, within) = tree.superblock.inode(tree, number)?;
        let mut bytes = vec![0; usize::from(tree.superblock.inode_bytes)];
        tree.read_block(block, within, &mut bytes)?;
        let size = u64::from(LittleEndian::read_u32(&bytes[0x6c..])) << 32
            | u64::from(LittleEndian::read_u32(&bytes[4..]));
        let flags = LittleEndian::read_u32(&bytes[0x20..]);
        Ok(Self { mode: LittleEndian::read_u16(&bytes), size, flags, bytes })
    }

    /// Returns the part that locates the contents.
    pub(super) fn block(&self) -> &[u8] {
        &self.bytes[0x28..0x28 + BLOCK]
    }

    /// Returns true if the contents are located by extents.
    pub(super) fn has_extents(&self) -> bool {
        self.flags & 0x8_0000 != 0
    }

    /// Returns true if the contents are in the inode.
    pub(super) fn is_inline(&self) -> bool {
        self.flags & 0x1000_0000 != 0
    }

    /// Returns true if the file, or the names of the directory, are encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.flags & 0x800 != 0
    }

    pub(super) fn file_type(&self) -> Option<FileType> {
        Some(match self.mode >> 12 {
            0x1 => FileType::Fifo,
            0x2 => FileType::CharacterDevice,
            0x4 => FileType::Directory,
            0x6 => FileType::BlockDevice,
            0x8 => FileType::Regular,
            0xa => FileType::Symlink,
            0xc => FileType::Socket,
            _ => return None,
        })
    }

    /// Returns the target of a symbolic link that is stored in place of the location of contents.
    pub(super) fn fast_link(&self) -> Option<Vec<u8>> {
        let is_fast = to_usize(self.size) < BLOCK && !self.is_inline();
        is_fast.then(|| self.block()[..to_usize(self.size)].to_vec())
    }

    /// Returns contents that are in the inode: the first 60 bytes in place of their location, the
    /// rest as the attribute `system.data`.
    pub(super) fn inline_data(&self) -> Vec<u8> {
        let mut data = self.block().to_vec();
        data.extend_from_slice(self.system_data().unwrap_or_default());
        data
    }

    fn system_data(&self) -> Option<&[u8]> {
        const MAGIC: u32 = 0xea02_0000;
        let extra = usize::from(LittleEndian::read_u16(self.bytes.get(128..130)?));
        let area = self.bytes.get(128 + extra..)?;
        if area.len() < 4 || LittleEndian::read_u32(area) != MAGIC {
            return None;
        }
        let entries = &area[4..];
        let mut at = 0;
        loop {
            let entry = entries.get(at..at + 16)?;
            let name_len = usize::from(entry[0]);
            if entry[..4] == [0; 4] {
                return None;
            }
            let name = entries.get(at + 16..at + 16 + name_len)?;
            if entry[1] == 7 && name == b"data" {
                let offset = usize::from(LittleEndian::read_u16(&entry[2..]));
                let len = to_index(LittleEndian::read_u32(&entry[8..]));
                return entries.get(offset..offset.checked_add(len)?);
            }
            at += (16 + name_len).next_multiple_of(4);
        }
    }

    /// Returns the attributes of the file, whose inode has this number.
    pub(super) fn attributes(&self, number: u32) -> Attributes {
        let short = |at: usize| u32::from(LittleEndian::read_u16(&self.bytes[at..]));
        let is_device =
            matches!(self.file_type(), Some(FileType::BlockDevice | FileType::CharacterDevice));
        Attributes {
            mode: Some(u32::from(self.mode) & 0o7777),
            uid: Some(short(0x78) << 16 | short(2)),
            gid: Some(short(0x7a) << 16 | short(0x18)),
            links: Some(short(0x1a)),
            serial: Some(number),
            device: is_device.then(|| self.device()),
            modified: self.time(0x10, 0x88),
            accessed: self.time(0x08, 0x8c),
            changed: self.time(0x0c, 0x84),
            created: self.extra(0x94).and_then(|_| self.time(0x90, 0x94)),
        }
    }

    /// Returns the field at an offset beyond the first 128 bytes, if the inode has it.
    fn extra(&self, at: usize) -> Option<u32> {
        let len = 128 + usize::from(LittleEndian::read_u16(self.bytes.get(128..130)?));
        (at + 4 <= len).then(|| self.bytes.get(at..at + 4).map(LittleEndian::read_u32))?
    }

    /// Decodes a time. The lower two bits of the second field extend the signed seconds of the
    /// first; the others are nanoseconds.
    fn time(&self, at: usize, extra: usize) -> Option<Timestamp> {
        let seconds = i64::from(LittleEndian::read_i32(&self.bytes[at..]));
        let extra = self.extra(extra).unwrap_or(0);
        let nanoseconds = extra >> 2;
        let seconds = seconds + (i64::from(extra & 3) << 32);
        (nanoseconds < 1_000_000_000).then_some(Timestamp { seconds, nanoseconds })
    }

    /// Decodes the numbers of a device, in the old encoding or, if that is 0, in the new one.
    fn device(&self) -> (u32, u32) {
        let old = LittleEndian::read_u32(self.block());
        let new = LittleEndian::read_u32(&self.block()[4..]);
        match old {
            0 => (new >> 8 & 0xfff, new & 0xff | (new >> 12 & 0xf_ff00)),
            _ => (old >> 8 & 0xff, old & 0xff),
        }
    }
}
