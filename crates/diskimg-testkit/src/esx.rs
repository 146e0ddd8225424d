//! Builds COWD and seSparse extents field by field: COWD after *Virtual Disk Format 5.0*, "ESX
//! Server Sparse Extents"; seSparse after the fields that an ESXi host lists in its `hostd.log`.

use std::collections::BTreeMap;

pub const SECTOR: usize = 512;

/// The state of a grain. Grains that are not listed are unallocated.
#[derive(Debug, Clone)]
pub enum Grain {
    /// Discarded by the guest (seSparse).
    Unmapped,
    /// Zeros that hide the parent's data (seSparse).
    Zero,
    /// A grain filled with one byte.
    Data(u8),
}

/// Grains by number.
pub type Grains = BTreeMap<u64, Grain>;

/// Writes `bytes` at offset `at`, extending the file with zeros if necessary.
pub fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put_u32s(file: &mut Vec<u8>, at: usize, values: &[u32]) {
    put(file, at, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
}

fn put_u64s(file: &mut Vec<u8>, at: usize, values: &[u64]) {
    put(file, at, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
}

/// Returns the guest bytes of `grains` on top of a parent that holds `parent`.
pub fn guest(mut parent: Vec<u8>, grain_sectors: u64, grains: &Grains) -> Vec<u8> {
    let grain_bytes = grain_sectors as usize * SECTOR;
    for (&number, grain) in grains {
        let start = number as usize * grain_bytes;
        let end = (start + grain_bytes).min(parent.len());
        parent[start..end].fill(match grain {
            Grain::Unmapped | Grain::Zero => 0,
            Grain::Data(byte) => *byte,
        });
    }
    parent
}

/// The header fields of a COWD extent.
#[derive(Debug, Clone)]
pub struct Cowd {
    pub version: u32,
    pub flags: u32,
    pub sectors: u32,
    pub grain_sectors: u32,
    /// Entries per grain table: 4096, or 512 in VMware 2 and 3.
    pub gtes: u32,
    /// Name and generation of the parent, in a child of VMware 2 and 3.
    pub parent: Option<(&'static str, u32)>,
    pub generation: u32,
    pub unclean: u32,
}

impl Cowd {
    /// Returns the fields that an ESX server writes.
    pub fn esx(sectors: u32) -> Self {
        Self {
            version: 1,
            flags: 3,
            sectors,
            grain_sectors: 1,
            gtes: 4096,
            parent: None,
            generation: 0,
            unclean: 0,
        }
    }

    /// Returns the fields that VMware 3 writes.
    pub fn hosted(sectors: u32) -> Self {
        Self { version: 3, flags: 0x13, grain_sectors: 128, gtes: 512, ..Self::esx(sectors) }
    }

    /// Builds the file: header, directory, then tables and grains in the order in which they were
    /// first written.
    pub fn build(&self, grains: &Grains) -> Vec<u8> {
        let tables = self.sectors.div_ceil(self.gtes * self.grain_sectors);
        let (table_sectors, grain_bytes) =
            (self.gtes * 4 / SECTOR as u32, self.grain_sectors as usize * SECTOR);
        let mut directory = vec![0u32; tables as usize];
        let mut free = 4 + (tables * 4).div_ceil(SECTOR as u32);
        let mut file = vec![0; free as usize * SECTOR];
        for (&number, grain) in grains {
            let Grain::Data(byte) = grain else { panic!("COWD has data grains only") };
            let table = &mut directory[number as usize / self.gtes as usize];
            if *table == 0 {
                *table = free;
                free += table_sectors;
            }
            let entry = *table as usize * SECTOR + number as usize % self.gtes as usize * 4;
            put_u32s(&mut file, entry, &[free]);
            put(&mut file, free as usize * SECTOR, &vec![*byte; grain_bytes]);
            free += self.grain_sectors;
        }
        file.resize(free as usize * SECTOR, 0);
        put(&mut file, 0, b"COWD");
        let fields = [self.version, self.flags, self.sectors, self.grain_sectors, 4, tables, free];
        put_u32s(&mut file, 4, &fields);
        match self.parent {
            Some((name, generation)) => {
                put(&mut file, 32, name.as_bytes());
                put_u32s(&mut file, 1056, &[generation]);
            }
            None => put_u32s(&mut file, 32, &[self.sectors / 16 / 63, 16, 63]),
        }
        put_u32s(&mut file, 1060, &[self.generation]);
        put(&mut file, 1064, b"a disk");
        put_u32s(&mut file, 1648, &[self.unclean]);
        put_u32s(&mut file, 4 * SECTOR, &directory);
        file
    }
}

/// The parameters of an seSparse extent.
#[derive(Debug, Clone)]
pub struct SeSparse {
    pub sectors: u64,
    pub grain_sectors: u64,
    pub table_sectors: u64,
    /// Alignment of the regions in sectors: 2048 in extents that ESXi writes.
    pub align: u64,
    /// Index of the first grain within the grain region.
    pub first: u64,
    pub replay_journal: u64,
}

impl SeSparse {
    /// Returns the parameters that ESXi uses.
    pub fn esxi(sectors: u64) -> Self {
        Self {
            sectors,
            grain_sectors: 8,
            table_sectors: 64,
            align: 2048,
            first: 0,
            replay_journal: 0,
        }
    }

    /// Returns the same without padding between the regions.
    pub fn dense(sectors: u64) -> Self {
        Self { align: 1, ..Self::esxi(sectors) }
    }

    /// Returns offset and size of the eight regions in sectors, in the header's order.
    pub fn regions(&self) -> [(u64, u64); 8] {
        let entries = self.table_sectors * 64;
        let tables = self.sectors.div_ceil(entries * self.grain_sectors);
        let grains = self.sectors.div_ceil(self.grain_sectors);
        let sizes = [
            2048,
            (tables * 8).div_ceil(512),
            tables * self.table_sectors,
            grains.div_ceil(8 * 512),
            (grains * 8).div_ceil(512),
            self.sectors,
        ];
        let mut regions = [(1, 1), (2, 2), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)];
        let mut at = 4;
        for (region, size) in regions[2..].iter_mut().zip(sizes) {
            at = u64::next_multiple_of(at, self.align);
            *region = (at, size.next_multiple_of(self.align));
            at += region.1;
        }
        regions[7].1 = self.sectors;
        regions
    }

    /// Builds the file. Tables and grains are allocated from the last grain to the first.
    pub fn build(&self, grains: &Grains) -> Vec<u8> {
        let regions = self.regions();
        let at = |region: usize| regions[region].0 as usize * SECTOR;
        let mut file = vec![0; at(7)];
        put_u64s(
            &mut file,
            0,
            &[0xcafe_babe, 2 << 32 | 1, self.sectors, self.grain_sectors, self.table_sectors],
        );
        put_u64s(&mut file, 80, &regions.map(|(at, size)| [at, size]).concat());
        let (entries, table_bytes, grain_bytes) = (
            self.table_sectors * 64,
            self.table_sectors as usize * SECTOR,
            self.grain_sectors as usize * SECTOR,
        );
        let (mut tables, mut next) = (0u64, self.first);
        let mut numbers = BTreeMap::new();
        for (&number, grain) in grains.iter().rev() {
            let table = *numbers.entry(number / entries).or_insert_with(|| {
                tables += 1;
                tables - 1
            });
            put_u64s(
                &mut file,
                at(3) + (number / entries) as usize * 8,
                &[0x1000_0000 << 32 | table],
            );
            let entry = match grain {
                Grain::Unmapped => 1 << 60,
                Grain::Zero => 2 << 60,
                Grain::Data(byte) => {
                    let place = at(7) + next as usize * grain_bytes;
                    put(&mut file, place, &vec![*byte; grain_bytes]);
                    let bit = at(5) + next as usize / 8;
                    file[bit] |= 1 << (next % 8);
                    put_u64s(&mut file, at(6) + next as usize * 8, &[table]);
                    next += 1;
                    3 << 60 | ((next - 1) & 0xfff) << 48 | (next - 1) >> 12
                }
            };
            let slot = at(4) + table as usize * table_bytes + (number % entries) as usize * 8;
            put_u64s(&mut file, slot, &[entry]);
        }
        put_u64s(&mut file, at(0), &[0xcafe_cafe, tables, 1, self.replay_journal]);
        file
    }
}

/// Returns the descriptor of a disk of one extent. `kind` is `VMFSSPARSE`, `SESPARSE` or `VMFS`;
/// `parent` is content ID and file name.
pub fn descriptor(
    create_type: &str,
    kind: &str,
    sectors: u64,
    file: &str,
    parent: Option<(&str, &str)>,
) -> String {
    let (parent_cid, hint) = match parent {
        None => ("ffffffff", String::new()),
        Some((cid, name)) => (cid, format!("parentFileNameHint=\"{name}\"\n")),
    };
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=2af54bc8\nparentCID={parent_cid}\n\
         isNativeSnapshot=\"no\"\ncreateType=\"{create_type}\"\n{hint}\
         # Extent description\nRW {sectors} {kind} \"{file}\"\n\n\
         # The Disk Data Base\n#DDB\n\nddb.longContentID = \"0d4d3d3c0d4d3d3c0d4d3d3c2af54bc8\"\n"
    )
}
