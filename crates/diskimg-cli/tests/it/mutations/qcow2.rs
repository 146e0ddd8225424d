//! Structures of qcow2 (`docs/interop/qcow2` of QEMU).

use super::structure::Order::Big;
use super::structure::{Part, number};

const HEADER: [(&str, usize, usize); 21] = [
    ("magic", 0, 4),
    ("version", 4, 4),
    ("backing_file_offset", 8, 8),
    ("backing_file_size", 16, 4),
    ("cluster_bits", 20, 4),
    ("size", 24, 8),
    ("crypt_method", 32, 4),
    ("l1_size", 36, 4),
    ("l1_table_offset", 40, 8),
    ("refcount_table_offset", 48, 8),
    ("refcount_table_clusters", 56, 4),
    ("nb_snapshots", 60, 4),
    ("snapshots_offset", 64, 8),
    ("incompatible_features", 72, 8),
    ("compatible_features", 80, 8),
    ("autoclear_features", 88, 8),
    ("refcount_order", 96, 4),
    ("header_length", 100, 4),
    ("compression_type", 104, 1),
    // Also as single bytes, because single bits are significant.
    ("incompatible_features, lowest byte", 79, 1),
    ("cluster_bits, lowest byte", 23, 1),
];

const SNAPSHOT: [(&str, usize, usize); 9] = [
    ("l1_table_offset", 0, 8),
    ("l1_size", 8, 4),
    ("id_str_size", 12, 2),
    ("name_size", 14, 2),
    ("date_sec", 16, 4),
    ("date_nsec", 20, 4),
    ("vm_clock_nsec", 24, 8),
    ("vm_state_size", 32, 4),
    ("extra_data_size", 36, 4),
];

const BITMAP: [(&str, usize, usize); 7] = [
    ("bitmap_table_offset", 0, 8),
    ("bitmap_table_size", 8, 4),
    ("flags", 12, 4),
    ("type", 16, 1),
    ("granularity_bits", 17, 1),
    ("name_size", 18, 2),
    ("extra_data_size", 20, 4),
];

/// Host offset bits of an L1 or L2 entry.
const OFFSET: usize = 0x00ff_ffff_ffff_fe00;

/// Collects the structures of an image.
struct Reader<'a> {
    image: &'a [u8],
    cluster: usize,
    extended: bool,
    parts: Vec<Part>,
}

/// Returns the structures of an image.
pub(super) fn parts(image: &[u8]) -> Vec<Part> {
    let mut reader = Reader::new(image);
    reader.header();
    let (l1, l1_size) = (reader.be(40, 8), reader.be(36, 4));
    reader.mapping("L1 table", l1, l1_size);
    reader.refcounts();
    reader.snapshots();
    reader.parts
}

impl<'a> Reader<'a> {
    fn new(image: &'a [u8]) -> Self {
        let cluster = 1 << number(image, 20, 4, Big);
        let version3 = number(image, 4, 4, Big) > 2;
        let extended = version3 && number(image, 72, 8, Big) & 1 << 4 != 0;
        Self { image, cluster, extended, parts: Vec::new() }
    }

    fn be(&self, at: usize, width: usize) -> usize {
        number(self.image, at, width, Big)
    }

    fn entry_bytes(&self) -> usize {
        if self.extended { 16 } else { 8 }
    }

    fn header(&mut self) {
        let len = if self.be(4, 4) > 2 { self.be(100, 4) } else { 72 };
        self.parts.push(Part::new("header", 0, len).with(Big, &HEADER));
        let mut at = len;
        while self.be(at, 4) != 0 {
            let data = self.be(at + 4, 4);
            let head = [("extension type", 0, 4), ("extension length", 4, 4)];
            let part = Part::new("header extension", at, 8 + data).with(Big, &head);
            let is_bitmaps = self.be(at, 4) == 0x2385_2875;
            self.parts.push(if is_bitmaps { part.with(Big, &BITMAPS) } else { part });
            match is_bitmaps {
                true => self.bitmaps(at + 8),
                false => self.parts.push(Part::text("header extension text", at + 8, data)),
            }
            at += 8 + data.next_multiple_of(8);
        }
        let name = Part::text("backing file name", self.be(8, 8), self.be(16, 4));
        self.parts.push(name);
    }

    /// Adds an L1 table, its L2 tables, and compressed clusters.
    fn mapping(&mut self, class: &'static str, at: usize, entries: usize) {
        self.parts.push(Part::new(class, at, entries * 8).table(Big, 0, 8));
        for n in 0..entries {
            let table = self.be(at + n * 8, 8) & OFFSET;
            if table == 0 || self.parts.iter().any(|part| part.at == table) {
                continue;
            }
            // The used entries, and as many unused ones.
            let mut part = Part::new("L2 table", table, self.cluster).table(Big, 0, 8);
            let used = |at: usize| self.be(at, 8) != 0;
            let last = part.fields.iter().rposition(|field| used(field.at)).unwrap_or(0);
            part.fields.truncate(2 * last + 2);
            let last = part.fields.last().map_or(table, |field| field.at);
            self.parts.push(part);
            for at in (table..last).step_by(self.entry_bytes()) {
                self.data(at);
            }
        }
    }

    /// Adds the compressed cluster of an L2 entry.
    fn data(&mut self, at: usize) {
        let entry = self.be(at, 8);
        if entry >> 62 & 1 == 0 {
            return;
        }
        // The number of additional sectors is stored above the offset.
        let shift = 62 - (self.cluster.trailing_zeros() as usize - 8);
        let offset = entry & ((1 << shift) - 1);
        let sectors = (entry >> shift & ((1 << (62 - shift)) - 1)) + 1;
        let len = (sectors * 512 - offset % 512).min(self.image.len().saturating_sub(offset));
        self.parts.push(Part::new("compressed cluster", offset, len));
    }

    fn refcounts(&mut self) {
        let (at, clusters) = (self.be(48, 8), self.be(56, 4));
        let mut table = Part::new("refcount table", at, clusters * self.cluster).table(Big, 0, 8);
        let blocks: Vec<_> =
            table.fields.iter().map(|field| self.be(field.at, 8)).filter(|&b| b != 0).collect();
        table.fields.truncate(2 * blocks.len() + 2);
        self.parts.push(table);
        let order = if self.be(4, 4) > 2 { self.be(96, 4) } else { 4 };
        let width = (1usize << order).div_ceil(8);
        for block in blocks {
            let used = (self.image.len() / self.cluster + 2) * width;
            let part = Part::new("refcount block", block, self.cluster.min(used));
            self.parts.push(part.table(Big, 0, width));
        }
    }

    fn snapshots(&mut self) {
        let mut at = self.be(64, 8);
        for _ in 0..self.be(60, 4) {
            let (id, name, extra) = (self.be(at + 12, 2), self.be(at + 14, 2), self.be(at + 36, 4));
            let len = 40 + extra + id + name;
            let part = Part::new("snapshot", at, len).with(Big, &SNAPSHOT);
            self.parts.push(part);
            let part = Part::new("snapshot extra data", at + 40, extra).table(Big, 0, 8);
            self.parts.push(part);
            self.parts.push(Part::text("snapshot names", at + 40 + extra, id + name));
            self.mapping("L1 table of a snapshot", self.be(at, 8), self.be(at + 8, 4));
            at = (at + len).next_multiple_of(8);
        }
    }

    /// Adds the bitmaps that the bitmaps extension at this offset lists.
    fn bitmaps(&mut self, extension: usize) {
        let mut at = self.be(extension + 16, 8);
        for _ in 0..self.be(extension, 4) {
            let (name, extra) = (self.be(at + 18, 2), self.be(at + 20, 4));
            let len = 24 + extra + name;
            self.parts.push(Part::new("bitmap", at, len).with(Big, &BITMAP));
            self.parts.push(Part::text("bitmap name", at + 24 + extra, name));
            let (table, entries) = (self.be(at, 8), self.be(at + 8, 4));
            self.parts.push(Part::new("bitmap table", table, entries * 8).table(Big, 0, 8));
            at = (at + len).next_multiple_of(8);
        }
    }
}

/// Fields of the bitmaps extension; offsets include its type and length.
const BITMAPS: [(&str, usize, usize); 3] =
    [("nb_bitmaps", 8, 4), ("bitmap_directory_size", 16, 8), ("bitmap_directory_offset", 24, 8)];

/// Guest data of uncompressed clusters, and their host offsets.
pub(super) struct Stored {
    pub(super) bytes: Vec<u8>,
    cluster: usize,
    /// Host offset of each guest cluster.
    offsets: Vec<Option<usize>>,
}

/// Returns the data of an image without extended L2 entries; nothing for other images.
pub(super) fn stored(image: &[u8]) -> Stored {
    let reader = Reader::new(image);
    let cluster = reader.cluster;
    let size = if reader.extended { 0 } else { reader.be(24, 8).min(64 << 20) };
    let mut stored = Stored { bytes: vec![0; size], cluster, offsets: Vec::new() };
    for (n, guest) in stored.bytes.chunks_mut(cluster).enumerate() {
        let l2 = reader.be(reader.be(40, 8) + n / (cluster / 8) * 8, 8) & OFFSET;
        let entry = if l2 == 0 { 0 } else { reader.be(l2 + n % (cluster / 8) * 8, 8) };
        let host = Some(entry & OFFSET).filter(|&at| at != 0 && entry >> 62 & 1 == 0);
        let bytes = host.and_then(|at| image.get(at..at + guest.len()));
        if let Some(bytes) = bytes {
            guest.copy_from_slice(bytes);
        }
        stored.offsets.push(host);
    }
    stored
}

impl Stored {
    /// Moves a part of the guest data to its host offset. Returns `None` if it is not stored
    /// uncompressed in one cluster.
    pub(super) fn moved(&self, mut part: Part) -> Option<Part> {
        let host = (*self.offsets.get(part.at / self.cluster)?)?;
        let within = part.at % self.cluster;
        if within + part.len > self.cluster {
            return None;
        }
        let from = part.at;
        part.fields.iter_mut().for_each(|field| field.at = field.at - from + host + within);
        part.at = host + within;
        Some(part)
    }
}
