//! VDI images that the installed tools do not write: version 0.2, blocks with extra bytes, gaps,
//! blocks of zeros, differencing images.
//!
//! Written from VirtualBox's structures (`VDICore.h`) without code of diskimg.

use std::collections::BTreeMap;

/// The entry of a free block.
pub const FREE: u32 = 0xffff_ffff;

/// The entry of a block of zeros.
pub const ZERO: u32 = 0xffff_fffe;

/// Host offset of the number of allocated blocks in version 1.1.
pub const ALLOCATED_AT: usize = 388;

/// An image. All UUIDs are in the order of their bytes in the file.
#[derive(Debug, Clone)]
pub struct Vdi {
    pub text: String,
    /// Version 0.2 or 1.1; any other one has the header of version 1.1.
    pub version: u32,
    /// Length of the header of version 1.1: 384, or 400 and more with a geometry.
    pub header_bytes: u32,
    /// 1: dynamic, 2: static, 3: undo, 4: differencing.
    pub image_type: u32,
    pub size: u64,
    pub block_bytes: u32,
    pub block_extra: u32,
    /// Entries of the map; `None` for as many as the disk needs.
    pub entries: Option<u32>,
    /// Number of allocated blocks in the header; `None` for the right one.
    pub allocated: Option<u32>,
    /// Where the map is; version 0.2 has a fixed place.
    pub map_at: u32,
    /// Where the data is; `None` for the next sector after the map, in version 0.2 directly after it.
    pub data_at: Option<u32>,
    pub uuid: [u8; 16],
    pub modification: [u8; 16],
    pub parent: [u8; 16],
    pub parent_modification: [u8; 16],
    /// Entries of the map that are not [`FREE`].
    pub map: BTreeMap<u32, u32>,
    /// The guest bytes of blocks by their index in the file; all others are filled with 0xdd.
    pub blocks: BTreeMap<u32, Vec<u8>>,
}

impl Vdi {
    /// An empty dynamic image with blocks of 64 KiB, as small as tests like.
    pub fn dynamic(size: u64) -> Self {
        Self {
            text: "<<< Oracle VM VirtualBox Disk Image >>>\n".to_owned(),
            version: 0x0001_0001,
            header_bytes: 400,
            image_type: 1,
            size,
            block_bytes: 64 << 10,
            block_extra: 0,
            entries: None,
            allocated: None,
            map_at: 512,
            data_at: None,
            uuid: [0x11; 16],
            modification: [0x22; 16],
            parent: [0; 16],
            parent_modification: [0; 16],
            map: BTreeMap::new(),
            blocks: BTreeMap::new(),
        }
    }

    /// An empty child of `parent`.
    pub fn child(parent: &Self) -> Self {
        Self {
            image_type: 4,
            block_bytes: parent.block_bytes,
            uuid: [0x33; 16],
            modification: [0x44; 16],
            parent: parent.uuid,
            parent_modification: parent.modification,
            ..Self::dynamic(parent.size)
        }
    }

    /// Stores block `block` of the disk, filled with `byte`, as number `index` of the file.
    pub fn block(mut self, block: u32, index: u32, byte: u8) -> Self {
        self.map.insert(block, index);
        self.blocks.insert(index, vec![byte; self.block_bytes as usize]);
        self
    }

    /// Sets an entry of the map.
    pub fn entry(mut self, block: u32, entry: u32) -> Self {
        self.map.insert(block, entry);
        self
    }

    /// Returns the number of entries of the map.
    pub fn entries(&self) -> u32 {
        self.entries.unwrap_or(self.size.div_ceil(self.block_bytes.into()) as u32)
    }

    /// Returns the host offset of the map.
    pub fn map_at(&self) -> usize {
        if self.is_old() { 72 + 348 } else { self.map_at as usize }
    }

    /// Returns the host offset of the block with index 0.
    pub fn data_at(&self) -> usize {
        let after_map = self.map_at() + 4 * self.entries() as usize;
        match self.data_at {
            _ if self.is_old() => after_map,
            Some(at) => at as usize,
            None => after_map.next_multiple_of(512),
        }
    }

    fn is_old(&self) -> bool {
        self.version >> 16 == 0
    }

    fn header(&self) -> Vec<u8> {
        let is_allocated = |entry: &&u32| **entry < ZERO;
        let found = self.map.values().filter(is_allocated).count() as u32;
        let allocated = self.allocated.unwrap_or(found);
        let mut bytes = vec![0; 64];
        bytes[..self.text.len()].copy_from_slice(self.text.as_bytes());
        let u32s = |bytes: &mut Vec<u8>, numbers: &[u32]| {
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        };
        u32s(&mut bytes, &[0xbeda_107f, self.version]);
        if !self.is_old() {
            u32s(&mut bytes, &[self.header_bytes]);
        }
        u32s(&mut bytes, &[self.image_type, 0]);
        bytes.extend([0; 256]);
        if !self.is_old() {
            u32s(&mut bytes, &[self.map_at, self.data_at() as u32]);
        }
        u32s(&mut bytes, &[0, 0, 0, 512]);
        if !self.is_old() {
            u32s(&mut bytes, &[0]);
        }
        bytes.extend(self.size.to_le_bytes());
        u32s(&mut bytes, &[self.block_bytes]);
        if !self.is_old() {
            u32s(&mut bytes, &[self.block_extra]);
        }
        u32s(&mut bytes, &[self.entries(), allocated]);
        bytes.extend([self.uuid, self.modification, self.parent].concat());
        if !self.is_old() {
            bytes.extend(self.parent_modification);
            u32s(&mut bytes, &[0, 0, 0, 512]);
            bytes.truncate(72 + self.header_bytes as usize);
        }
        bytes
    }

    /// Returns the guest's bytes of an image without a parent.
    pub fn bytes(&self) -> Vec<u8> {
        let len = self.block_bytes as usize;
        let mut bytes = vec![0; self.entries() as usize * len];
        for (block, index) in self.map.iter().filter(|(_, index)| **index < ZERO) {
            let at = *block as usize * len;
            bytes[at..at + len].copy_from_slice(&self.blocks[index]);
        }
        bytes.truncate(self.size as usize);
        bytes
    }

    /// Returns the file.
    pub fn build(&self) -> Vec<u8> {
        let mut file = self.header();
        file.resize(self.map_at(), 0);
        let entry = |block| self.map.get(&block).copied().unwrap_or(FREE);
        file.extend((0..self.entries()).flat_map(|block| entry(block).to_le_bytes()));
        file.resize(self.data_at().max(file.len()), 0);
        let count = self.blocks.keys().last().map_or(0, |&last| last + 1);
        for index in 0..count {
            // Readers that do not skip the extra bytes show them.
            file.extend(vec![0xee; self.block_extra as usize]);
            match self.blocks.get(&index) {
                Some(data) => file.extend(data),
                None => file.extend(vec![0xdd; self.block_bytes as usize]),
            }
        }
        file
    }
}
