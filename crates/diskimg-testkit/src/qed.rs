//! QED images that QEMU does not write: tables behind the clusters, headers of several clusters,
//! flags.
//!
//! Written from the specification (QEMU's `docs/interop/qed_spec`) without code of diskimg.

use std::collections::BTreeMap;

/// Header field offsets in bytes.
pub const FEATURES: usize = 16;
pub const COMPATIBLE: usize = 24;
pub const AUTOCLEAR: usize = 32;
pub const L1_OFFSET: usize = 40;
pub const IMAGE_SIZE: usize = 48;
pub const BACKING_OFFSET: usize = 56;
pub const BACKING_SIZE: usize = 60;

/// Feature bits.
pub const BACKING_FILE: u64 = 1;
pub const NEED_CHECK: u64 = 2;
pub const BACKING_IS_RAW: u64 = 4;

/// How a guest cluster is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    /// The table entry for zeros.
    Zero,
    /// A cluster of this byte.
    Data(u8),
}

/// An image whose clusters are stored in descending order, before the tables.
#[derive(Debug, Clone)]
pub struct Qed {
    pub cluster_size: u32,
    /// Size of a table in clusters.
    pub table_size: u32,
    /// Size of the header in clusters.
    pub header_size: u32,
    pub size: u64,
    pub features: u64,
    pub backing: String,
    /// By number.
    pub clusters: BTreeMap<u64, Cluster>,
}

impl Qed {
    /// An empty disk with clusters of 4 KiB and tables of two clusters, which have 1024 entries.
    /// (QEMU does not open images with tables of one.)
    pub fn new(size: u64) -> Self {
        Self {
            cluster_size: 4096,
            table_size: 2,
            header_size: 1,
            size,
            features: 0,
            backing: String::new(),
            clusters: BTreeMap::new(),
        }
    }

    /// Stores a cluster.
    pub fn cluster(mut self, number: u64, cluster: Cluster) -> Self {
        self.clusters.insert(number, cluster);
        self
    }

    fn table_bytes(&self) -> usize {
        self.cluster_size as usize * self.table_size as usize
    }

    fn entries(&self) -> u64 {
        self.table_bytes() as u64 / 8
    }

    fn header_bytes(&self) -> usize {
        self.cluster_size as usize * self.header_size as usize
    }

    fn stored(&self) -> Vec<(u64, u8)> {
        let data = |(&number, &cluster): (&u64, &Cluster)| match cluster {
            Cluster::Data(byte) => Some((number, byte)),
            Cluster::Zero => None,
        };
        let mut stored: Vec<_> = self.clusters.iter().filter_map(data).collect();
        stored.reverse();
        stored
    }

    /// The L1 indices of the tables, in descending order, which is the order in the file.
    fn tables(&self) -> Vec<u64> {
        let mut tables: Vec<_> =
            self.clusters.keys().map(|number| number / self.entries()).collect();
        tables.dedup();
        tables.reverse();
        tables
    }

    /// Host offset of a guest cluster.
    pub fn cluster_at(&self, number: u64) -> usize {
        let stored = self.stored();
        let index = stored.iter().position(|(stored, _)| *stored == number).unwrap();
        self.header_bytes() + index * self.cluster_size as usize
    }

    /// Host offset of the L2 table of a guest cluster.
    pub fn table_at(&self, number: u64) -> usize {
        let index = self.tables().iter().position(|table| *table == number / self.entries());
        let clusters_end = self.header_bytes() + self.stored().len() * self.cluster_size as usize;
        clusters_end + index.unwrap() * self.table_bytes()
    }

    /// Host offset of the table entry of a guest cluster.
    pub fn entry_at(&self, number: u64) -> usize {
        self.table_at(number) + (number % self.entries()) as usize * 8
    }

    /// Host offset of the L1 table.
    pub fn l1_at(&self) -> usize {
        let clusters_end = self.header_bytes() + self.stored().len() * self.cluster_size as usize;
        clusters_end + self.tables().len() * self.table_bytes()
    }

    /// Returns the file.
    pub fn build(&self) -> Vec<u8> {
        let mut file = vec![0; self.l1_at() + self.table_bytes()];
        let put = |file: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            file[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(&mut file, 0, b"QED\0");
        put(&mut file, 4, &self.cluster_size.to_le_bytes());
        put(&mut file, 8, &self.table_size.to_le_bytes());
        put(&mut file, 12, &self.header_size.to_le_bytes());
        put(&mut file, FEATURES, &self.features.to_le_bytes());
        put(&mut file, L1_OFFSET, &(self.l1_at() as u64).to_le_bytes());
        put(&mut file, IMAGE_SIZE, &self.size.to_le_bytes());
        if !self.backing.is_empty() {
            let at = self.header_bytes() - self.backing.len();
            put(&mut file, BACKING_OFFSET, &(at as u32).to_le_bytes());
            put(&mut file, BACKING_SIZE, &(self.backing.len() as u32).to_le_bytes());
            put(&mut file, at, self.backing.as_bytes());
        }
        for (&number, &cluster) in &self.clusters {
            let entry = match cluster {
                Cluster::Zero => 1,
                Cluster::Data(byte) => {
                    let at = self.cluster_at(number);
                    put(&mut file, at, &vec![byte; self.cluster_size as usize]);
                    at as u64
                }
            };
            put(&mut file, self.entry_at(number), &entry.to_le_bytes());
            let l1_entry = self.l1_at() + (number / self.entries()) as usize * 8;
            put(&mut file, l1_entry, &(self.table_at(number) as u64).to_le_bytes());
        }
        file
    }

    /// Returns the guest's bytes; what is not stored is `unallocated`.
    pub fn bytes(&self, unallocated: u8) -> Vec<u8> {
        let mut bytes = vec![unallocated; self.size as usize];
        for (&number, &cluster) in &self.clusters {
            let at = number as usize * self.cluster_size as usize;
            let end = bytes.len().min(at + self.cluster_size as usize);
            let byte = if let Cluster::Data(byte) = cluster { byte } else { 0 };
            bytes[at..end].fill(byte);
        }
        bytes
    }
}
