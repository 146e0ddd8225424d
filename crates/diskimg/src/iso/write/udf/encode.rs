//! Encoding of UDF descriptors.

use crate::iso::SECTOR;
use crate::iso::time::Timestamp;
use crate::iso::udf::{seal, to_cs0};
use crate::storage::number::{to_u8, to_u16, to_usize};
use byteorder::{ByteOrder, LittleEndian};

/// Length of a descriptor tag in bytes.
pub(super) const TAG: usize = 16;

/// Identifier of this implementation in UDF structures.
const IMPLEMENTATION: &str = "*diskimg";

/// UDF revision 1.02, as in the suffixes of entity identifiers.
pub(super) const REVISION: u16 = 0x0102;

/// Domain flags: the volume is write-protected by hardware and by software (UDF, 2.1.4.3).
const WRITE_PROTECTED: u8 = 3;

/// Type of a timestamp that is a local time with its offset from UTC (1/7.3.1).
const LOCAL_TIME: u16 = 1 << 12;

/// A descriptor being encoded. The fields are added in the order of the standard.
#[derive(Debug)]
pub(super) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// Begins a descriptor, with space for its tag.
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; TAG] }
    }

    pub(super) fn u8(&mut self, n: u8) {
        self.bytes.push(n);
    }

    pub(super) fn u16(&mut self, n: u16) {
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    pub(super) fn u32(&mut self, n: u32) {
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    pub(super) fn u64(&mut self, n: u64) {
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    /// Adds an extent descriptor (3/7.1): length in bytes and first sector.
    pub(super) fn extent(&mut self, len: u32, sector: u32) {
        self.u32(len);
        self.u32(sector);
    }

    /// Adds a long allocation descriptor (4/14.14.2) in partition 0, with a unique ID in its
    /// implementation use field (UDF 2.00, 2.3.4.3; not used by UDF 1.02).
    pub(super) fn long_allocation(&mut self, len: u32, block: u32, unique_id: u32) {
        self.u32(len);
        self.u32(block);
        self.u16(0);
        self.u16(0);
        self.u32(unique_id);
    }

    /// Adds an entity identifier (1/7.4) with the suffix `suffix`.
    pub(super) fn entity(&mut self, identifier: &str, suffix: [u8; 8]) {
        self.u8(0);
        self.padded(identifier.as_bytes(), 23);
        self.bytes(&suffix);
    }

    /// Adds the entity identifier of this implementation. The operating system is not recorded.
    pub(super) fn implementation(&mut self) {
        self.entity(IMPLEMENTATION, [0; 8]);
    }

    /// Adds the entity identifier of UDF itself (UDF, 2.1.4.3).
    pub(super) fn domain(&mut self) {
        let mut suffix = revision_suffix();
        suffix[2] = WRITE_PROTECTED;
        self.entity("*OSTA UDF Compliant", suffix);
    }

    /// Adds the specification of the character set CS0 (1/7.2.1; UDF, 2.1.2).
    pub(super) fn character_set(&mut self) {
        self.u8(0);
        self.padded(b"OSTA Compressed Unicode", 63);
    }

    /// Adds a text field of `room` bytes (dstring, 1/7.2.12), truncated to whole characters.
    pub(super) fn dstring(&mut self, text: &str, room: usize) {
        let mut encoded = Vec::new();
        let mut units: Vec<u16> = text.encode_utf16().collect();
        loop {
            encoded.clear();
            to_cs0(&units, &mut encoded);
            if encoded.len() < room {
                break;
            }
            // A low surrogate is removed with its high surrogate.
            if units.pop().is_some_and(|unit| (0xDC00..0xE000).contains(&unit)) {
                units.pop();
            }
        }
        // The empty string has no compression ID.
        let used = if units.is_empty() { 0 } else { encoded.len() };
        self.padded(&encoded[..used], room - 1);
        self.u8(to_u8(used));
    }

    /// Adds a timestamp (1/7.3), in UTC and whole seconds.
    pub(super) fn time(&mut self, time: Timestamp) {
        let first = Timestamp::from_civil([1, 1, 1], [0, 0, 0], 0, 0).unwrap_or_default();
        let last = Timestamp::from_civil([9999, 12, 31], [23, 59, 59], 0, 0).unwrap_or_default();
        let ([year, month, day], clock) = time.clamp(first, last).civil();
        self.u16(LOCAL_TIME);
        self.u16(to_u16(year));
        self.u8(to_u8(month));
        self.u8(to_u8(day));
        clock.into_iter().map(to_u8).for_each(|part| self.u8(part));
        self.zeros(3);
    }

    fn padded(&mut self, bytes: &[u8], len: usize) {
        self.bytes(bytes);
        self.zeros(len - bytes.len());
    }

    /// Adds zeros up to a length of `len` bytes, including the tag.
    pub(super) fn pad_to(&mut self, len: usize) {
        self.bytes.resize(len, 0);
    }

    /// Returns the number of bytes so far, including the tag.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the tag with the identifier `id`, for block `block`. Returns the descriptor.
    pub(super) fn finish(mut self, id: u16, block: u32) -> Vec<u8> {
        seal(&mut self.bytes, id, block);
        self.bytes
    }

    /// As [`finish`](Self::finish), and fills the sector with zeros.
    pub(super) fn sector(self, id: u16, block: u32) -> Vec<u8> {
        let mut bytes = self.finish(id, block);
        bytes.resize(to_usize(SECTOR), 0);
        bytes
    }

    /// As [`sector`](Self::sector), for a descriptor that is 512 bytes long.
    pub(super) fn descriptor(mut self, id: u16, block: u32) -> Vec<u8> {
        self.pad_to(512);
        self.sector(id, block)
    }
}

/// Returns the suffix of an entity identifier that is defined by UDF (UDF, 2.1.4.3).
pub(super) fn revision_suffix() -> [u8; 8] {
    let mut suffix = [0; 8];
    LittleEndian::write_u16(&mut suffix, REVISION);
    suffix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(add: impl FnOnce(&mut Encoder)) -> Vec<u8> {
        let mut encoder = Encoder::new();
        add(&mut encoder);
        encoder.bytes.split_off(TAG)
    }

    #[test]
    fn a_text_is_truncated_to_whole_characters() {
        assert_eq!(added(|e| e.dstring("", 4)), [0; 4]);
        assert_eq!(added(|e| e.dstring("ab", 4)), b"\x08ab\x03");
        assert_eq!(added(|e| e.dstring("abc", 4)), b"\x08ab\x03");
        assert_eq!(added(|e| e.dstring("名a", 6)), b"\x10\x54\x0d\0a\x05");
        assert_eq!(added(|e| e.dstring("a😀", 6)), b"\x08a\0\0\0\x02");
    }

    #[test]
    fn a_time_is_recorded_in_utc() {
        let time = Timestamp { seconds: 1_709_210_096, nanoseconds: 5 };
        let expected = [0, 0x10, 0xe8, 7, 2, 29, 12, 34, 56, 0, 0, 0];
        assert_eq!(added(|e| e.time(time)), expected);
        let before = Timestamp::from_seconds(i64::MIN / 2);
        assert_eq!(added(|e| e.time(before))[2..6], [1, 0, 1, 1]);
    }
}
