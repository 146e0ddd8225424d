//! UUIDs as VHD stores them: 16 bytes in the order in which they are written as text.

use std::fmt;

/// A UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uuid(pub(super) [u8; 16]);

impl Uuid {
    /// Returns true if all bytes are zero: there is none.
    pub(super) fn is_nil(self) -> bool {
        self.0 == [0; 16]
    }

    /// Returns a UUID of version 8 (RFC 9562, 5.8) made of a digest.
    pub(super) fn of_digest(digest: u128) -> Self {
        let mut bytes = digest.to_be_bytes();
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Parses the form that [`Display`](fmt::Display) writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
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
        for wrong in ["", "00112233", "00112233-4455-8677-8899-aabbccddeefg"] {
            assert_eq!(Uuid::parse(wrong), None);
        }
    }
}
