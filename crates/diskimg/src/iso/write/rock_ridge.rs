//! Rock Ridge: encoding of the system use entries of a directory record (SUSP 1.12, RRIP 1.12).
//!
//! ```text
//!   directory record   identifier │ SP PX TF NM SL …  CE ──┐     up to 254 bytes in total
//!   continuation areas                 … NM SL  CE ──┐ ◄───┘     each within one sector, CE last
//!                                      … SL    ◄─────┘
//! ```

use crate::iso::SECTOR;
use crate::iso::time::Timestamp;
use crate::storage::number::{to_u8, to_u32, to_usize};

/// Length of a CE entry in bytes.
const CE: usize = 28;

/// Maximum length of a directory record in bytes: the largest even number below 256.
const RECORD: usize = 254;

/// Length in bytes of an SL entry without its components.
const LINK_HEAD: usize = 5;
/// Maximum length in bytes of an SL entry.
const LINK_ENTRY: usize = 255;

/// Flag of an entry or component that continues in the next entry.
const CONTINUES: u8 = 1;

/// Identifier, descriptor and source of the ER entry for Rock Ridge (RRIP 1.12, 4.3).
const EXTENSION: [&[u8]; 3] = [
    b"RRIP_1991A",
    b"THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS",
    b"PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN \
      PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION.",
];

/// POSIX attributes, as recorded in PX.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posix {
    /// File type and permissions.
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) serial: u32,
}

/// The encoded system use entries of one directory record.
#[derive(Debug, Default)]
pub(super) struct Entries(Vec<u8>);

/// Returns the halves of a dev_t of the C libraries of Linux: in the low half, the low 12 bits of
/// the major number are between the low 8 and the next 12 bits of the minor number. The other bits
/// of both are in the high half.
fn split_device(major: u32, minor: u32) -> (u32, u32) {
    let low = (major & 0xFFF) << 8 | minor & 0xFF | (minor & 0xF_FF00) << 12;
    (major & 0xFFFF_F000 | minor >> 20, low)
}

impl Entries {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn head(&mut self, signature: [u8; 2], len: usize) {
        // No entry is longer than 255 bytes.
        self.0.extend_from_slice(&[signature[0], signature[1], to_u8(len), 1]);
    }

    fn both(&mut self, value: u32) {
        self.0.extend_from_slice(&both_endian_32(value));
    }

    /// Adds SP with no bytes to skip (SUSP, 5.3). It must be the first entry of the root.
    pub(super) fn sharing(&mut self) {
        self.head(*b"SP", 7);
        self.0.extend_from_slice(&[0xBE, 0xEF, 0]);
    }

    /// Adds ER (SUSP, 5.5).
    pub(super) fn extension(&mut self) {
        let [id, text, source] = EXTENSION;
        self.head(*b"ER", 8 + id.len() + text.len() + source.len());
        self.0.extend_from_slice(&[to_u8(id.len()), to_u8(text.len()), to_u8(source.len()), 1]);
        EXTENSION.iter().for_each(|part| self.0.extend_from_slice(part));
    }

    /// Adds PX in the form with a serial number, which is the same for all names of a file (RRIP,
    /// 4.1.1).
    pub(super) fn posix(&mut self, posix: &Posix) {
        self.head(*b"PX", 44);
        let Posix { mode, links, uid, gid, serial } = *posix;
        [mode, links, uid, gid, serial].into_iter().for_each(|value| self.both(value));
    }

    /// Adds TF: times of modification, access and attribute change (RRIP, 4.1.6).
    pub(super) fn times(&mut self, modified: Timestamp, accessed: Timestamp, changed: Timestamp) {
        self.head(*b"TF", 5 + 3 * 7);
        self.0.push(0x02 | 0x04 | 0x08);
        for time in [modified, accessed, changed] {
            self.0.extend_from_slice(&time.to_record());
        }
    }

    /// Adds PN: a device number (RRIP, 4.1.2).
    ///
    /// The first entry has the halves of a 64-bit dev_t, as RRIP says, in the encoding of the C
    /// library of Linux: libarchive and libisofs read it. The kernels' drivers know 16-bit device
    /// numbers in the low half, and with a high half that is not zero, major and minor number in
    /// the halves. If the first entry does not mean the same to them, a second one has these. The
    /// last one counts for Linux. It is longer than 20 bytes, so that libarchive ignores it, and
    /// libisofs, too, with a warning.
    pub(super) fn device(&mut self, major: u32, minor: u32) {
        const PADDING: [u8; 4] = [0; 4];
        let (high, low) = split_device(major, minor);
        self.head(*b"PN", 20);
        self.both(high);
        self.both(low);
        let is_understood = high == 0 && low >> 8 == major;
        if major != 0 && !is_understood {
            self.head(*b"PN", 20 + PADDING.len());
            self.both(major);
            self.both(minor);
            self.0.extend_from_slice(&PADDING);
        }
    }

    /// Adds NM: the name (RRIP, 4.1.4).
    pub(super) fn name(&mut self, name: &[u8]) {
        let mut rest = name;
        loop {
            let (now, later) = rest.split_at(rest.len().min(250));
            self.head(*b"NM", 5 + now.len());
            self.0.push(u8::from(!later.is_empty()));
            self.0.extend_from_slice(now);
            if later.is_empty() {
                return;
            }
            rest = later;
        }
    }

    /// Adds SL: the components of a symbolic link's target (RRIP, 4.1.3). Slashes are not recorded.
    /// If possible, a full entry ends within a component, because bsdtar omits the slash between
    /// the last component of an entry and the first of the next.
    pub(super) fn link(&mut self, target: &[u8]) {
        let mut open = None;
        if target.first() == Some(&b'/') {
            self.component(&mut open, 0x08, &[]);
        }
        let parts = target.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
        let mut parts = parts.peekable();
        while let Some(part) = parts.next() {
            match part {
                b"." => self.component(&mut open, 0x02, &[]),
                b".." => self.component(&mut open, 0x04, &[]),
                _ => self.text(&mut open, part, parts.peek().is_none()),
            }
        }
    }

    /// Adds a component with a text, split across entries as necessary. Unless it is the last one,
    /// space for another component header is left after it, so that the next component can start in
    /// the same entry.
    fn text(&mut self, open: &mut Option<usize>, mut text: &[u8], is_last: bool) {
        loop {
            let used = open.map_or(LINK_HEAD, |at| self.0.len() - at);
            let Some(room) = LINK_ENTRY.checked_sub(used + 2) else {
                self.next_link_entry(open);
                continue;
            };
            if text.len() + 2 <= room || is_last && text.len() <= room {
                return self.component(open, 0, text);
            }
            let (now, later) = text.split_at(text.len().min(room));
            self.component(open, CONTINUES, now);
            self.next_link_entry(open);
            text = later;
        }
    }

    /// Adds a component to the SL entry `open`, or to a new entry if it does not fit.
    fn component(&mut self, open: &mut Option<usize>, flags: u8, text: &[u8]) {
        let at = match *open {
            Some(at) if self.0.len() - at + 2 + text.len() <= LINK_ENTRY => at,
            _ => self.next_link_entry(open),
        };
        self.0.extend_from_slice(&[flags, to_u8(text.len())]);
        self.0.extend_from_slice(text);
        self.0[at + 2] = to_u8(self.0.len() - at);
    }

    /// Starts a new SL entry that continues the open one.
    fn next_link_entry(&mut self, open: &mut Option<usize>) -> usize {
        if let Some(full) = *open {
            self.0[full + 4] = CONTINUES;
        }
        let at = self.0.len();
        self.head(*b"SL", LINK_HEAD);
        self.0.push(0);
        *open = Some(at);
        at
    }

    /// Adds CL: the sector of the relocated directory that this record stands for (RRIP, 4.1.5.1).
    pub(super) fn child(&mut self, lba: u32) {
        self.head(*b"CL", 12);
        self.both(lba);
    }

    /// Adds PL: the sector of the original parent of a relocated directory (RRIP, 4.1.5.2).
    pub(super) fn parent(&mut self, lba: u32) {
        self.head(*b"PL", 12);
        self.both(lba);
    }

    /// Adds RE: the directory is relocated (RRIP, 4.1.5.3).
    pub(super) fn relocated(&mut self) {
        self.head(*b"RE", 4);
    }

    /// Appends the entries to `record`, which has `used` bytes already (an even number). Entries
    /// that do not fit are written to the continuation areas of the directory.
    pub(super) fn place(&self, used: usize, record: &mut Vec<u8>, areas: &mut Areas<'_>) {
        let room = RECORD - used;
        if self.0.len() <= room {
            record.extend_from_slice(&self.0);
            return;
        }
        let (here, mut rest) = split(&self.0, room - CE);
        record.extend_from_slice(here);
        let (offset, mut now) = areas.begin(rest);
        record.extend_from_slice(&areas.pointer(offset, now));
        while now < rest.len() {
            // The CE entry is part of the area.
            let (here, later) = split(rest, now - CE);
            areas.bytes.extend_from_slice(here);
            rest = later;
            let next = areas.bytes.len() + CE;
            let next = next.next_multiple_of(to_usize(SECTOR));
            now = Areas::take(rest, to_usize(SECTOR));
            let pointer = areas.pointer(next, now);
            areas.bytes.extend_from_slice(&pointer);
            areas.bytes.resize(next, 0);
        }
        areas.bytes.extend_from_slice(rest);
    }
}

/// The continuation areas of one directory, in sectors of their own.
#[derive(Debug)]
pub(super) struct Areas<'b> {
    /// First sector of the areas.
    pub(super) lba: u32,
    pub(super) bytes: &'b mut Vec<u8>,
}

impl Areas<'_> {
    /// Returns the offset of the next area and its length. An area does not cross a sector
    /// boundary.
    fn begin(&mut self, rest: &[u8]) -> (usize, usize) {
        let sector = to_usize(SECTOR);
        let left = sector - self.bytes.len() % sector;
        if rest.len() > left {
            let end = self.bytes.len().next_multiple_of(sector);
            self.bytes.resize(end, 0);
            return (end, Self::take(rest, sector));
        }
        (self.bytes.len(), rest.len())
    }

    /// Returns the length of an area of at most `room` bytes for these entries, including a CE
    /// entry if not all of them fit.
    fn take(rest: &[u8], room: usize) -> usize {
        if rest.len() <= room { rest.len() } else { split(rest, room - CE).0.len() + CE }
    }

    /// Returns a CE entry for the area at `offset` (SUSP, 5.1).
    fn pointer(&self, offset: usize, len: usize) -> [u8; CE] {
        let mut entry = [0; CE];
        entry[..4].copy_from_slice(b"CE\x1c\x01");
        let sector = to_usize(SECTOR);
        let lba = self.lba + to_u32(offset / sector);
        let values = [lba, to_u32(offset % sector), to_u32(len)];
        for (field, value) in entry[4..].chunks_exact_mut(8).zip(values) {
            field.copy_from_slice(&both_endian_32(value));
        }
        entry
    }
}

/// Splits entries after the last one that fits in `room` bytes.
fn split(entries: &[u8], room: usize) -> (&[u8], &[u8]) {
    let mut end = 0;
    while let Some(&len) = entries.get(end + 2) {
        if end + usize::from(len) > room {
            break;
        }
        end += usize::from(len);
    }
    entries.split_at(end)
}

/// Encodes a 32-bit both-endian number: little-endian, then big-endian (ECMA-119, 7.3.3).
pub(super) fn both_endian_32(value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_be_bytes());
    bytes
}

/// Encodes a 16-bit both-endian number: little-endian, then big-endian (ECMA-119, 7.2.3).
pub(super) fn both_endian_16(value: u16) -> [u8; 4] {
    let (little, big) = (value.to_le_bytes(), value.to_be_bytes());
    [little[0], little[1], big[0], big[1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the entries that a reader finds by following CE entries.
    fn follow(record: &[u8], lba: u32, areas: &[u8]) -> Vec<u8> {
        let mut found = Vec::new();
        let mut field = record.to_vec();
        loop {
            let mut next = None;
            let mut at = 0;
            while at + 4 <= field.len() {
                let entry = &field[at..at + usize::from(field[at + 2])];
                if entry.starts_with(b"CE") {
                    assert_eq!(at + CE, field.len(), "CE is the last entry");
                    let value = |at: usize| {
                        u32::from_le_bytes(entry[at..at + 4].try_into().expect("four")) as usize
                    };
                    assert!(value(12) + value(20) <= 2048, "within one sector");
                    let start = (value(4) - lba as usize) * 2048 + value(12);
                    next = Some(areas[start..start + value(20)].to_vec());
                } else {
                    found.extend_from_slice(entry);
                }
                at += entry.len();
            }
            match next {
                Some(area) => field = area,
                None => return found,
            }
        }
    }

    #[test]
    fn entries_of_any_length_are_read_back_unchanged() {
        let mut bytes = Vec::new();
        for name in [1, 100, 120, 250, 255] {
            for link in [0, 1, 300, 2000, 4095] {
                for used in [34, 68, 100] {
                    let mut entries = Entries::default();
                    entries.name(&vec![b'n'; name]);
                    entries.link(&b"/abcdefg".repeat(link / 8 + 1)[..link]);
                    let mut record = Vec::new();
                    let mut areas = Areas { lba: 77, bytes: &mut bytes };
                    entries.place(used, &mut record, &mut areas);
                    assert!(record.len() + used <= RECORD);
                    assert_eq!(follow(&record, 77, &bytes), entries.0, "{name} {link} {used}");
                }
            }
        }
    }

    #[test]
    fn a_long_component_continues_in_the_next_entry() {
        let mut entries = Entries::default();
        entries.link(&[&b"../"[..], &[b'x'; 255], b"/./y"].concat());
        assert_eq!(&entries.0[..9], b"SL\xff\x01\x01\x04\0\x01\xf6");
        assert_eq!(entries.0[255..], *b"SL\x15\x01\0\0\x09xxxxxxxxx\x02\0\0\x01y");
    }

    #[test]
    fn an_entry_ends_within_a_component() {
        for len in 230..260 {
            let mut entries = Entries::default();
            entries.link(&[&vec![b'x'; len][..], b"/yy/zz"].concat());
            let mut rest = &entries.0[..];
            let mut target = Vec::new();
            // Like bsdtar: adds slashes only between components of one entry.
            while let [b'S', b'L', size, _, _, ..] = *rest {
                let mut components = &rest[LINK_HEAD..usize::from(size)];
                let mut slash = false;
                while let [flags, size, ..] = *components {
                    target.extend(slash.then_some(b'/'));
                    target.extend_from_slice(&components[2..][..usize::from(size)]);
                    slash = flags & CONTINUES == 0;
                    components = &components[2 + usize::from(size)..];
                }
                rest = &rest[usize::from(size)..];
            }
            assert_eq!(target, [&vec![b'x'; len][..], b"/yy/zz"].concat(), "{len}");
        }
    }

    #[test]
    fn no_entry_ends_between_two_components() {
        for length in 1..=30 {
            for first in 1..=30 {
                let mut entries = Entries::default();
                let name = [&vec![b'n'; length][..], b"/"].concat();
                entries.link(&[&vec![b'f'; first], &b"/"[..], &name.repeat(60)].concat());
                let (mut at, mut names) = (0, 0);
                while let Some(&len) = entries.0.get(at + 2) {
                    let entry = &entries.0[at..at + usize::from(len)];
                    let (mut next, mut flags) = (5, 0);
                    while next < entry.len() {
                        flags = entry[next];
                        names += usize::from(flags == 0);
                        next += 2 + usize::from(entry[next + 1]);
                    }
                    assert_eq!(next, entry.len());
                    assert_eq!(entry[4], flags, "it continues if its last component does");
                    at += entry.len();
                }
                assert_eq!(names, 61);
            }
        }
    }

    #[test]
    fn a_name_is_split_at_250_bytes() {
        let mut entries = Entries::default();
        entries.name(&[b'n'; 255]);
        assert_eq!(&entries.0[..5], b"NM\xff\x01\x01");
        assert_eq!(entries.0[255..], *b"NM\x0a\x01\0nnnnn");
    }
}
