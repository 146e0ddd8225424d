//! QCOW version 1 images that QEMU does not write: every size of clusters and tables, compressed
//! clusters one after the other, tables at any place.
//!
//! Written from libyal's description of the format without code of diskimg.

use flate2::{Compression, write::DeflateEncoder};
use std::collections::BTreeMap;
use std::io::Write;

/// Header field offsets in bytes.
pub const VERSION: usize = 4;
pub const BACKING_OFFSET: usize = 8;
pub const BACKING_SIZE: usize = 16;
pub const SIZE: usize = 24;
pub const CLUSTER_BITS: usize = 32;
pub const L2_BITS: usize = 33;
pub const CRYPT_METHOD: usize = 36;
pub const L1_OFFSET: usize = 40;

/// How a guest cluster is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    /// A cluster of this byte.
    Data(u8),
    /// A compressed cluster of this byte.
    Compressed(u8),
}

/// An image with its clusters in guest order, compressed ones without space between them, then the
/// L2 tables, then the L1 table.
#[derive(Debug, Clone)]
pub struct Qcow {
    pub cluster_bits: u8,
    pub l2_bits: u8,
    pub size: u64,
    pub backing: String,
    /// By number.
    pub clusters: BTreeMap<u64, Cluster>,
}

/// An image and where its parts are.
#[derive(Debug, Clone)]
pub struct Built {
    pub file: Vec<u8>,
    /// Host offsets of the L2 entries by guest cluster.
    pub entries: BTreeMap<u64, usize>,
    /// Host offsets of the L2 tables by L1 index.
    pub tables: BTreeMap<u64, usize>,
    pub l1_at: usize,
}

impl Qcow {
    /// An empty disk with QEMU's default parameters.
    pub fn new(size: u64) -> Self {
        let (backing, clusters) = (String::new(), BTreeMap::new());
        Self { cluster_bits: 12, l2_bits: 9, size, backing, clusters }
    }

    /// Stores a cluster.
    pub fn cluster(mut self, number: u64, cluster: Cluster) -> Self {
        self.clusters.insert(number, cluster);
        self
    }

    /// Returns the file.
    pub fn build(&self) -> Built {
        let size = 1 << self.cluster_bits;
        let mut file = vec![0; 48];
        file[..8].copy_from_slice(b"QFI\xfb\0\0\0\x01");
        file[SIZE..SIZE + 8].copy_from_slice(&self.size.to_be_bytes());
        (file[CLUSTER_BITS], file[L2_BITS]) = (self.cluster_bits, self.l2_bits);
        if !self.backing.is_empty() {
            file[BACKING_OFFSET..BACKING_OFFSET + 8].copy_from_slice(&48u64.to_be_bytes());
            let len = self.backing.len() as u32;
            file[BACKING_SIZE..BACKING_SIZE + 4].copy_from_slice(&len.to_be_bytes());
            file.extend(self.backing.as_bytes());
        }
        let mut words = BTreeMap::new();
        for (&number, &cluster) in &self.clusters {
            let word = match cluster {
                Cluster::Data(byte) => {
                    file.resize(file.len().next_multiple_of(size), 0);
                    let at = file.len() as u64;
                    file.resize(file.len() + size, byte);
                    at
                }
                Cluster::Compressed(byte) => {
                    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
                    encoder.write_all(&vec![byte; size]).unwrap();
                    let stream = encoder.finish().unwrap();
                    let at = file.len() as u64;
                    file.extend(&stream);
                    1 << 63 | (stream.len() as u64) << (63 - self.cluster_bits) | at
                }
            };
            words.insert(number, word);
        }
        let mut built = Built { file, entries: BTreeMap::new(), tables: BTreeMap::new(), l1_at: 0 };
        let file = &mut built.file;
        for (&number, word) in &words {
            let table = number >> self.l2_bits;
            let at = *built.tables.entry(table).or_insert_with(|| {
                file.resize(file.len().next_multiple_of(size), 0);
                let at = file.len();
                file.resize(at + (8 << self.l2_bits), 0);
                at
            });
            let entry = at + (number & ((1 << self.l2_bits) - 1)) as usize * 8;
            file[entry..entry + 8].copy_from_slice(&word.to_be_bytes());
            built.entries.insert(number, entry);
        }
        built.l1_at = file.len().next_multiple_of(8);
        let tables = self.size.div_ceil(1 << (self.cluster_bits + self.l2_bits)) as usize;
        file.resize((built.l1_at + tables * 8).next_multiple_of(512), 0);
        for (&table, &at) in &built.tables {
            let entry = built.l1_at + table as usize * 8;
            file[entry..entry + 8].copy_from_slice(&(at as u64).to_be_bytes());
        }
        file[L1_OFFSET..L1_OFFSET + 8].copy_from_slice(&(built.l1_at as u64).to_be_bytes());
        built
    }

    /// Returns the guest's bytes; what is not stored is `unallocated`.
    pub fn bytes(&self, unallocated: u8) -> Vec<u8> {
        let (size, mut bytes) = (1 << self.cluster_bits, vec![unallocated; self.size as usize]);
        for (&number, &cluster) in &self.clusters {
            let at = number as usize * size;
            let end = bytes.len().min(at + size);
            let (Cluster::Data(byte) | Cluster::Compressed(byte)) = cluster;
            bytes[at..end].fill(byte);
        }
        bytes
    }
}
