//! Builds qcow2 images field by field, for tables that no program writes: shared, overlapping, or
//! with clusters that many entries refer to.
//!
//! ```text
//!   header │ refcount table │ refcount block │ L1 table │ L2 tables │ data clusters │ snapshots
//! ```

use crate::esx::put;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use std::io::Write;

/// An L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Unallocated,
    Zero,
    /// Stored in the data cluster of this number.
    Data(u64),
    /// The first bytes of the data cluster of this number are the compressed cluster.
    Compressed(u64),
    /// As `Compressed`, but this number of sectors is stated to be the compressed cluster.
    CompressedSectors(u64, u64),
}

/// An image. Its L1 entries refer to its L2 tables by number.
#[derive(Debug, Clone)]
pub struct Qcow2 {
    pub cluster_bits: u32,
    /// Extended L2 entries; the subclusters of an [`Entry::Zero`] are zero and unallocated in turn.
    pub extended: bool,
    pub l1: Vec<Option<u64>>,
    pub tables: Vec<Vec<Entry>>,
    /// Contents of the data clusters.
    pub clusters: Vec<Vec<u8>>,
    /// Number of snapshots, all of which have the active L1 table.
    pub snapshots: u32,
}

impl Qcow2 {
    /// Returns an image of `tables` L2 tables, each used once, with these entries in turn.
    pub fn repeating(cluster_bits: u32, tables: usize, entries: &[Entry]) -> Self {
        let this = Self {
            cluster_bits,
            extended: false,
            l1: (0..tables as u64).map(Some).collect(),
            tables: Vec::new(),
            clusters: vec![vec![b'A'; 1 << cluster_bits], compressed(1 << cluster_bits)],
            snapshots: 0,
        };
        let table: Vec<_> = entries.iter().copied().cycle().take(this.entries()).collect();
        Self { tables: vec![table; tables], ..this }
    }

    /// Returns the number of entries of an L2 table.
    pub fn entries(&self) -> usize {
        (1 << self.cluster_bits) / if self.extended { 16 } else { 8 }
    }

    /// Returns the size of the disk in bytes.
    pub fn size(&self) -> u64 {
        ((self.l1.len() * self.entries()) as u64) << self.cluster_bits
    }

    /// Builds the file.
    pub fn build(&self) -> Vec<u8> {
        let cluster = 1u64 << self.cluster_bits;
        let l1_at = 3 * cluster;
        let tables_at = l1_at + (self.l1.len() as u64 * 8).next_multiple_of(cluster).max(cluster);
        let data_at = tables_at + self.tables.len() as u64 * cluster;
        let snapshots_at = data_at + self.clusters.len() as u64 * cluster;
        let mut file = vec![0; snapshots_at as usize];
        for (i, bytes) in self.clusters.iter().enumerate() {
            put(&mut file, (data_at + i as u64 * cluster) as usize, bytes);
        }
        for (i, table) in self.l1.iter().enumerate() {
            let entry = table.map_or(0, |table| 1 << 63 | (tables_at + table * cluster));
            put(&mut file, l1_at as usize + i * 8, &entry.to_be_bytes());
        }
        for (i, table) in self.tables.iter().enumerate() {
            let at = tables_at + i as u64 * cluster;
            let words = table.iter().flat_map(|entry| self.words(*entry, data_at));
            let bytes: Vec<u8> = words.flat_map(u64::to_be_bytes).collect();
            put(&mut file, at as usize, &bytes);
        }
        self.put_snapshots(&mut file, snapshots_at, l1_at);
        put(&mut file, cluster as usize, &(2 * cluster).to_be_bytes());
        let counts = (file.len() as u64).div_ceil(cluster).min(cluster / 2);
        for i in 0..counts as usize {
            put(&mut file, 2 * cluster as usize + i * 2, &1u16.to_be_bytes());
        }
        self.put_header(&mut file, l1_at, snapshots_at);
        file
    }

    fn words(&self, entry: Entry, data_at: u64) -> impl Iterator<Item = u64> + use<> {
        let at = |cluster: u64| data_at + (cluster << self.cluster_bits);
        let (word, bitmap) = match entry {
            Entry::Unallocated => (0, 0),
            Entry::Zero if self.extended => (0, 0x5555_5555 << 32),
            Entry::Zero => (1, 0),
            Entry::Data(cluster) => (1 << 63 | at(cluster), 0xffff_ffff),
            Entry::Compressed(cluster) => (1 << 62 | at(cluster), 0),
            Entry::CompressedSectors(cluster, sectors) => {
                let bit = 62 - (self.cluster_bits - 8);
                (1 << 62 | (sectors - 1) << bit | at(cluster), 0)
            }
        };
        std::iter::once(word).chain(self.extended.then_some(bitmap))
    }

    fn put_header(&self, file: &mut Vec<u8>, l1_at: u64, snapshots_at: u64) {
        let u32s = |file: &mut Vec<u8>, at: usize, value: u32| put(file, at, &value.to_be_bytes());
        let u64s = |file: &mut Vec<u8>, at: usize, value: u64| put(file, at, &value.to_be_bytes());
        put(file, 0, b"QFI\xfb");
        u32s(file, 4, 3);
        u32s(file, 20, self.cluster_bits);
        u64s(file, 24, self.size());
        u32s(file, 36, self.l1.len() as u32);
        u64s(file, 40, l1_at);
        u64s(file, 48, 1 << self.cluster_bits);
        u32s(file, 56, 1);
        u32s(file, 60, self.snapshots);
        u64s(file, 64, if self.snapshots > 0 { snapshots_at } else { 0 });
        u64s(file, 72, if self.extended { 1 << 4 } else { 0 });
        u32s(file, 96, 4);
        u32s(file, 100, 104);
    }

    fn put_snapshots(&self, file: &mut Vec<u8>, at: u64, l1_at: u64) {
        let mut at = at as usize;
        for number in 0..self.snapshots {
            let id = number.to_string();
            put(file, at, &l1_at.to_be_bytes());
            put(file, at + 8, &(self.l1.len() as u32).to_be_bytes());
            put(file, at + 12, &(id.len() as u16).to_be_bytes());
            put(file, at + 14, &1u16.to_be_bytes());
            put(file, at + 36, &16u32.to_be_bytes());
            put(file, at + 48, &self.size().to_be_bytes());
            put(file, at + 56, format!("{id}n").as_bytes());
            at = (at + 56 + id.len() + 1).next_multiple_of(8);
            file.resize(at, 0);
        }
    }
}

/// Returns a compressed cluster of `len` bytes.
fn compressed(len: usize) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![b'A'; len]).unwrap();
    encoder.finish().unwrap()
}
