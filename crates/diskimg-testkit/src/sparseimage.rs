//! Apple's sparse images in one file.
//!
//! Written from libmodi's documentation (*Mac OS sparse image format*) and, for index nodes, from
//! the structures of mac_apt, without code of diskimg.

/// Slots of the header.
pub const HEADER_SLOTS: usize = 1008;

/// Slots of an index node.
pub const NODE_SLOTS: usize = 1010;

/// Host offset of the first slot's band.
pub const DATA_AT: usize = 4096;

/// An image.
#[derive(Debug, Clone)]
pub struct SparseImage {
    pub version: u32,
    pub band_sectors: u32,
    pub flags: u32,
    /// Size of the disk in sectors.
    pub sectors: u64,
    /// The field of 32 bits; `None` for the lower half of `sectors`.
    pub sectors_low: Option<u32>,
    /// For each slot of the file the number of its band, counted from 1, and the band's bytes. A
    /// slot with the number 0 has no band, but takes the same space.
    pub slots: Vec<(u32, Vec<u8>)>,
}

impl SparseImage {
    /// An empty image with bands of `band_sectors`.
    pub fn new(size: u64, band_sectors: u32) -> Self {
        Self {
            version: 3,
            band_sectors,
            flags: 1,
            sectors: size.div_ceil(512),
            sectors_low: None,
            slots: Vec::new(),
        }
    }

    /// Stores band number `index` of the disk, counted from 0, in the next slot, filled with
    /// `byte`.
    pub fn band(self, index: u32, byte: u8) -> Self {
        let len = self.band_bytes();
        self.band_of(index, vec![byte; len])
    }

    /// Stores band number `index` of the disk in the next slot.
    pub fn band_of(mut self, index: u32, mut bytes: Vec<u8>) -> Self {
        bytes.resize(self.band_bytes(), 0);
        self.slots.push((index + 1, bytes));
        self
    }

    /// Leaves a slot unused. Readers that do not skip it show its bytes.
    pub fn unused(mut self) -> Self {
        self.slots.push((0, vec![0xdd; self.band_bytes()]));
        self
    }

    pub fn band_bytes(&self) -> usize {
        self.band_sectors as usize * 512
    }

    /// Returns the host offset of a slot's band.
    pub fn slot_at(&self, slot: usize) -> usize {
        let nodes = slot.checked_sub(HEADER_SLOTS).map_or(0, |rest| rest / NODE_SLOTS + 1);
        DATA_AT + nodes * 4096 + slot * self.band_bytes()
    }

    /// Returns the file.
    pub fn build(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut rest = &self.slots[..];
        let mut node = 0;
        loop {
            let capacity = if node == 0 { HEADER_SLOTS } else { NODE_SLOTS };
            let (own, more) = rest.split_at(rest.len().min(capacity));
            let next = match more.is_empty() {
                true => 0,
                false => file.len() + 4096 + capacity * self.band_bytes(),
            };
            let start = file.len();
            file.extend(b"sprs");
            if node == 0 {
                let low = self.sectors_low.unwrap_or(self.sectors as u32);
                for word in [self.version, self.band_sectors, self.flags, low] {
                    file.extend(word.to_be_bytes());
                }
                file.extend((next as u64).to_be_bytes());
                file.extend(self.sectors.to_be_bytes());
                file.resize(start + 64, 0);
            } else {
                for word in [node - 1, 1] {
                    file.extend(u32::to_be_bytes(word));
                }
                file.extend((next as u64).to_be_bytes());
                file.resize(start + 56, 0);
            }
            file.extend(own.iter().flat_map(|(band, _)| band.to_be_bytes()));
            file.resize(start + 4096, 0);
            own.iter().for_each(|(_, bytes)| file.extend(bytes));
            if more.is_empty() {
                return file;
            }
            rest = more;
            node += 1;
        }
    }
}
