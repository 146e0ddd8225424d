//! Growing images of Bochs with sizes that `bximage` does not write.
//!
//! Written from Bochs' structures (`hdimage.h`) without code of diskimg.

use std::collections::BTreeMap;

/// The entry of an extent that is not stored.
pub const ABSENT: u32 = u32::MAX;

/// Host offset of the catalog.
pub const CATALOG_AT: usize = 512;

/// An image.
#[derive(Debug, Clone)]
pub struct Bochs {
    pub subtype: String,
    /// 1 or 2.
    pub version: u32,
    pub size: u64,
    pub extent_bytes: u32,
    /// Length of a bitmap; `None` for one with a bit for each sector.
    pub bitmap_bytes: Option<u32>,
    /// Entries of the catalog; `None` for as many as the disk needs.
    pub entries: Option<u32>,
    /// Entries of the catalog that are not [`ABSENT`].
    pub catalog: BTreeMap<u32, u32>,
    /// Sectors of the extents, by their index in the file.
    pub extents: BTreeMap<u32, BTreeMap<u32, u8>>,
}

impl Bochs {
    /// An empty image with extents of 4 KiB.
    pub fn new(size: u64) -> Self {
        Self {
            subtype: "Growing".to_owned(),
            version: 2,
            size,
            extent_bytes: 4096,
            bitmap_bytes: None,
            entries: None,
            catalog: BTreeMap::new(),
            extents: BTreeMap::new(),
        }
    }

    /// Stores a sector of extent `extent` of the disk, filled with `byte`, in number `index` of the
    /// file.
    pub fn sector(mut self, extent: u32, index: u32, sector: u32, byte: u8) -> Self {
        self.catalog.insert(extent, index);
        self.extents.entry(index).or_default().insert(sector, byte);
        self
    }

    /// Returns the number of entries of the catalog.
    pub fn entries(&self) -> u32 {
        self.entries.unwrap_or(self.size.div_ceil(self.extent_bytes.into()) as u32)
    }

    fn bitmap_bytes(&self) -> u32 {
        self.bitmap_bytes.unwrap_or((self.extent_bytes / 512).div_ceil(8))
    }

    /// Returns the host offset of the bitmap of the extent with this index in the file.
    pub fn extent_at(&self, index: u32) -> usize {
        let stride = self.bitmap_bytes().next_multiple_of(512) + self.extent_bytes;
        CATALOG_AT + 4 * self.entries() as usize + index as usize * stride as usize
    }

    /// Returns the file.
    pub fn build(&self) -> Vec<u8> {
        let mut file = vec![0; CATALOG_AT];
        let mut put = |at: usize, value: &[u8]| file[at..at + value.len()].copy_from_slice(value);
        put(0, b"Bochs Virtual HD Image");
        put(32, b"Redolog");
        put(48, self.subtype.as_bytes());
        put(64, &(self.version << 16).to_le_bytes());
        put(68, &(CATALOG_AT as u32).to_le_bytes());
        put(72, &self.entries().to_le_bytes());
        put(76, &self.bitmap_bytes().to_le_bytes());
        put(80, &self.extent_bytes.to_le_bytes());
        put(if self.version == 1 { 84 } else { 88 }, &self.size.to_le_bytes());
        let entry = |index| self.catalog.get(&index).copied().unwrap_or(ABSENT);
        file.extend((0..self.entries()).flat_map(|index| entry(index).to_le_bytes()));
        let count = self.extents.keys().last().map_or(0, |&last| last + 1);
        for index in 0..count {
            let sectors = self.extents.get(&index).cloned().unwrap_or_default();
            let mut bitmap = vec![0; self.bitmap_bytes().next_multiple_of(512) as usize];
            // Sectors whose bit is 0 are not read.
            let mut data = vec![0xdd; self.extent_bytes as usize];
            for (sector, byte) in sectors {
                bitmap[sector as usize / 8] |= 1 << (sector % 8);
                data[sector as usize * 512..][..512].fill(byte);
            }
            file.extend(bitmap);
            file.extend(data);
        }
        file
    }
}
