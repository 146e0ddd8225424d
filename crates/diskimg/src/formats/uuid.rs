//! UUIDs of disks.
//!
//! ```text
//!   text            00112233-4455-6677-8899-aabbccddeeff
//!   VHD             00 11 22 33 44 55 66 77 88 99 aa bb cc dd ee ff   as in the text
//!   VDI             33 22 11 00 55 44 77 66 88 99 aa bb cc dd ee ff   three little-endian numbers
//! ```

use std::fmt;
use std::hash::{BuildHasher, RandomState};

/// A UUID: its bytes in the order in which they are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Uuid(pub(crate) [u8; 16]);

impl Uuid {
    /// Returns true if all bytes are zero: there is none.
    pub(crate) fn is_nil(self) -> bool {
        self.0 == [0; 16]
    }

    /// Returns a UUID of version 8 (RFC 9562, 5.8) made of a digest.
    pub(crate) fn of_digest(digest: u128) -> Self {
        let mut bytes = digest.to_be_bytes();
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Returns a UUID that no other disk has.
    pub(crate) fn random() -> Self {
        // Each instance has other keys.
        let random = || u128::from(RandomState::new().hash_one(0));
        Self::of_digest(random() << 64 | random())
    }

    /// Converts from the order of bytes in which the first three numbers are little-endian, or to
    /// it.
    pub(crate) fn swapped([a, b, c, d, e, f, g, h, rest @ ..]: [u8; 16]) -> [u8; 16] {
        let [i, j, k, l, m, n, o, p] = rest;
        [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
    }

    /// Parses the form that [`Display`](fmt::Display) writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b'-').collect();
        let hex =
            |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut bytes = [0; 16];
        if digits.len() != 2 * bytes.len() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex(pair[0])? << 4 | hex(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_in_the_order_of_its_bytes() {
        let uuid = Uuid::of_digest(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        let text = "00112233-4455-8677-8899-aabbccddeeff";
        assert_eq!(uuid.to_string(), text);
        assert_eq!(Uuid::parse(text), Some(uuid));
        assert_eq!(Uuid::swapped(uuid.0)[..8], [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x86]);
        for wrong in ["", "00112233", "00112233-4455-8677-8899-aabbccddeefg"] {
            assert_eq!(Uuid::parse(wrong), None);
        }
    }
}
