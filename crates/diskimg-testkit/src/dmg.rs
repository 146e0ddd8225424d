//! DMGs of any shape: every type of chunks, tables in any order, in a property list or a resource
//! fork, wrong checksums and sizes.
//!
//! Written from the description of libmodi and without code of diskimg; confirmed with 7-Zip.

use std::io::Write;
use std::process::{Command, Stdio};

pub const ZERO: u32 = 0;
pub const RAW: u32 = 1;
pub const IGNORE: u32 = 2;
pub const COMMENT: u32 = 0x7fff_fffe;
pub const ADC: u32 = 0x8000_0004;
pub const ZLIB: u32 = 0x8000_0005;
pub const BZIP2: u32 = 0x8000_0006;
pub const LZFSE: u32 = 0x8000_0007;
pub const LZMA: u32 = 0x8000_0008;
pub const END: u32 = 0xffff_ffff;

/// Bytes of a sector.
const SECTOR: usize = 512;

/// A chunk of a table.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub chunk_type: u32,
    /// First sector, relative to the table's first one.
    pub sector: u64,
    pub sectors: u64,
    /// The stored bytes.
    pub stored: Vec<u8>,
    /// Offset relative to the table's data offset, if the entry is not to have the right one.
    pub offset: Option<u64>,
    /// Stored length, if the entry is not to have the right one.
    pub len: Option<u64>,
}

impl Chunk {
    /// A chunk that stores nothing.
    pub fn empty(chunk_type: u32, sector: u64, sectors: u64) -> Self {
        Self { chunk_type, sector, sectors, stored: Vec::new(), offset: None, len: None }
    }

    /// A chunk of these guest bytes, which are whole sectors.
    pub fn new(chunk_type: u32, sector: u64, guest: &[u8]) -> Self {
        assert!(guest.len().is_multiple_of(SECTOR));
        let sectors = (guest.len() / SECTOR) as u64;
        Self { stored: encode(chunk_type, guest), ..Self::empty(chunk_type, sector, sectors) }
    }
}

/// A table of chunks.
#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    pub first_sector: u64,
    pub sectors: u64,
    /// Offset of the chunks' data relative to the data fork.
    pub data_offset: u64,
    pub chunks: Vec<Chunk>,
    /// Kind, number of bits, and value.
    pub checksum: (u32, u32, u32),
    /// Whether the last entry marks the end.
    pub has_end: bool,
    /// Number of entries, if the header is not to have the right one.
    pub count: Option<u32>,
}

impl Table {
    /// A table whose checksum is that of `guest`, its sectors in order, without those of chunks of
    /// the type "ignore".
    pub fn new(first_sector: u64, guest: &[u8], chunks: Vec<Chunk>) -> Self {
        let mut in_order: Vec<&Chunk> = chunks.iter().collect();
        in_order.sort_by_key(|chunk| chunk.sector);
        let mut crc = flate2::Crc::new();
        for chunk in in_order {
            if chunk.chunk_type != IGNORE && chunk.chunk_type != COMMENT {
                let start = chunk.sector as usize * SECTOR;
                crc.update(&guest[start..start + chunk.sectors as usize * SECTOR]);
            }
        }
        Self {
            name: format!("whole disk (Apple_HFS : {first_sector})"),
            first_sector,
            sectors: (guest.len() / SECTOR) as u64,
            data_offset: 0,
            chunks,
            checksum: (2, 32, crc.sum()),
            has_end: true,
            count: None,
        }
    }
}

/// Where the tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Plist,
    ResourceFork,
    Both,
}

/// An image.
#[derive(Debug, Clone)]
pub struct Dmg {
    pub tables: Vec<Table>,
    pub place: Place,
    /// Number of resources in the resource fork that refer to each table. If it is not 1, they have
    /// no names.
    pub references: usize,
    /// Size of the disk in the trailer; `None` for the right one.
    pub sectors: Option<u64>,
    /// Bytes before the data fork.
    pub data_fork_offset: usize,
    /// Number of bytes that follow the trailer.
    pub trailing: usize,
    /// The trailer is the first sector.
    pub trailer_first: bool,
    /// Number of this segment and of all segments.
    pub segments: (u32, u32),
    /// Value of the checksum of the data fork; `None` for the right one.
    pub data_checksum: Option<u32>,
    /// Value of the checksum of the tables' checksums; `None` for the right one.
    pub master_checksum: Option<u32>,
    /// The document type declaration.
    pub doctype: String,
}

impl Default for Dmg {
    fn default() -> Self {
        Self {
            tables: Vec::new(),
            place: Place::Plist,
            references: 1,
            sectors: None,
            data_fork_offset: 0,
            trailing: 0,
            trailer_first: false,
            segments: (1, 1),
            data_checksum: None,
            master_checksum: None,
            doctype: "<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
                      \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n"
                .to_owned(),
        }
    }
}

impl Dmg {
    /// An image of these tables.
    pub fn of(tables: Vec<Table>) -> Self {
        Self { tables, ..Self::default() }
    }

    /// An image of one table with chunks of `sectors` sectors and one type; those of zeros are of the
    /// type zero.
    pub fn whole(chunk_type: u32, guest: &[u8], sectors: usize) -> Self {
        let chunks = guest.chunks(sectors * SECTOR).enumerate().map(|(index, bytes)| {
            let sector = (index * sectors) as u64;
            match bytes.iter().all(|&byte| byte == 0) {
                true => Chunk::empty(ZERO, sector, (bytes.len() / SECTOR) as u64),
                false => Chunk::new(chunk_type, sector, bytes),
            }
        });
        Self::of(vec![Table::new(0, guest, chunks.collect())])
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let start = if self.trailer_first { SECTOR } else { 0 } + self.data_fork_offset;
        let mut file = vec![0xda; start];
        let mut tables = Vec::new();
        for table in &self.tables {
            tables.push(table.build(&mut file, start));
        }
        let data_fork = start..file.len();
        let plist_at = file.len();
        if self.place != Place::ResourceFork {
            file.extend(self.plist(&tables).as_bytes());
        }
        let fork_at = file.len();
        if self.place != Place::Plist {
            file.extend(self.resource_fork(&tables));
        }
        let places = [
            (data_fork.start, data_fork.len()),
            (fork_at, file.len() - fork_at),
            (plist_at, fork_at - plist_at),
        ];
        let trailer = self.trailer(&file, places);
        match self.trailer_first {
            true => file[..SECTOR].copy_from_slice(&trailer),
            false => file.extend(trailer),
        }
        file.resize(file.len() + self.trailing, 0x5a);
        file
    }

    fn trailer(&self, file: &[u8], [data, fork, plist]: [(usize, usize); 3]) -> Vec<u8> {
        let mut out = b"koly".to_vec();
        for word in [4u32, 512, 1] {
            out.extend(word.to_be_bytes());
        }
        let part = |(at, len): (usize, usize)| match len {
            0 => [0u64; 2],
            len => [at as u64, len as u64],
        };
        out.extend(0u64.to_be_bytes());
        for number in [[data.0 as u64, data.1 as u64], part(fork)].concat() {
            out.extend(number.to_be_bytes());
        }
        out.extend(self.segments.0.to_be_bytes());
        out.extend(self.segments.1.to_be_bytes());
        out.extend([0x77; 16]);
        let stored = crc(&file[data.0..data.0 + data.1]);
        out.extend(checksum((2, 32, self.data_checksum.unwrap_or(stored))));
        for number in part(plist) {
            out.extend(number.to_be_bytes());
        }
        out.resize(352, 0);
        let sums: Vec<u8> = self.tables.iter().flat_map(|t| t.checksum.2.to_be_bytes()).collect();
        out.extend(checksum((2, 32, self.master_checksum.unwrap_or(crc(&sums)))));
        out.extend(1u32.to_be_bytes());
        let end = |table: &Table| table.first_sector + table.sectors;
        let sectors = self.tables.iter().map(end).max().unwrap_or(0);
        out.extend(self.sectors.unwrap_or(sectors).to_be_bytes());
        out.resize(SECTOR, 0);
        out
    }

    fn plist(&self, tables: &[Vec<u8>]) -> String {
        let mut out = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}<plist version=\"1.0\">\n<dict>\n\
             \t<key>resource-fork</key>\n\t<dict>\n\t\t<key>blkx</key>\n\t\t<array>\n",
            self.doctype
        );
        for (index, (table, bytes)) in self.tables.iter().zip(tables).enumerate() {
            out += &format!(
                "\t\t\t<dict>\n\t\t\t\t<key>Attributes</key>\n\t\t\t\t<string>0x0050</string>\n\
                 \t\t\t\t<key>CFName</key>\n\t\t\t\t<string>{0}</string>\n\
                 \t\t\t\t<key>Data</key>\n\t\t\t\t<data>\n{1}\t\t\t\t</data>\n\
                 \t\t\t\t<key>ID</key>\n\t\t\t\t<string>{2}</string>\n\
                 \t\t\t\t<key>Name</key>\n\t\t\t\t<string>{0}</string>\n\t\t\t</dict>\n",
                table.name,
                base64_lines(bytes),
                index as i32 - 1,
            );
        }
        out + "\t\t</array>\n\t</dict>\n</dict>\n</plist>\n"
    }

    /// A resource fork with the tables and, before them, a resource of another type.
    fn resource_fork(&self, tables: &[Vec<u8>]) -> Vec<u8> {
        let mut data = Vec::new();
        let mut add = |bytes: &[u8]| {
            let at = data.len() as u32;
            data.extend((bytes.len() as u32).to_be_bytes());
            data.extend(bytes);
            at
        };
        let other = add(&[0; 300]);
        let places: Vec<u32> = tables.iter().map(|table| add(table)).collect();
        let mut names = Vec::new();
        let mut references = Vec::new();
        let mut refer = |id: i16, name: Option<&str>, at: u32| {
            references.extend(id.to_be_bytes());
            let name_at = name.map_or(u16::MAX, |_| names.len() as u16);
            references.extend(name_at.to_be_bytes());
            references.extend((at | 0x5000_0000).to_be_bytes());
            references.extend([0; 4]);
            if let Some(name) = name {
                names.push(name.len() as u8);
                names.extend(name.as_bytes());
            }
        };
        refer(0, Some(""), other);
        let count = tables.len() * self.references;
        for index in 0..count {
            let table = index / self.references;
            let name = (self.references == 1).then_some(&self.tables[table].name[..]);
            refer((index as i16).wrapping_sub(1), name, places[table]);
        }
        let mut types = 1u16.to_be_bytes().to_vec();
        let mut list = |name: &[u8; 4], count: usize, at: u16| {
            types.extend(name);
            types.extend((count as u16).wrapping_sub(1).to_be_bytes());
            types.extend(at.to_be_bytes());
        };
        list(b"plst", 1, 18);
        list(b"blkx", count, 18 + 12);
        types.extend(references);
        // The names after more than 64 KiB of references cannot be found, and those references have
        // none.
        let names_at = (28 + types.len()).min(usize::from(u16::MAX)) as u16;
        let mut header = Vec::new();
        let map_len = 28 + types.len() + names.len();
        for number in [256, 256 + data.len(), data.len(), map_len] {
            header.extend((number as u32).to_be_bytes());
        }
        let mut map = header.clone();
        map.resize(24, 0);
        map.extend(28u16.to_be_bytes());
        map.extend(names_at.to_be_bytes());
        map.extend(types);
        map.extend(names);
        header.resize(256, 0);
        [header, data, map].concat()
    }
}

impl Table {
    /// Appends the chunks' data to `file` and returns the table. The data fork starts at `start`.
    fn build(&self, file: &mut Vec<u8>, start: usize) -> Vec<u8> {
        let mut entries = Vec::new();
        let mut entry = |chunk_type: u32, numbers: [u64; 4]| {
            entries.extend(chunk_type.to_be_bytes());
            entries.extend(b"    ");
            numbers.iter().for_each(|number| entries.extend(number.to_be_bytes()));
        };
        for chunk in &self.chunks {
            let at = (file.len() - start) as u64 - self.data_offset;
            file.extend(&chunk.stored);
            let len = chunk.len.unwrap_or(chunk.stored.len() as u64);
            entry(chunk.chunk_type, [chunk.sector, chunk.sectors, chunk.offset.unwrap_or(at), len]);
        }
        if self.has_end {
            entry(END, [self.sectors, 0, (file.len() - start) as u64 - self.data_offset, 0]);
        }
        let count = (entries.len() / 40) as u32;
        let mut out = b"mish\0\0\0\x01".to_vec();
        for number in [self.first_sector, self.sectors, self.data_offset] {
            out.extend(number.to_be_bytes());
        }
        out.extend(0x808u32.to_be_bytes());
        out.resize(64, 0);
        out.extend(checksum(self.checksum));
        out.extend(self.count.unwrap_or(count).to_be_bytes());
        out.extend(entries);
        out
    }
}

fn checksum((kind, bits, value): (u32, u32, u32)) -> Vec<u8> {
    let mut out: Vec<u8> = [kind, bits, value].iter().flat_map(|n| n.to_be_bytes()).collect();
    out.resize(136, 0);
    out
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn base64_lines(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for line in bytes.chunks(39) {
        out += "\t\t\t\t";
        for three in line.chunks(3) {
            let padded = [three[0], *three.get(1).unwrap_or(&0), *three.get(2).unwrap_or(&0)];
            let bits = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
            for digit in 0..4 {
                out.push(match digit <= three.len() {
                    true => DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] as char,
                    false => '=',
                });
            }
        }
        out.push('\n');
    }
    out
}

/// Encodes a chunk as this type stores it. bzip2 and xz are the commands of these names, LZFSE is
/// Apple's reference implementation (the Python package lzfse, see `DISKIMG_ORACLES`).
pub fn encode(chunk_type: u32, guest: &[u8]) -> Vec<u8> {
    match chunk_type {
        RAW => guest.to_vec(),
        ADC => encode_adc(guest),
        ZLIB => {
            let out = Vec::new();
            let mut encoder = flate2::write::ZlibEncoder::new(out, flate2::Compression::default());
            encoder.write_all(guest).unwrap();
            encoder.finish().unwrap()
        }
        BZIP2 => filter(Command::new("bzip2").arg("-c"), guest),
        LZMA => filter(Command::new("xz").arg("-c"), guest),
        LZFSE => encode_lzfse(guest).unwrap_or_else(|| plain_lzfse(guest)),
        _ => Vec::new(),
    }
}

/// Compresses by Apple's reference implementation, if it is installed.
pub fn encode_lzfse(guest: &[u8]) -> Option<Vec<u8>> {
    const PROGRAM: &str =
        "import sys, lzfse; sys.stdout.buffer.write(lzfse.compress(sys.stdin.buffer.read()))";
    let python = std::env::var_os("DISKIMG_ORACLES").filter(|dir| !dir.is_empty())?;
    let python = std::path::Path::new(&python).join("bin/python");
    Some(filter(Command::new(python).args(["-c", PROGRAM]), guest))
}

/// A stream of LZFSE of plain bytes.
fn plain_lzfse(guest: &[u8]) -> Vec<u8> {
    [b"bvx-", &(guest.len() as u32).to_le_bytes()[..], guest, b"bvx$"].concat()
}

/// Runs of one byte as matches, everything else as literals.
fn encode_adc(guest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut literals: Vec<u8> = Vec::new();
    let flush = |literals: &mut Vec<u8>, out: &mut Vec<u8>| {
        for part in literals.chunks(128) {
            out.push(0x80 | (part.len() - 1) as u8);
            out.extend(part);
        }
        literals.clear();
    };
    let mut at = 0;
    while at < guest.len() {
        // The distance of the last sector, or of the last byte.
        let matched = [1, 512].into_iter().filter(|&distance| distance <= at).map(|distance| {
            let equal = (at..guest.len()).take(67).take_while(|&i| guest[i] == guest[i - distance]);
            (equal.count(), distance)
        });
        match matched.max().unwrap_or((0, 0)) {
            (len @ 4.., distance @ 513..) | (len @ 19.., distance) => {
                flush(&mut literals, &mut out);
                out.push(0x40 | (len - 4) as u8);
                out.extend((distance as u16 - 1).to_be_bytes());
                at += len;
            }
            (len @ 3..=18, distance) => {
                flush(&mut literals, &mut out);
                out.extend((((len - 3) << 10 | (distance - 1)) as u16).to_be_bytes());
                at += len;
            }
            _ => {
                literals.push(guest[at]);
                at += 1;
            }
        }
    }
    flush(&mut literals, &mut out);
    out
}

/// Returns the output of a command.
fn filter(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}
