//! The names in a directory.
//!
//! ```text
//!   inode(4) length of the entry(2) length of the name(1) file type(1) name
//! ```

use super::ExtTree;
use super::inode::Inode;
use crate::error::{Error, Result};
use crate::storage::number::{to_u64, to_usize};
use byteorder::{ByteOrder, LittleEndian};

/// Length of an entry's fields before the name, in bytes.
const HEADER: usize = 8;

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) name: Vec<u8>,
    pub(super) inode: u32,
}

/// Returns the names in a directory, without `.` and `..`, and why there are no more.
pub(super) fn names(
    tree: &ExtTree,
    number: u32,
    inode: &Inode,
) -> Result<(Vec<Name>, Option<Error>)> {
    let bytes = tree.contents(inode, tree.limits.directory_bytes)?;
    let mut names = Vec::new();
    let block = to_usize(tree.superblock.block_bytes);
    let in_directory = |error: Error| error.in_structure(format!("ext4 directory {number}"));
    let parts: Vec<&[u8]> = match inode.is_inline() {
        // The inode of the parent, and two lists of entries.
        true => {
            let (first, rest) = bytes.split_at(bytes.len().min(60));
            [first.get(4..), Some(rest)].into_iter().flatten().collect()
        }
        false => bytes.chunks(block).collect(),
    };
    for part in parts {
        if let Err(error) = in_block(part, tree.superblock.has_file_types(), &mut names) {
            return Ok((names, Some(in_directory(error))));
        }
        if to_u64(names.len()) > tree.limits.tree_entries {
            names.truncate(to_usize(tree.limits.tree_entries));
            let found = "a directory with more names";
            let error = Error::over_limit("tree_entries", found, tree.limits.tree_entries);
            return Ok((names, Some(in_directory(error))));
        }
    }
    Ok((names, None))
}

/// Adds the names in a block. A block of zeros, which a hole is, has none.
fn in_block(block: &[u8], has_file_types: bool, names: &mut Vec<Name>) -> Result<()> {
    let mut at = 0;
    let is_hole = block.iter().all(|&byte| byte == 0);
    while at + HEADER <= block.len() && !is_hole {
        let entry = &block[at..];
        let inode = LittleEndian::read_u32(entry);
        let len = entry_len(LittleEndian::read_u16(&entry[4..]), block.len());
        // Without file types, the length of the name has 16 bits.
        let name_len = match has_file_types {
            true => usize::from(entry[6]),
            false => usize::from(LittleEndian::read_u16(&entry[6..])),
        };
        if len < HEADER || !len.is_multiple_of(4) || len > entry.len() || HEADER + name_len > len {
            let message = format!("an entry of {len} bytes with a name of {name_len} bytes");
            return Err(Error::new(crate::ErrorKind::Corrupt, message));
        }
        let name = &entry[HEADER..HEADER + name_len];
        if inode != 0 && name != b"." && name != b".." {
            names.push(Name { name: name.to_vec(), inode });
        }
        at += len;
    }
    Ok(())
}

/// Decodes the length of an entry, of which blocks of 64 KiB need 17 bits.
fn entry_len(recorded: u16, block: usize) -> usize {
    match usize::from(recorded) {
        0 | 0xffff if block >= 1 << 16 => block,
        len if block >= 1 << 16 => len & !3 | (len & 3) << 16,
        len => len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(inode: u32, len: u16, name: &[u8]) -> Vec<u8> {
        let mut bytes = inode.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend([name.len() as u8, 1]);
        bytes.extend(name);
        bytes.resize(usize::from(len), 0);
        bytes
    }

    #[test]
    fn unused_entries_and_holes_are_skipped() {
        let block = [entry(2, 12, b"."), entry(0, 12, b"x"), entry(9, 40, b"name")].concat();
        let mut names = Vec::new();
        in_block(&block, true, &mut names).expect("valid");
        in_block(&[0; 1024], true, &mut names).expect("a hole");
        assert_eq!(names.len(), 1);
        assert_eq!((&names[0].name[..], names[0].inode), (&b"name"[..], 9));
    }

    #[test]
    fn impossible_lengths_are_errors() {
        for (len, name_len) in [(0, 0), (4, 0), (13, 1), (12, 5), (64, 1)] {
            let mut block = entry(9, 16, b"name");
            block[4..6].copy_from_slice(&u16::to_le_bytes(len));
            block[6] = name_len;
            in_block(&block, true, &mut Vec::new()).expect_err("invalid");
        }
        assert_eq!([entry_len(0xffff, 65_536), entry_len(5, 65_536)], [65_536, 65_540]);
    }
}
