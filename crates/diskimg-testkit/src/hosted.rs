//! Builds hosted sparse and stream-optimized extents field by field, after *Virtual Disk Format
//! 5.0*, "Hosted Sparse Extents" and "Stream-Optimized Compressed Sparse Extents".

use crate::esx::{Grain, Grains, SECTOR, put};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write;

/// `gdOffset` of a header whose grain directory offset is in the footer (`GD_AT_END`).
const GD_AT_END: u64 = u64::MAX;

/// Sectors reserved for the descriptor after the header.
const DESCRIPTOR_SECTORS: u64 = 20;

/// The fields of `SparseExtentHeader` that differ between writers, and the descriptor.
#[derive(Debug, Clone)]
pub struct Sparse {
    pub version: u32,
    pub flags: u32,
    /// Size of the disk in sectors.
    pub capacity: u64,
    pub grain_sectors: u64,
    /// Entries per grain table (`numGTEsPerGT`).
    pub gtes: u32,
    pub unclean: u8,
    /// The embedded descriptor; empty if there is none.
    pub descriptor: String,
}

/// Offsets of the structures of a file in sectors.
#[derive(Debug, Clone, Copy, Default)]
struct Layout {
    /// Redundant grain directory.
    rgd: u64,
    /// Grain directory.
    gd: u64,
    /// First grain (`overHead`).
    over_head: u64,
}

impl Sparse {
    /// Returns the fields that Workstation writes: version 1, both directories, 64 KiB grains.
    pub fn plain(sectors: u64) -> Self {
        Self {
            version: 1,
            flags: 3,
            capacity: sectors,
            grain_sectors: 128,
            gtes: 512,
            unclean: 0,
            descriptor: descriptor("monolithicSparse", &extent_line(sectors), None),
        }
    }

    fn tables(&self) -> u64 {
        self.capacity.div_ceil(self.grain_sectors * u64::from(self.gtes))
    }

    fn table_sectors(&self) -> u64 {
        (u64::from(self.gtes) * 4).div_ceil(512)
    }

    fn directory_sectors(&self) -> u64 {
        (self.tables() * 4).div_ceil(512)
    }

    fn header(&self, compressed: bool, at: Layout) -> Vec<u8> {
        let descriptor = match self.descriptor.as_str() {
            "" => [0, 0],
            _ => [1, DESCRIPTOR_SECTORS],
        };
        let mut header = vec![0; SECTOR];
        put(&mut header, 0, b"KDMV");
        put(&mut header, 4, &self.version.to_le_bytes());
        put(&mut header, 8, &self.flags.to_le_bytes());
        let fields = [self.capacity, self.grain_sectors, descriptor[0], descriptor[1]];
        for (i, field) in fields.iter().enumerate() {
            put(&mut header, 12 + i * 8, &field.to_le_bytes());
        }
        put(&mut header, 44, &self.gtes.to_le_bytes());
        for (i, field) in [at.rgd, at.gd, at.over_head].iter().enumerate() {
            put(&mut header, 48 + i * 8, &field.to_le_bytes());
        }
        put(&mut header, 72, &[self.unclean]);
        put(&mut header, 73, b"\n \r\n");
        put(&mut header, 77, &[compressed.into()]);
        header
    }

    /// Returns header and descriptor, up to the start of the tables.
    fn front(&self, compressed: bool, at: Layout) -> Vec<u8> {
        let mut file = self.header(compressed, at);
        put(&mut file, SECTOR, self.descriptor.as_bytes());
        file.resize((1 + DESCRIPTOR_SECTORS) as usize * SECTOR, 0);
        file
    }

    /// Writes a directory at sector `at` and empty tables after it. Returns the first sector of the
    /// tables and the sector after them.
    fn directory(&self, file: &mut Vec<u8>, at: u64) -> (u64, u64) {
        let first = at + self.directory_sectors();
        for table in 0..self.tables() {
            let entry = (first + table * self.table_sectors()) as u32;
            put(file, at as usize * SECTOR + table as usize * 4, &entry.to_le_bytes());
        }
        let end = first + self.tables() * self.table_sectors();
        file.resize(file.len().max(end as usize * SECTOR), 0);
        (first, end)
    }

    /// Sets the entry of a grain in the tables that start at sector `tables`.
    fn set_entry(&self, file: &mut Vec<u8>, tables: u64, grain: u64, sector: u64) {
        let gtes = u64::from(self.gtes);
        let table = (tables + grain / gtes * self.table_sectors()) as usize * SECTOR;
        put(file, table + (grain % gtes) as usize * 4, &(sector as u32).to_le_bytes());
    }

    /// Builds a file of uncompressed grains with the tables before the grains.
    pub fn build(&self, grains: &Grains) -> Vec<u8> {
        let mut file = self.front(false, Layout::default());
        let mut end = 1 + DESCRIPTOR_SECTORS;
        let rgd = if self.flags & 2 != 0 { end } else { 0 };
        let mut copies = Vec::new();
        if rgd != 0 {
            let (tables, after) = self.directory(&mut file, end);
            (end, copies) = (after, vec![tables]);
        }
        let gd = end;
        let (tables, end) = self.directory(&mut file, gd);
        copies.push(tables);
        let over_head = end.next_multiple_of(self.grain_sectors);
        let mut next = over_head;
        file.resize(over_head as usize * SECTOR, 0);
        for (&number, grain) in grains {
            let entry = match grain {
                Grain::Data(byte) => {
                    let bytes = vec![*byte; self.grain_sectors as usize * SECTOR];
                    put(&mut file, next as usize * SECTOR, &bytes);
                    next += self.grain_sectors;
                    next - self.grain_sectors
                }
                _ => 1,
            };
            for &tables in &copies {
                self.set_entry(&mut file, tables, number, entry);
            }
        }
        let header = self.header(false, Layout { rgd, gd, over_head });
        put(&mut file, 0, &header);
        file
    }
}

/// The program whose stream is imitated; writers differ in the metadata around the grains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// ovftool, vSphere, VirtualBox: the directory's offset is in the footer.
    VSphere,
    /// vmdktool: the offset is in the footer and, patched afterwards, in the header.
    Vmdktool,
    /// VMware's open-vmdk: tables before the grains, an end-of-stream marker after them.
    OpenVmdk,
    /// qemu-img: two copies of the tables before the grains, no markers.
    Qemu,
}

/// The parameters of a stream-optimized file.
#[derive(Debug, Clone)]
pub struct Stream {
    pub writer: Writer,
    pub grain_sectors: u64,
    /// Grains are written from the last to the first.
    pub reversed: bool,
    /// Bytes of zeros after the end of the stream.
    pub padding: usize,
}

impl Stream {
    /// Returns the parameters that a writer uses.
    pub fn of(writer: Writer) -> Self {
        Self { writer, grain_sectors: 128, reversed: false, padding: 0 }
    }

    /// Builds the file for a disk with these bytes.
    pub fn build(&self, disk: &[u8]) -> Vec<u8> {
        let sectors = (disk.len() / SECTOR) as u64;
        let qemu = self.writer == Writer::Qemu;
        let sparse = Sparse {
            version: 3,
            flags: if qemu { 0x3_0003 } else { 0x3_0001 },
            grain_sectors: self.grain_sectors,
            descriptor: descriptor("streamOptimized", &extent_line(sectors), None),
            ..Sparse::plain(sectors)
        };
        let mut at = Layout { gd: GD_AT_END, over_head: 128, rgd: 0 };
        let mut file = sparse.front(true, at);
        let mut copies = Vec::new();
        if matches!(self.writer, Writer::OpenVmdk | Writer::Qemu) {
            let mut end = 1 + DESCRIPTOR_SECTORS;
            if qemu {
                at.rgd = end;
                let (tables, after) = sparse.directory(&mut file, end);
                (end, copies) = (after, vec![tables]);
            }
            at.gd = end;
            let (tables, end) = sparse.directory(&mut file, end);
            copies.push(tables);
            at.over_head = if qemu { end.next_multiple_of(128) } else { end };
        }
        file.resize(at.over_head as usize * SECTOR, 0);
        let placed = self.grains(&mut file, disk);
        match self.writer {
            Writer::VSphere | Writer::Vmdktool => {
                at.gd = append_tables(&mut file, &sparse, &placed);
                marker(&mut file, 1, 3);
                file.extend(sparse.header(true, at));
                marker(&mut file, 0, 0);
            }
            Writer::OpenVmdk | Writer::Qemu => {
                for (number, sector) in placed {
                    for &tables in &copies {
                        sparse.set_entry(&mut file, tables, number, sector);
                    }
                }
                if !qemu {
                    marker(&mut file, 0, 0);
                }
            }
        }
        let gd = if self.writer == Writer::VSphere { GD_AT_END } else { at.gd };
        let header = sparse.header(true, Layout { gd, ..at });
        put(&mut file, 0, &header);
        file.resize(file.len() + self.padding, 0);
        file
    }

    /// Appends the grains that are not zero. Returns the number and the sector of each.
    fn grains(&self, file: &mut Vec<u8>, disk: &[u8]) -> Vec<(u64, u64)> {
        let grain_bytes = self.grain_sectors as usize * SECTOR;
        let mut grains: Vec<_> = (0u64..)
            .zip(disk.chunks(grain_bytes))
            .filter(|(_, grain)| grain.iter().any(|&byte| byte != 0))
            .collect();
        if self.reversed {
            grains.reverse();
        }
        let mut placed = Vec::new();
        for (number, grain) in grains {
            placed.push((number, (file.len() / SECTOR) as u64));
            let mut whole = grain.to_vec();
            // qemu-img does not pad an incomplete last grain before it compresses it.
            if self.writer != Writer::Qemu {
                whole.resize(grain_bytes, 0);
            }
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&whole).unwrap();
            let data = encoder.finish().unwrap();
            file.extend((number * self.grain_sectors).to_le_bytes());
            file.extend((data.len() as u32).to_le_bytes());
            file.extend(data);
            file.resize(file.len().next_multiple_of(SECTOR), 0);
        }
        placed
    }
}

/// Appends tables and directory, each after its marker. Returns the sector of the directory.
fn append_tables(file: &mut Vec<u8>, sparse: &Sparse, placed: &[(u64, u64)]) -> u64 {
    let gtes = u64::from(sparse.gtes);
    let mut directory = vec![0; sparse.directory_sectors() as usize * SECTOR];
    for table in 0..sparse.tables() {
        let mut entries = vec![0; sparse.table_sectors() as usize * SECTOR];
        let here = placed.iter().filter(|(number, _)| number / gtes == table);
        for (number, sector) in here.clone() {
            put(&mut entries, (number % gtes) as usize * 4, &(*sector as u32).to_le_bytes());
        }
        // A table without grains is not written.
        if here.count() > 0 {
            marker(file, sparse.table_sectors(), 1);
            let sector = (file.len() / SECTOR) as u32;
            put(&mut directory, table as usize * 4, &sector.to_le_bytes());
            file.extend(entries);
        }
    }
    marker(file, sparse.directory_sectors(), 2);
    let gd = (file.len() / SECTOR) as u64;
    file.extend(directory);
    gd
}

/// Appends a marker.
fn marker(file: &mut Vec<u8>, sectors: u64, kind: u32) {
    let at = file.len();
    file.resize(at + SECTOR, 0);
    put(file, at, &sectors.to_le_bytes());
    put(file, at + 12, &kind.to_le_bytes());
}

/// Returns the extent line of a monolithic disk.
pub fn extent_line(sectors: u64) -> String {
    format!("RW {sectors} SPARSE \"disk.vmdk\"")
}

/// Returns a descriptor with these extent lines; `parent` is content ID and file name.
pub fn descriptor(create_type: &str, extents: &str, parent: Option<(&str, &str)>) -> String {
    let (cid, hint) = match parent {
        None => ("ffffffff", String::new()),
        Some((cid, name)) => (cid, format!("parentFileNameHint=\"{name}\"\n")),
    };
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=5b6a7c8d\nparentCID={cid}\n\
         createType=\"{create_type}\"\n{hint}\n# Extent description\n{extents}\n\n\
         # The Disk Data Base\n#DDB\n\nddb.adapterType = \"ide\"\n"
    )
}
