//! A small writer of ISO images, every field of which can be wrong.
//!
//! It knows nothing of the library: only plain bytes. Where things are is fixed, so
//! that a test can say which sector it means:
//!
//! ```text
//!   16..24  descriptors     24 path table L    25 path table M
//!   28 Joliet's root        32 the root        64.. whatever a test puts there
//! ```

/// Bytes of a sector.
pub const SECTOR: usize = 2048;
/// The first descriptor: the primary one.
pub const DESCRIPTORS: u32 = 16;
/// The little-endian path table.
pub const PATH_L: u32 = 24;
/// The big-endian path table.
pub const PATH_M: u32 = 25;
/// Joliet's root directory: as many as four sectors.
pub const JOLIET_ROOT: u32 = 28;
/// The root directory: as many as 31 sectors.
pub const ROOT: u32 = 32;
/// What every crafted image has besides what a test is about: `good.txt`, which holds [`GOOD`].
pub const GOOD_AT: u32 = 63;
/// The first sector that is free.
pub const FREE: u32 = 64;
/// The content of `good.txt`.
pub const GOOD: &[u8] = b"Nothing is wrong with this file.\n";

/// A directory (ECMA-119, 9.1.6).
pub const DIRECTORY: u8 = 0x02;
/// Not the last section of a file.
pub const MORE: u8 = 0x80;
/// Every record's time, and every entry's: 2024-02-29 12:34:56 UTC.
pub const TIME: [u8; 7] = [124, 2, 29, 12, 34, 56, 0];
/// The same as seconds.
pub const SECONDS: i64 = 1_709_210_096;

/// 16 bits in both orders.
pub fn both16(n: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (n.to_le_bytes(), n.to_be_bytes());
    [a, b, c, d]
}

/// 32 bits in both orders.
pub fn both32(n: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    bytes[4..].copy_from_slice(&n.to_be_bytes());
    bytes
}

/// A directory record (ECMA-119, 9.1). Lengths are counted unless they are given.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub name: Vec<u8>,
    pub sector: u32,
    pub size: u32,
    pub flags: u8,
    pub attribute_blocks: u8,
    pub unit_blocks: u8,
    pub gap_blocks: u8,
    pub sequence: u16,
    pub system_use: Vec<u8>,
    /// What the record says of its own length.
    pub len: Option<u8>,
    /// What it says of its name's.
    pub name_len: Option<u8>,
}

impl Record {
    /// A file of that many bytes.
    pub fn file(name: impl AsRef<[u8]>, sector: u32, size: u32) -> Self {
        let name = name.as_ref().to_vec();
        Self { name, sector, size, sequence: 1, ..Self::default() }
    }

    /// A directory of one sector.
    pub fn dir(name: impl AsRef<[u8]>, sector: u32) -> Self {
        Self { flags: DIRECTORY, ..Self::file(name, sector, SECTOR as u32) }
    }

    /// A file with Rock Ridge's name and permissions, and these entries.
    pub fn rock(name: &str, sector: u32, size: u32, entries: &[Vec<u8>]) -> Self {
        Self::file(iso_name(name), sector, size)
            .using(&[susp::px(0o100_644), susp::nm(name)])
            .using(entries)
    }

    /// A directory with Rock Ridge's name and permissions, and these entries.
    pub fn rock_dir(name: &str, sector: u32, entries: &[Vec<u8>]) -> Self {
        Self::dir(iso_name(name), sector)
            .using(&[susp::px(0o040_755), susp::nm(name)])
            .using(entries)
    }

    /// A symbolic link of Rock Ridge.
    pub fn rock_link(name: &str, target: &str) -> Self {
        let entries = [susp::px(0o120_777), susp::nm(name), susp::sl(target)];
        Self::file(iso_name(name), 0, 0).using(&entries)
    }

    /// With these system use entries behind those that it has.
    pub fn using(mut self, entries: &[Vec<u8>]) -> Self {
        self.system_use.extend(entries.concat());
        self
    }

    /// With these file flags, too.
    pub fn flagged(mut self, flags: u8) -> Self {
        self.flags |= flags;
        self
    }

    /// As it is recorded.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0, self.attribute_blocks];
        bytes.extend(both32(self.sector));
        bytes.extend(both32(self.size));
        bytes.extend(TIME);
        bytes.extend([self.flags, self.unit_blocks, self.gap_blocks]);
        bytes.extend(both16(self.sequence));
        bytes.push(self.name_len.unwrap_or(self.name.len() as u8));
        bytes.extend(&self.name);
        if self.name.len().is_multiple_of(2) {
            bytes.push(0);
        }
        bytes.extend(&self.system_use);
        if !bytes.len().is_multiple_of(2) {
            bytes.push(0);
        }
        assert!(self.len.is_some() || bytes.len() < 256, "a record is longer than it can say");
        bytes[0] = self.len.unwrap_or(bytes.len() as u8);
        bytes
    }
}

/// Some name that ISO 9660 allows, a different one for each name.
fn iso_name(name: &str) -> String {
    let sum = name.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("F{sum:08X}")
}

/// A name as Joliet records it.
pub fn utf16(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// A directory's bytes: itself, its parent, these; whole sectors, no record across two.
pub fn directory(sector: u32, parent: u32, own: &[Vec<u8>], records: &[Record]) -> Vec<u8> {
    let records: Vec<_> = records.iter().map(Record::bytes).collect();
    let mut bytes = Vec::new();
    let dots = [Record::dir([0], sector).using(own), Record::dir([1], parent)];
    for record in dots.iter().map(Record::bytes).chain(records) {
        if bytes.len() % SECTOR + record.len() > SECTOR {
            bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
        }
        bytes.extend(record);
    }
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    // Its own record says how long it is.
    let len = bytes.len() as u32;
    bytes[10..18].copy_from_slice(&both32(len));
    bytes
}

/// An image that is being made.
#[derive(Debug, Clone)]
pub struct Craft {
    pub bytes: Vec<u8>,
    /// Descriptors so far.
    descriptors: Vec<Vec<u8>>,
}

impl Craft {
    /// A volume with these files in its root, and `good.txt` as the first.
    pub fn new(files: &[Record]) -> Self {
        let good = Record::file("GOOD.TXT;1", GOOD_AT, GOOD.len() as u32);
        Self::with_root(&[], &[&[good], files].concat())
    }

    /// The same with Rock Ridge.
    pub fn rock_ridge(files: &[Record]) -> Self {
        let good = Record::rock("good.txt", GOOD_AT, GOOD.len() as u32, &[]);
        let own = [susp::sp(0), susp::px(0o040_755), susp::er("IEEE_1282")];
        Self::with_root(&own, &[&[good], files].concat())
    }

    /// The same, where the root's own record has these system use entries, and nothing is added.
    pub fn with_root(own: &[Vec<u8>], files: &[Record]) -> Self {
        let mut craft = Self { bytes: Vec::new(), descriptors: Vec::new() };
        let root = directory(ROOT, ROOT, own, files);
        assert!(root.len() <= (GOOD_AT - ROOT) as usize * SECTOR, "the root has too many files");
        craft.descriptors.push(volume(1, ROOT, root.len() as u32));
        craft.put(ROOT, &root).put(GOOD_AT, GOOD);
        let (mut little, mut big) = (vec![1, 0], vec![1, 0]);
        little.extend([&ROOT.to_le_bytes()[..], &[1, 0, 0, 0]].concat());
        big.extend([&ROOT.to_be_bytes()[..], &[0, 1, 0, 0]].concat());
        craft.put(PATH_L, &little).put(PATH_M, &big);
        craft
    }

    /// With a Joliet tree that has these files, and `good.txt`.
    pub fn joliet(&mut self, files: &[Record]) -> &mut Self {
        let good = Record::file(utf16("good.txt"), GOOD_AT, GOOD.len() as u32);
        let root = directory(JOLIET_ROOT, JOLIET_ROOT, &[], &[&[good], files].concat());
        assert!(root.len() <= (ROOT - JOLIET_ROOT) as usize * SECTOR, "too many files for Joliet");
        let mut descriptor = volume(2, JOLIET_ROOT, root.len() as u32);
        descriptor[88..91].copy_from_slice(b"%/E");
        descriptor[40..72].copy_from_slice(&[0, b' '].repeat(16));
        self.descriptors.push(descriptor);
        self.put(JOLIET_ROOT, &root)
    }

    /// With another descriptor.
    pub fn descriptor(&mut self, bytes: Vec<u8>) -> &mut Self {
        self.descriptors.push(bytes);
        self
    }

    /// A descriptor to be changed: the primary one is the first.
    pub fn volume(&mut self, index: usize) -> &mut Vec<u8> {
        &mut self.descriptors[index]
    }

    /// Bytes from a sector on.
    pub fn put(&mut self, sector: u32, bytes: &[u8]) -> &mut Self {
        self.put_at(sector as usize * SECTOR, bytes)
    }

    /// Bytes from any place on.
    pub fn put_at(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        let end = (at + bytes.len()).next_multiple_of(SECTOR);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// A directory, at a sector of a test's own.
    pub fn dir(&mut self, sector: u32, parent: u32, records: &[Record]) -> &mut Self {
        let own = [susp::px(0o040_755)];
        self.put(sector, &directory(sector, parent, &own, records))
    }

    /// The image: descriptors in their places, a terminator behind them. Volumes that do not say
    /// how long they are, are as long as it.
    pub fn finish(&self) -> Vec<u8> {
        let mut done = self.clone();
        // A sector to spare: what a test puts at FREE is in the image, even if it is nothing.
        done.bytes.resize(done.bytes.len().max((FREE as usize + 1) * SECTOR), 0);
        let mut sector = DESCRIPTORS;
        let sectors = (done.bytes.len() / SECTOR) as u32;
        for mut bytes in self.descriptors.iter().cloned() {
            if matches!(bytes[0], 1 | 2) && bytes[80..88] == [0; 8] {
                bytes[80..88].copy_from_slice(&both32(sectors));
            }
            done.put(sector, &bytes);
            sector += 1;
        }
        done.put(sector, b"\xFFCD001\x01");
        done.bytes
    }
}

/// A volume descriptor (ECMA-119, 8.4 and 8.5).
pub fn volume(kind: u8, root: u32, root_len: u32) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR];
    bytes[0] = kind;
    bytes[1..7].copy_from_slice(b"CD001\x01");
    bytes[8..72].fill(b' ');
    bytes[40..45].copy_from_slice(b"CRAFT");
    bytes[120..124].copy_from_slice(&both16(1));
    bytes[124..128].copy_from_slice(&both16(1));
    bytes[128..132].copy_from_slice(&both16(SECTOR as u16));
    bytes[132..140].copy_from_slice(&both32(10));
    bytes[140..144].copy_from_slice(&PATH_L.to_le_bytes());
    bytes[148..152].copy_from_slice(&PATH_M.to_be_bytes());
    let root = Record { size: root_len, ..Record::dir([0], root) };
    bytes[156..190].copy_from_slice(&root.bytes());
    bytes[190..813].fill(b' ');
    for date in [813, 830, 847, 864] {
        bytes[date..date + 17].copy_from_slice(b"2024022912345600\0");
    }
    bytes[881] = 1;
    bytes
}

/// System use entries (SUSP 1.12, RRIP 1.12).
pub mod susp {
    use super::{TIME, both32};

    /// An entry whose length is right.
    pub fn entry(signature: &[u8; 2], data: &[u8]) -> Vec<u8> {
        with_len(signature, data.len() as u8 + 4, data)
    }

    /// An entry that says it is so long.
    pub fn with_len(signature: &[u8; 2], len: u8, data: &[u8]) -> Vec<u8> {
        [&signature[..], &[len, 1], data].concat()
    }

    /// SP: so many bytes of each field are to be skipped.
    pub fn sp(skip: u8) -> Vec<u8> {
        entry(b"SP", &[0xBE, 0xEF, skip])
    }

    /// ER: which extension the entries are of.
    pub fn er(id: &str) -> Vec<u8> {
        entry(b"ER", &[&[id.len() as u8, 0, 0, 1], id.as_bytes()].concat())
    }

    /// CE: the field goes on there.
    pub fn ce(sector: u32, offset: u32, len: u32) -> Vec<u8> {
        entry(b"CE", &[both32(sector), both32(offset), both32(len)].concat())
    }

    /// PX of a file with one name, of root's.
    pub fn px(mode: u32) -> Vec<u8> {
        px_of(mode, 1, 0, 0)
    }

    /// PX without a serial number.
    pub fn px_of(mode: u32, links: u32, uid: u32, gid: u32) -> Vec<u8> {
        entry(b"PX", &[mode, links, uid, gid].map(both32).concat())
    }

    /// PX with one.
    pub fn px_serial(mode: u32, links: u32, serial: u32) -> Vec<u8> {
        entry(b"PX", &[mode, links, 0, 0, serial].map(both32).concat())
    }

    /// PN: a device.
    pub fn pn(high: u32, low: u32) -> Vec<u8> {
        entry(b"PN", &[both32(high), both32(low)].concat())
    }

    /// NM: a whole name.
    pub fn nm(name: impl AsRef<[u8]>) -> Vec<u8> {
        nm_flags(0, name)
    }

    /// NM with flags: 1 it goes on, 2 `.`, 4 `..`.
    pub fn nm_flags(flags: u8, name: impl AsRef<[u8]>) -> Vec<u8> {
        entry(b"NM", &[&[flags], name.as_ref()].concat())
    }

    /// SL: a target whose names are components, with nothing that goes on.
    pub fn sl(target: &str) -> Vec<u8> {
        let mut data = vec![0];
        for (index, name) in target.split('/').enumerate() {
            match name {
                "" if index == 0 => data.extend([8, 0]),
                "." => data.extend([2, 0]),
                ".." => data.extend([4, 0]),
                _ => data.extend([&[0, name.len() as u8], name.as_bytes()].concat()),
            }
        }
        entry(b"SL", &data)
    }

    /// TF: one short moment, of modification.
    pub fn tf() -> Vec<u8> {
        entry(b"TF", &[&[2], &TIME[..]].concat())
    }

    /// CL: the directory is really there.
    pub fn cl(sector: u32) -> Vec<u8> {
        entry(b"CL", &both32(sector))
    }

    /// PL: its parent is really there.
    pub fn pl(sector: u32) -> Vec<u8> {
        entry(b"PL", &both32(sector))
    }

    /// RE: it was moved here.
    pub fn re() -> Vec<u8> {
        entry(b"RE", &[])
    }

    /// ZF: the file is packed, in blocks of 2^log2 bytes, and that long in truth.
    pub fn zf(header_words: u8, log2: u8, size: u32) -> Vec<u8> {
        entry(b"ZF", &[&b"pz"[..], &[header_words, log2], &both32(size)].concat())
    }
}
