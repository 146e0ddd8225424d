//! Structures of ISO 9660 (ECMA-119), SUSP, Rock Ridge, El Torito and zisofs.

use super::structure::Order::{Big, Both, Little};
use super::structure::{Part, number, sectors};
use std::collections::HashSet;

const SECTOR: usize = 2048;

/// Both-endian fields of a primary or supplementary volume descriptor (8.4, 8.5).
const VOLUME: [(&str, usize, usize); 4] = [
    ("Volume Space Size", 80, 8),
    ("Volume Set Size", 120, 4),
    ("Logical Block Size", 128, 4),
    ("Path Table Size", 132, 8),
];

/// Other fields of a volume descriptor.
const VOLUME_BYTES: [(&str, usize, usize); 5] = [
    ("Volume Descriptor Type", 0, 1),
    ("Standard Identifier", 1, 1),
    ("Volume Descriptor Version", 6, 1),
    ("Escape Sequences", 88, 4),
    ("File Structure Version", 881, 1),
];

/// Both-endian fields of a directory record (9.1).
const RECORD: [(&str, usize, usize); 3] =
    [("Location of Extent", 2, 8), ("Data Length", 10, 8), ("Volume Sequence Number", 28, 4)];

/// Other fields of a directory record.
const RECORD_BYTES: [(&str, usize, usize); 8] = [
    ("Length of Directory Record", 0, 1),
    ("Extended Attribute Record Length", 1, 1),
    ("Recording Date", 18, 4),
    ("File Flags", 25, 1),
    ("File Unit Size", 26, 1),
    ("Interleave Gap Size", 27, 1),
    ("Length of File Identifier", 32, 1),
    ("File Identifier", 33, 1),
];

/// Returns the structures of an image.
pub(super) fn parts(image: &[u8]) -> Vec<Part> {
    let mut reader = Reader { image, parts: Vec::new(), seen: HashSet::new() };
    // The system area, which can contain an MBR, a GPT or an Apple partition map.
    reader.parts.extend(sectors(&image[..16 * SECTOR], "system area", 4));
    for at in (16 * SECTOR..image.len()).step_by(SECTOR) {
        let kind = image[at];
        reader.descriptor(at, kind);
        if kind == 255 || image.get(at + 1..at + 6) != Some(b"CD001") {
            break;
        }
    }
    reader.parts
}

struct Reader<'a> {
    image: &'a [u8],
    parts: Vec<Part>,
    /// Offsets of directories and continuation areas that were read.
    seen: HashSet<usize>,
}

impl Reader<'_> {
    fn descriptor(&mut self, at: usize, kind: u8) {
        let class = match kind {
            0 => "boot record",
            1 => "primary volume descriptor",
            2 => "supplementary volume descriptor",
            _ => "other descriptor",
        };
        let part = Part::new(class, at, SECTOR).with(Little, &VOLUME_BYTES);
        if kind == 0 {
            self.parts.push(part.with(Little, &[("Boot Catalog", 71, 4)]));
            self.catalog(number(self.image, at + 71, 4, Little) * SECTOR);
            return;
        }
        let tables = [("L Path Table", 140, 4), ("Optional L Path Table", 144, 4)];
        let part = part.with(Both, &VOLUME).with(Little, &tables);
        self.parts.push(part.with(Big, &[("M Path Table", 148, 4)]));
        if !matches!(kind, 1 | 2) {
            return;
        }
        let size = number(self.image, at + 132, 8, Both);
        for (order, place) in [(Little, 140), (Big, 148)] {
            let table = number(self.image, at + place, 4, order) * SECTOR;
            self.path_table(table, size, order);
        }
        self.record(at + 156);
    }

    fn path_table(&mut self, mut at: usize, size: usize, order: super::structure::Order) {
        let end = (at + size).min(self.image.len());
        while at + 8 < end {
            let name = usize::from(self.image[at]);
            let len = 8 + name.next_multiple_of(2);
            let bytes = [("Length of Identifier", 0, 1), ("Attributes", 1, 1), ("Name", 8, 1)];
            let part = Part::new("path table record", at, len).with(order, &bytes);
            self.parts.push(part.with(order, &[("Extent", 2, 4), ("Parent", 6, 2)]));
            at += len;
        }
    }

    /// Adds a directory record and the structures it refers to.
    fn record(&mut self, at: usize) {
        let len = usize::from(self.image[at]);
        let part = Part::new("directory record", at, len).with(Both, &RECORD);
        self.parts.push(part.with(Little, &RECORD_BYTES));
        let name = usize::from(self.image[at + 32]);
        self.parts.push(Part::text("file identifier", at + 33, name));
        let extent = number(self.image, at + 2, 8, Both) * SECTOR;
        let size = number(self.image, at + 10, 8, Both);
        self.system_use(at + (33 + name).next_multiple_of(2), at + len, extent);
        if self.image[at + 25] & 2 != 0 && self.seen.insert(extent) {
            self.directory(extent, size);
        }
    }

    fn directory(&mut self, extent: usize, size: usize) {
        let end = (extent + size).min(self.image.len());
        let mut at = extent;
        while at + 33 < end {
            match usize::from(self.image[at]) {
                0 => at = (at / SECTOR + 1) * SECTOR,
                len => {
                    self.record(at);
                    at += len;
                }
            }
        }
    }

    /// Adds system use entries and their continuation areas; the file's contents are at `content`.
    fn system_use(&mut self, mut at: usize, end: usize, content: usize) {
        while at + 4 <= end.min(self.image.len()) && self.image[at].is_ascii_uppercase() {
            let len = usize::from(self.image[at + 2]);
            let name = &self.image[at..at + 2];
            if len < 4 || at + len > end {
                break;
            }
            let head = [("signature", 0, 2), ("length", 2, 1), ("version", 3, 1), ("flags", 4, 1)];
            let part = Part::new("system use entry", at, len).with(Little, &head);
            let part = match name {
                b"CE" | b"PX" | b"PN" | b"CL" | b"PL" => part.table(Both, 4, 8),
                b"NM" | b"SL" => Part { text: true, ..part },
                _ => part.table(Little, 5, 1),
            };
            self.parts.push(part);
            match name {
                b"CE" => {
                    let both = |offset| number(self.image, at + offset, 8, Both);
                    let area = both(4) * SECTOR + both(12);
                    if self.seen.insert(area) {
                        self.system_use(area, area + both(20), content);
                    }
                }
                b"ZF" => self.packed(content),
                _ => {}
            }
            at += len;
        }
    }

    /// Adds the header and the first block pointers of a zisofs file.
    fn packed(&mut self, at: usize) {
        let fields = [("magic", 0, 8), ("size", 8, 4), ("header size", 12, 1), ("block", 13, 1)];
        let part = Part::new("zisofs header", at, 48).with(Little, &fields);
        self.parts.push(part.table(Little, 16, 4));
    }

    /// Adds the El Torito boot catalog.
    fn catalog(&mut self, at: usize) {
        let fields =
            [("Header ID", 0, 1), ("Platform ID", 1, 1), ("Checksum", 28, 2), ("Key", 30, 2)];
        let part = Part::new("validation entry", at, 32).with(Little, &fields);
        self.parts.push(part.with_checksum(update_catalog_checksum));
        let fields = [
            ("Boot Indicator", 0, 1),
            ("Media Type", 1, 1),
            ("Load Segment or Entries", 2, 2),
            ("System Type", 4, 1),
            ("Sector Count", 6, 2),
            ("Load RBA", 8, 4),
            ("Selection Criteria", 12, 1),
        ];
        for entry in (at + 32..at + 256).step_by(32) {
            self.parts.push(Part::new("catalog entry", entry, 32).with(Little, &fields));
        }
    }
}

/// Sets the checksum so that all words of the validation entry add up to 0.
fn update_catalog_checksum(entry: &mut [u8]) {
    entry[28..30].fill(0);
    let words = entry.chunks(2).map(|word| u16::from_le_bytes([word[0], word[1]]));
    let sum = words.fold(0u16, u16::wrapping_add);
    entry[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
}
