//! cloop images with blocks and tables that `create_compressed_fs` does not write.
//!
//! Written from the kernel module's `cloop.h` without code of diskimg.

use crate::ewf::zlib;

/// The script at the start of an image.
pub const SCRIPT: &str =
    "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";

/// Host offset of the table of blocks.
pub const TABLE_AT: usize = 136;

/// An image.
#[derive(Debug, Clone)]
pub struct Cloop {
    pub script: String,
    /// Size of a block in bytes.
    pub block_bytes: u32,
    /// The disk: the last block is padded.
    pub disk: Vec<u8>,
    /// Bytes between the table and the first block.
    pub gap: usize,
}

impl Cloop {
    pub fn new(block_bytes: u32, disk: Vec<u8>) -> Self {
        Self { script: SCRIPT.to_owned(), block_bytes, disk, gap: 0 }
    }

    /// Returns the file.
    pub fn build(&self) -> Vec<u8> {
        let block = self.block_bytes as usize;
        let mut disk = self.disk.clone();
        disk.resize(disk.len().next_multiple_of(block), 0);
        let blocks: Vec<_> = disk.chunks(block).map(zlib).collect();
        let mut file = self.script.as_bytes().to_vec();
        file.resize(128, 0);
        file.extend(self.block_bytes.to_be_bytes());
        file.extend((blocks.len() as u32).to_be_bytes());
        let mut at = (TABLE_AT + 8 * (blocks.len() + 1) + self.gap) as u64;
        for block in &blocks {
            file.extend(at.to_be_bytes());
            at += block.len() as u64;
        }
        file.extend(at.to_be_bytes());
        file.extend(vec![0xee; self.gap]);
        file.extend(blocks.concat());
        file
    }
}

/// Sets entry `index` of the table of blocks.
pub fn set_entry(file: &mut [u8], index: usize, offset: u64) {
    let at = TABLE_AT + 8 * index;
    file[at..at + 8].copy_from_slice(&offset.to_be_bytes());
}
