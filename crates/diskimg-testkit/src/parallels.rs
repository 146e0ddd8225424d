//! Parallels images and bundles that no available program writes: the old magic with odd clusters,
//! format extensions, snapshots, split disks.
//!
//! Written from the specifications (*Parallels Expandable Image File Format*, *Parallels Disk Format*)
//! without code of diskimg.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

pub const SECTOR: usize = 512;

/// An image that was opened for writing and not closed.
pub const IN_USE: u32 = 0x746f_6e59;

/// An expandable image.
#[derive(Debug, Clone)]
pub struct Parallels {
    /// `WithouFreSpacExt`, whose table counts clusters; otherwise `WithoutFreeSpace`.
    pub extended: bool,
    pub sectors: u64,
    pub cluster_sectors: u32,
    pub in_use: u32,
    pub flags: u32,
    /// Records 0 as the start of the data area.
    pub omit_data_off: bool,
    /// Contents of the allocated clusters by their guest index, in the order of the file.
    pub clusters: Vec<(u32, Vec<u8>)>,
    /// Features of the format extension, if there is one.
    pub features: Option<Vec<Feature>>,
    /// Clusters with the bits of bitmaps, after the format extension.
    pub bits: Vec<Vec<u8>>,
}

/// A feature of the format extension.
#[derive(Debug, Clone)]
pub struct Feature {
    pub magic: u64,
    /// 1: necessary, 2: transit.
    pub flags: u64,
    pub data: Vec<u8>,
}

impl Feature {
    /// A dirty bitmap of a disk, all of whose bits are set.
    pub fn bitmap(sectors: u64, granularity: u32, id: [u8; 16]) -> Self {
        let mut data = sectors.to_le_bytes().to_vec();
        data.extend(id);
        data.extend(granularity.to_le_bytes());
        data.extend(1u32.to_le_bytes());
        data.extend(1u64.to_le_bytes());
        Self { magic: 0x2038_5fae_252c_b34a, flags: 0, data }
    }

    /// A dirty bitmap with this L1 table: 0 for a cluster of bits that are clear, 1 for one of bits
    /// that are set, or the sector of a cluster.
    pub fn bitmap_with_table(sectors: u64, granularity: u32, id: [u8; 16], l1: &[u64]) -> Self {
        let mut bitmap = Self::bitmap(sectors, granularity, id);
        bitmap.data.truncate(8 + 16 + 4);
        bitmap.data.extend((l1.len() as u32).to_le_bytes());
        bitmap.data.extend(l1.iter().flat_map(|entry| entry.to_le_bytes()));
        bitmap
    }
}

impl Parallels {
    /// An empty image with clusters of 4 KiB, as small as tests like.
    pub fn new(sectors: u64) -> Self {
        Self {
            extended: true,
            sectors,
            cluster_sectors: 8,
            in_use: 0x312e_3276,
            flags: 0,
            omit_data_off: false,
            clusters: Vec::new(),
            features: None,
            bits: Vec::new(),
        }
    }

    /// An empty image with the old magic and this cluster size.
    pub fn old(sectors: u64, cluster_sectors: u32) -> Self {
        Self {
            extended: false,
            cluster_sectors,
            in_use: 0,
            omit_data_off: true,
            ..Self::new(sectors)
        }
    }

    /// Allocates the next cluster of the file for a guest cluster, and fills it with `byte`.
    pub fn cluster(mut self, index: u32, byte: u8) -> Self {
        let len = self.cluster_bytes();
        self.clusters.push((index, vec![byte; len]));
        self
    }

    pub fn cluster_bytes(&self) -> usize {
        self.cluster_sectors as usize * SECTOR
    }

    /// Returns the number of entries of the table.
    pub fn entries(&self) -> u32 {
        self.sectors.div_ceil(self.cluster_sectors.into()) as u32
    }

    /// Returns the host offset of the first cluster.
    pub fn data_at(&self) -> usize {
        let unit = if self.extended { self.cluster_bytes() } else { SECTOR };
        (64 + 4 * self.entries() as usize).next_multiple_of(unit)
    }

    /// Returns the host offset of a cluster with the bits of bitmaps.
    pub fn bits_at(&self, index: usize) -> usize {
        self.data_at() + (self.clusters.len() + 1 + index) * self.cluster_bytes()
    }

    /// Returns the guest bytes of an image without one below.
    pub fn bytes(&self) -> Vec<u8> {
        let mut disk = vec![0; self.entries() as usize * self.cluster_bytes()];
        for (index, bytes) in &self.clusters {
            disk[*index as usize * self.cluster_bytes()..][..bytes.len()].copy_from_slice(bytes);
        }
        disk.truncate(self.sectors as usize * SECTOR);
        disk
    }

    /// Returns the file.
    pub fn build(&self) -> Vec<u8> {
        let (cluster, data_at) = (self.cluster_bytes(), self.data_at());
        let unit = if self.extended { cluster } else { SECTOR };
        let mut table = vec![0u32; self.entries() as usize];
        for (number, (index, _)) in self.clusters.iter().enumerate() {
            table[*index as usize] = ((data_at + number * cluster) / unit) as u32;
        }
        let extension_at = data_at + self.clusters.len() * cluster;
        let ext_off = self.features.as_ref().map_or(0, |_| extension_at / SECTOR);
        let data_off = if self.omit_data_off { 0 } else { data_at / SECTOR };
        let magic = if self.extended { b"WithouFreSpacExt" } else { b"WithoutFreeSpace" };
        let mut file = magic.to_vec();
        for field in [2, 16, 100, self.cluster_sectors, self.entries()] {
            file.extend(field.to_le_bytes());
        }
        file.extend(self.sectors.to_le_bytes());
        for field in [self.in_use, data_off as u32, self.flags] {
            file.extend(field.to_le_bytes());
        }
        file.extend((ext_off as u64).to_le_bytes());
        file.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
        file.resize(data_at, 0);
        self.clusters.iter().for_each(|(_, bytes)| file.extend(bytes));
        if let Some(features) = &self.features {
            file.extend(extension(features, cluster));
            for bits in &self.bits {
                file.extend(bits);
                file.resize(file.len().next_multiple_of(SECTOR), 0);
            }
        }
        file
    }
}

/// Returns a format extension of `len` bytes, with its digest.
pub fn extension(features: &[Feature], len: usize) -> Vec<u8> {
    let mut rest = Vec::new();
    for feature in features {
        rest.extend(feature.magic.to_le_bytes());
        rest.extend(feature.flags.to_le_bytes());
        rest.extend((feature.data.len() as u32).to_le_bytes());
        rest.extend([0; 4]);
        rest.extend(&feature.data);
        rest.resize(rest.len().next_multiple_of(8), 0);
    }
    assert!(24 + rest.len() + 24 <= len, "the features do not fit into a cluster");
    rest.resize(len - 24, 0);
    let mut all = 0xab23_4cef_23dc_ea87u64.to_le_bytes().to_vec();
    all.extend(md5(&rest));
    all.extend(rest);
    all
}

/// RFC 1321.
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    const SHIFTS: [[u32; 4]; 4] =
        [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
    let mut message = bytes.to_vec();
    message.push(0x80);
    message.resize((message.len() + 8).next_multiple_of(64) - 8, 0);
    message.extend((bytes.len() as u64 * 8).to_le_bytes());
    let mut state = [0x6745_2301u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in message.chunks(64) {
        let word = |i: usize| u32::from_le_bytes(block[i * 4..][..4].try_into().unwrap());
        let [mut a, mut b, mut c, mut d] = state;
        for i in 0..64 {
            let (mixed, k) = match i / 16 {
                0 => ((b & c) | (!b & d), i),
                1 => ((d & b) | (!d & c), (5 * i + 1) % 16),
                2 => (b ^ c ^ d, (3 * i + 5) % 16),
                _ => (c ^ (b | !d), (7 * i) % 16),
            };
            let sine = ((i as f64 + 1.0).sin().abs() * 4_294_967_296.0) as u32;
            let sum = a.wrapping_add(mixed).wrapping_add(sine).wrapping_add(word(k));
            (a, d, c) = (d, c, b);
            b = b.wrapping_add(sum.rotate_left(SHIFTS[i / 16][i % 4]));
        }
        for (total, part) in state.iter_mut().zip([a, b, c, d]) {
            *total = total.wrapping_add(part);
        }
    }
    let mut digest = [0; 16];
    for (bytes, word) in digest.chunks_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    digest
}

/// The current state of a disk, unless its descriptor says otherwise.
pub const TOP: &str = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";

/// The parent of the first snapshot.
pub const NIL: &str = "{00000000-0000-0000-0000-000000000000}";

/// A bundle: a directory with a descriptor.
#[derive(Debug, Clone, Default)]
pub struct Bundle {
    pub sectors: u64,
    /// Elements in `Disk_Parameters`.
    pub parameters: String,
    pub storages: Vec<Storage>,
    pub top: Option<String>,
    /// Snapshots and their parents.
    pub shots: Vec<(String, String)>,
    /// Files by their name in the bundle.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A part of the disk.
#[derive(Debug, Clone)]
pub struct Storage {
    pub start: u64,
    pub end: u64,
    pub cluster_sectors: u64,
    /// GUID, type and file of each image.
    pub images: Vec<(String, String, String)>,
}

impl Bundle {
    /// A disk without storages or snapshots.
    pub fn new(sectors: u64) -> Self {
        Self { sectors, ..Self::default() }
    }

    /// Adds a storage with these images: GUID, type, file.
    pub fn storage(mut self, start: u64, end: u64, images: &[(&str, &str, &str)]) -> Self {
        let images = images
            .iter()
            .map(|(guid, kind, file)| ((*guid).to_owned(), (*kind).to_owned(), (*file).to_owned()));
        self.storages.push(Storage { start, end, cluster_sectors: 8, images: images.collect() });
        self
    }

    /// Adds a snapshot and its parent.
    pub fn shot(mut self, guid: &str, parent: &str) -> Self {
        self.shots.push((guid.to_owned(), parent.to_owned()));
        self
    }

    /// Adds a file.
    pub fn file(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.insert(name.to_owned(), bytes.into());
        self
    }

    /// Returns the descriptor.
    pub fn descriptor(&self) -> String {
        let mut xml = String::from("<?xml version='1.0' encoding='UTF-8'?>\n");
        xml += "<Parallels_disk_image Version=\"1.0\">\n";
        let (size, more) = (self.sectors, &self.parameters);
        let _ = writeln!(
            xml,
            "  <Disk_Parameters><Disk_size>{size}</Disk_size><Cylinders>1</Cylinders>\
             <PhysicalSectorSize>4096</PhysicalSectorSize><Heads>1</Heads>\
             <Sectors>{size}</Sectors><Padding>0</Padding><Encryption><Engine>\
             {NIL}</Engine><Data></Data></Encryption>{more}</Disk_Parameters>\n  <StorageData>"
        );
        for storage in &self.storages {
            let Storage { start, end, cluster_sectors, images } = storage;
            let _ = writeln!(
                xml,
                "    <Storage><Start>{start}</Start><End>{end}</End>\
                 <Blocksize>{cluster_sectors}</Blocksize>"
            );
            for (guid, kind, file) in images {
                let _ = writeln!(
                    xml,
                    "      <Image><GUID>{guid}</GUID><Type>{kind}</Type><File>{file}</File></Image>"
                );
            }
            xml += "    </Storage>\n";
        }
        xml += "  </StorageData>\n  <Snapshots>\n";
        if let Some(top) = &self.top {
            let _ = writeln!(xml, "    <TopGUID>{top}</TopGUID>");
        }
        for (guid, parent) in &self.shots {
            let _ = writeln!(
                xml,
                "    <Shot><GUID>{guid}</GUID><ParentGUID>{parent}</ParentGUID></Shot>"
            );
        }
        xml + "  </Snapshots>\n</Parallels_disk_image>\n"
    }

    /// Writes the bundle to a new directory, with the empty file that has its name.
    pub fn write(&self, directory: &Path) {
        std::fs::create_dir(directory).unwrap();
        std::fs::write(directory.join("DiskDescriptor.xml"), self.descriptor()).unwrap();
        std::fs::write(directory.join(directory.file_name().unwrap()), b"").unwrap();
        for (name, bytes) in &self.files {
            std::fs::write(directory.join(name), bytes).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::md5;

    #[test]
    fn the_digests_of_the_rfc() {
        let hex = |bytes: &[u8]| md5(bytes).map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(hex(b""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(hex(b"message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
    }
}
