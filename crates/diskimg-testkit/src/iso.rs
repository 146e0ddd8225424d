//! Builds small ISO images, every field of which can be made invalid.
//!
//! It does not use the library. The layout is fixed, so that tests can name sectors:
//!
//! ```text
//!   16..24  descriptors     24 path table L    25 path table M
//!   28 Joliet root          32 root            63 good.txt   64.. free for tests
//! ```

/// Size of a sector in bytes.
pub const SECTOR: usize = 2048;
/// Sector of the first volume descriptor, the primary one.
pub const DESCRIPTORS: u32 = 16;
/// Sector of the little-endian path table.
pub const PATH_L: u32 = 24;
/// Sector of the big-endian path table.
pub const PATH_M: u32 = 25;
/// First sector of the Joliet root directory, which has up to four sectors.
pub const JOLIET_ROOT: u32 = 28;
/// First sector of the root directory, which has up to 31 sectors.
pub const ROOT: u32 = 32;
/// Sector of `good.txt`, a valid file with the content [`GOOD`] that is part of every image.
pub const GOOD_AT: u32 = 63;
/// The first sector that tests may use.
pub const FREE: u32 = 64;
/// The content of `good.txt`.
pub const GOOD: &[u8] = b"Nothing is wrong with this file.\n";

/// File flag of a directory (ECMA-119, 9.1.6).
pub const DIRECTORY: u8 = 0x02;
/// File flag of every file section but the last (multi-extent).
pub const MORE: u8 = 0x80;
/// Recording time of every record and entry: 2024-02-29 12:34:56 UTC.
pub const TIME: [u8; 7] = [124, 2, 29, 12, 34, 56, 0];
/// [`TIME`] in seconds since 1970.
pub const SECONDS: i64 = 1_709_210_096;

/// Encodes 16 bits in both byte orders.
pub fn both16(n: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (n.to_le_bytes(), n.to_be_bytes());
    [a, b, c, d]
}

/// Encodes 32 bits in both byte orders.
pub fn both32(n: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    bytes[4..].copy_from_slice(&n.to_be_bytes());
    bytes
}

/// A directory record (ECMA-119, 9.1).
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
    /// Length of the record; `None` for the actual one.
    pub len: Option<u8>,
    /// Length of the name; `None` for the actual one.
    pub name_len: Option<u8>,
}

impl Record {
    /// Returns the record of a file of `size` bytes.
    pub fn file(name: impl AsRef<[u8]>, sector: u32, size: u32) -> Self {
        let name = name.as_ref().to_vec();
        Self { name, sector, size, sequence: 1, ..Self::default() }
    }

    /// Returns the record of a directory of one sector.
    pub fn dir(name: impl AsRef<[u8]>, sector: u32) -> Self {
        Self { flags: DIRECTORY, ..Self::file(name, sector, SECTOR as u32) }
    }

    /// Returns the record of a file with Rock Ridge name and permissions and further entries.
    pub fn rock(name: &str, sector: u32, size: u32, entries: &[Vec<u8>]) -> Self {
        Self::file(iso_name(name), sector, size)
            .with_system_use(&[susp::px(0o100_644), susp::nm(name)])
            .with_system_use(entries)
    }

    /// Returns the record of a directory with Rock Ridge name and permissions and further entries.
    pub fn rock_dir(name: &str, sector: u32, entries: &[Vec<u8>]) -> Self {
        Self::dir(iso_name(name), sector)
            .with_system_use(&[susp::px(0o040_755), susp::nm(name)])
            .with_system_use(entries)
    }

    /// Returns the record of a Rock Ridge symbolic link.
    pub fn rock_link(name: &str, target: &str) -> Self {
        let entries = [susp::px(0o120_777), susp::nm(name), susp::sl(target)];
        Self::file(iso_name(name), 0, 0).with_system_use(&entries)
    }

    /// Appends system use entries.
    pub fn with_system_use(mut self, entries: &[Vec<u8>]) -> Self {
        self.system_use.extend(entries.concat());
        self
    }

    /// Sets further file flags.
    pub fn with_flags(mut self, flags: u8) -> Self {
        self.flags |= flags;
        self
    }

    /// Encodes the record.
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
        assert!(self.len.is_some() || bytes.len() < 256, "a record is longer than 255 bytes");
        bytes[0] = self.len.unwrap_or(bytes.len() as u8);
        bytes
    }
}

/// Derives a valid ISO 9660 name from a name.
fn iso_name(name: &str) -> String {
    let sum = name.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("F{sum:08X}")
}

/// Encodes a name for Joliet (big-endian UCS-2).
pub fn utf16(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// Encodes a directory: records of the directory itself and its parent, then `records`. `own` are
/// the system use entries of its own record. No record crosses a sector boundary.
pub fn directory(sector: u32, parent: u32, own: &[Vec<u8>], records: &[Record]) -> Vec<u8> {
    let records: Vec<_> = records.iter().map(Record::bytes).collect();
    let mut bytes = Vec::new();
    let dots = [Record::dir([0], sector).with_system_use(own), Record::dir([1], parent)];
    for record in dots.iter().map(Record::bytes).chain(records) {
        if bytes.len() % SECTOR + record.len() > SECTOR {
            bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
        }
        bytes.extend(record);
    }
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    // Its own record contains the length of the directory.
    let len = bytes.len() as u32;
    bytes[10..18].copy_from_slice(&both32(len));
    bytes
}

/// An image under construction.
#[derive(Debug, Clone)]
pub struct IsoBuilder {
    pub bytes: Vec<u8>,
    /// Volume descriptors so far.
    descriptors: Vec<Vec<u8>>,
}

impl IsoBuilder {
    /// Returns a volume with `good.txt` and these files in its root.
    pub fn new(files: &[Record]) -> Self {
        let good = Record::file("GOOD.TXT;1", GOOD_AT, GOOD.len() as u32);
        Self::with_root(&[], &[&[good], files].concat())
    }

    /// Returns a Rock Ridge volume with `good.txt` and these files in its root.
    pub fn rock_ridge(files: &[Record]) -> Self {
        let good = Record::rock("good.txt", GOOD_AT, GOOD.len() as u32, &[]);
        let own = [susp::sp(0), susp::px(0o040_755), susp::er("IEEE_1282")];
        Self::with_root(&own, &[&[good], files].concat())
    }

    /// Returns a volume with only these files in its root; `own` are the system use entries of the
    /// root's own record.
    pub fn with_root(own: &[Vec<u8>], files: &[Record]) -> Self {
        let mut builder = Self { bytes: Vec::new(), descriptors: Vec::new() };
        let root = directory(ROOT, ROOT, own, files);
        assert!(root.len() <= (GOOD_AT - ROOT) as usize * SECTOR, "the root has too many files");
        builder.descriptors.push(volume(1, ROOT, root.len() as u32));
        builder.put(ROOT, &root).put(GOOD_AT, GOOD);
        let (mut little, mut big) = (vec![1, 0], vec![1, 0]);
        little.extend([&ROOT.to_le_bytes()[..], &[1, 0, 0, 0]].concat());
        big.extend([&ROOT.to_be_bytes()[..], &[0, 1, 0, 0]].concat());
        builder.put(PATH_L, &little).put(PATH_M, &big);
        builder
    }

    /// Adds a Joliet tree with `good.txt` and these files.
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

    /// Adds a descriptor.
    pub fn descriptor(&mut self, bytes: Vec<u8>) -> &mut Self {
        self.descriptors.push(bytes);
        self
    }

    /// Returns a descriptor for modification; 0 is the primary one.
    pub fn volume(&mut self, index: usize) -> &mut Vec<u8> {
        &mut self.descriptors[index]
    }

    /// Writes bytes at a sector.
    pub fn put(&mut self, sector: u32, bytes: &[u8]) -> &mut Self {
        self.put_at(sector as usize * SECTOR, bytes)
    }

    /// Writes bytes at a byte offset.
    pub fn put_at(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        let end = (at + bytes.len()).next_multiple_of(SECTOR);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Writes a directory with Rock Ridge permissions at a sector.
    pub fn dir(&mut self, sector: u32, parent: u32, records: &[Record]) -> &mut Self {
        let own = [susp::px(0o040_755)];
        self.put(sector, &directory(sector, parent, &own, records))
    }

    /// Returns the image with all descriptors and a terminator. The volume space size of
    /// descriptors in which it is zero is set to the size of the image.
    pub fn finish(&self) -> Vec<u8> {
        let mut done = self.clone();
        // At least one sector from FREE on, so that records may refer to it.
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

/// Returns a volume descriptor (ECMA-119, 8.4 and 8.5).
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

    /// Returns an entry.
    pub fn entry(signature: &[u8; 2], data: &[u8]) -> Vec<u8> {
        with_len(signature, data.len() as u8 + 4, data)
    }

    /// Returns an entry with any length field.
    pub fn with_len(signature: &[u8; 2], len: u8, data: &[u8]) -> Vec<u8> {
        [&signature[..], &[len, 1], data].concat()
    }

    /// SP: `skip` bytes at the start of each system use field are skipped.
    pub fn sp(skip: u8) -> Vec<u8> {
        entry(b"SP", &[0xBE, 0xEF, skip])
    }

    /// ER: the extension that is used.
    pub fn er(id: &str) -> Vec<u8> {
        entry(b"ER", &[&[id.len() as u8, 0, 0, 1], id.as_bytes()].concat())
    }

    /// CE: the location of the continuation area.
    pub fn ce(sector: u32, offset: u32, len: u32) -> Vec<u8> {
        entry(b"CE", &[both32(sector), both32(offset), both32(len)].concat())
    }

    /// PX of a file with one link, owned by root.
    pub fn px(mode: u32) -> Vec<u8> {
        px_of(mode, 1, 0, 0)
    }

    /// PX without a serial number.
    pub fn px_of(mode: u32, links: u32, uid: u32, gid: u32) -> Vec<u8> {
        entry(b"PX", &[mode, links, uid, gid].map(both32).concat())
    }

    /// PX with a serial number.
    pub fn px_serial(mode: u32, links: u32, serial: u32) -> Vec<u8> {
        entry(b"PX", &[mode, links, 0, 0, serial].map(both32).concat())
    }

    /// PN: a device number.
    pub fn pn(high: u32, low: u32) -> Vec<u8> {
        entry(b"PN", &[both32(high), both32(low)].concat())
    }

    /// NM: a complete name.
    pub fn nm(name: impl AsRef<[u8]>) -> Vec<u8> {
        nm_flags(0, name)
    }

    /// NM with flags: 1 continued, 2 `.`, 4 `..`.
    pub fn nm_flags(flags: u8, name: impl AsRef<[u8]>) -> Vec<u8> {
        entry(b"NM", &[&[flags], name.as_ref()].concat())
    }

    /// SL: a link target, one component per name, without continuations.
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

    /// TF: the modification time in short form.
    pub fn tf() -> Vec<u8> {
        entry(b"TF", &[&[2], &TIME[..]].concat())
    }

    /// CL: the actual location of a relocated directory.
    pub fn cl(sector: u32) -> Vec<u8> {
        entry(b"CL", &both32(sector))
    }

    /// PL: the location of a relocated directory's original parent.
    pub fn pl(sector: u32) -> Vec<u8> {
        entry(b"PL", &both32(sector))
    }

    /// RE: the directory was relocated to this place.
    pub fn re() -> Vec<u8> {
        entry(b"RE", &[])
    }

    /// ZF: the file is compressed in blocks of 2^`log2` bytes; `size` is its uncompressed size.
    pub fn zf(header_words: u8, log2: u8, size: u32) -> Vec<u8> {
        entry(b"ZF", &[&b"pz"[..], &[header_words, log2], &both32(size)].concat())
    }
}
