//! ASIF images.
//!
//! Written from *ASIF binary specification* (huven/asif-format), whose letters N, S, C, D and T
//! these are, without code of diskimg.

use std::collections::BTreeMap;

/// An image.
#[derive(Debug, Clone)]
pub struct Asif {
    pub version: u32,
    pub flags: u32,
    pub sector_bytes: u16,
    pub segments: u16,
    pub chunk_bytes: u32,
    /// Size of the disk in sectors.
    pub sectors: u64,
    pub max_sectors: u64,
    /// Number of the chunk in which the metadata are, beyond the end of the disk; 0 if there are
    /// none.
    pub metadata_chunk: u64,
    /// Sequence numbers of the two directories.
    pub sequences: [u64; 2],
    /// The chunks of the disk that are stored, in the order of the file.
    pub chunks: Vec<(u64, Chunk)>,
    /// Entries that replace those of chunks of the disk.
    pub entries: BTreeMap<u64, u64>,
    /// Entries that replace those of the active directory.
    pub tables: BTreeMap<u64, u64>,
    /// States of sectors that replace those of the bitmaps, by the sector of the disk.
    pub states: BTreeMap<u64, u8>,
}

/// A stored chunk.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub bytes: Vec<u8>,
    /// Numbers of the sectors that are written; `None` for all, without a bitmap.
    pub written: Option<Vec<u64>>,
}

impl Asif {
    /// An empty disk with chunks of 64 KiB, as small as tests like.
    pub fn new(size: u64) -> Self {
        Self {
            version: 1,
            flags: 0,
            sector_bytes: 512,
            segments: 0,
            chunk_bytes: 64 << 10,
            sectors: size / 512,
            max_sectors: size / 512,
            metadata_chunk: 0,
            sequences: [1, 2],
            chunks: Vec::new(),
            entries: BTreeMap::new(),
            tables: BTreeMap::new(),
            states: BTreeMap::new(),
        }
    }

    /// Stores a chunk of the disk, filled with `byte`, in the next chunk of the file.
    pub fn full(mut self, index: u64, byte: u8) -> Self {
        let bytes = vec![byte; self.chunk_bytes as usize];
        self.chunks.push((index, Chunk { bytes, written: None }));
        self
    }

    /// Stores a chunk of which only these sectors are written, filled with `byte`. The others have
    /// the bytes `rest` in the file, which are not those of the disk.
    pub fn partial(mut self, index: u64, sectors: &[u64], byte: u8, rest: u8) -> Self {
        let mut bytes = vec![rest; self.chunk_bytes as usize];
        for sector in sectors {
            let at = *sector as usize * self.sector_bytes as usize;
            bytes[at..at + self.sector_bytes as usize].fill(byte);
        }
        self.chunks.push((index, Chunk { bytes, written: Some(sectors.to_vec()) }));
        self
    }

    /// Stores metadata as macOS does: in the last chunk of a disk of the maximum size.
    pub fn with_metadata(mut self) -> Self {
        let plist = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>internal metadata</key>
	<dict>
		<key>stable uuid</key>
		<string>dc5c7a3b-1915-43c2-944d-46c6c304b3b7</string>
	</dict>
	<key>user metadata</key>
	<dict/>
</dict>
</plist>
"#;
        let mut bytes = b"meta\0\0\0\x01\0\0\x02\0".to_vec();
        bytes.extend((plist.len() as u64).to_be_bytes());
        bytes.resize(512, 0);
        bytes.extend(plist.as_bytes());
        bytes.resize(self.chunk_bytes as usize, 0);
        let size = self.max_sectors * u64::from(self.sector_bytes);
        self.metadata_chunk = size / u64::from(self.chunk_bytes) - 1;
        self.chunks.push((self.metadata_chunk, Chunk { bytes, written: Some(vec![0, 1]) }));
        self
    }

    /// Sets the entry of a chunk of the disk.
    pub fn entry(mut self, index: u64, entry: u64) -> Self {
        self.entries.insert(index, entry);
        self
    }

    /// N: data chunks of a group.
    fn n(&self) -> u64 {
        4 * u64::from(self.sector_bytes)
    }

    /// S: bytes of a group.
    fn s(&self) -> u64 {
        8 * (self.n() + 1)
    }

    /// C: groups of a table.
    fn c(&self) -> u64 {
        u64::from(self.chunk_bytes) / self.s()
    }

    /// D: bytes that a table addresses.
    pub fn d(&self) -> u64 {
        self.c() * self.n() * u64::from(self.chunk_bytes)
    }

    /// T: number of tables.
    pub fn t(&self) -> u64 {
        (self.max_sectors * u64::from(self.sector_bytes)).div_ceil(self.d())
    }

    /// Returns the host offsets of the directories.
    pub fn directories(&self) -> [u64; 2] {
        [512, 512 + (8 * (self.t() + 1)).next_multiple_of(512)]
    }

    /// Returns the table of a chunk of the disk, and the offset of its entry in the table.
    fn place(&self, chunk: u64) -> (u64, u64) {
        let group = chunk / self.n();
        (group / self.c(), group % self.c() * self.s() + chunk % self.n() * 8)
    }

    /// Returns the file.
    pub fn build(&self) -> Vec<u8> {
        let chunk_bytes = u64::from(self.chunk_bytes);
        let [first, second] = self.directories();
        let mut file = Vec::new();
        for word in [0x7368_6477, self.version, 512, self.flags] {
            file.extend(u32::to_be_bytes(word));
        }
        for word in [first, second] {
            file.extend(word.to_be_bytes());
        }
        file.extend([0x55; 16]);
        for word in [self.sectors, self.max_sectors] {
            file.extend(word.to_be_bytes());
        }
        file.extend(self.chunk_bytes.to_be_bytes());
        file.extend(self.sector_bytes.to_be_bytes());
        file.extend(self.segments.to_be_bytes());
        file.extend(self.metadata_chunk.to_be_bytes());
        let directories_end = second + 8 * (self.t() + 1);
        file.resize(directories_end.next_multiple_of(chunk_bytes) as usize, 0);
        let mut next = file.len() as u64 / chunk_bytes;
        let mut take = |file: &mut Vec<u8>| {
            next += 1;
            file.resize((next * chunk_bytes) as usize, 0);
            next - 1
        };
        let mut tables = BTreeMap::new();
        let mut bitmaps = BTreeMap::new();
        let set = |file: &mut Vec<u8>, at: u64, word: u64| {
            file[at as usize..at as usize + 8].copy_from_slice(&word.to_be_bytes());
        };
        let used = self.chunks.iter().map(|(index, _)| *index).chain(self.entries.keys().copied());
        for table in used.map(|index| self.place(index).0) {
            tables.entry(table).or_insert_with(|| take(&mut file));
        }
        for (index, chunk) in &self.chunks {
            let (table, at) = self.place(*index);
            let entry_at = tables[&table] * chunk_bytes + at;
            let host = take(&mut file);
            let data_at = (host * chunk_bytes) as usize;
            file[data_at..data_at + chunk.bytes.len()].copy_from_slice(&chunk.bytes);
            let Some(written) = &chunk.written else {
                set(&mut file, entry_at, 1 << 62 | host);
                continue;
            };
            set(&mut file, entry_at, 3 << 62 | host);
            let group = index / self.n();
            let bitmap = *bitmaps.entry(group).or_insert_with(|| take(&mut file));
            let bitmap_entry = tables[&table] * chunk_bytes + group % self.c() * self.s();
            set(&mut file, bitmap_entry + 8 * self.n(), bitmap);
            let sectors = chunk_bytes / u64::from(self.sector_bytes);
            let start = index % self.n() * sectors;
            let replaced = self.states.range(index * sectors..(index + 1) * sectors);
            let replaced = replaced.map(|(sector, state)| (sector % sectors, *state));
            for (sector, state) in written.iter().map(|&sector| (sector, 1)).chain(replaced) {
                let byte = (bitmap * chunk_bytes + (start + sector) / 4) as usize;
                let shift = (start + sector) % 4 * 2;
                file[byte] = file[byte] & !(3 << shift) | state << shift;
            }
        }
        for (index, entry) in &self.entries {
            let (table, at) = self.place(*index);
            set(&mut file, tables[&table] * chunk_bytes + at, *entry);
        }
        let active = usize::from(self.sequences[1] > self.sequences[0]);
        for (number, at) in [first, second].into_iter().enumerate() {
            set(&mut file, at, self.sequences[number]);
            // The other one is that of the empty disk.
            if number == active {
                for (table, chunk) in tables.iter().chain(&self.tables) {
                    set(&mut file, at + 8 * (table + 1), *chunk);
                }
            }
        }
        file
    }
}
