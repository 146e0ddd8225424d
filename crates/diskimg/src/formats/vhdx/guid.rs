//! GUIDs: 16 bytes, of which the first three groups are little endian.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

/// A GUID, in the order of its bytes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Guid(pub(super) [u8; 16]);

impl Guid {
    /// No GUID: all bytes are zero.
    pub(super) const NIL: Self = Self([0; 16]);

    /// Creates the GUID that is written `AAAAAAAA-BBBB-CCCC-DDDD-DDDDDDDDDDDD`.
    pub(super) const fn new(a: u32, b: u16, c: u16, d: [u8; 8]) -> Self {
        let ([a0, a1, a2, a3], [b0, b1]) = (a.to_le_bytes(), b.to_le_bytes());
        let [c0, c1] = c.to_le_bytes();
        Self([a0, a1, a2, a3, b0, b1, c0, c1, d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]])
    }

    /// Returns true if all bytes are zero: there is none.
    pub(super) fn is_nil(self) -> bool {
        self == Self::NIL
    }

    /// Returns a GUID of version 8 (RFC 9562, 5.8) made of a digest.
    pub(super) fn of_digest(digest: u128) -> Self {
        let mut bytes = digest.to_le_bytes();
        bytes[7] = bytes[7] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Returns a random GUID.
    pub(super) fn random() -> Self {
        // Each `RandomState` has other keys.
        let random = || u128::from(RandomState::new().hash_one(0));
        Self::of_digest(random() << 64 | random())
    }

    /// Parses the form that [`Display`](fmt::Display) writes, in any case, with or without braces.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let groups: Vec<_> = text.split('-').collect();
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if !is_hex || !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) {
            return None;
        }
        let mut bytes = u128::from_str_radix(&groups.concat(), 16).ok()?.to_be_bytes();
        for group in [0..4, 4..6, 6..8] {
            bytes[group].reverse();
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0;
        for group in [0..4, 4..6, 6..8] {
            bytes[group].reverse();
        }
        for (index, byte) in bytes.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02X}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_groups_are_little_endian() {
        let text = "2DC27766-F623-4200-9D64-115E9BFD4A08";
        let guid = Guid::new(
            0x2dc2_7766,
            0xf623,
            0x4200,
            [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08],
        );
        assert_eq!(guid.to_string(), text);
        assert_eq!(guid.0[..8], [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42]);
        for spelled in [text.to_owned(), text.to_lowercase(), format!("{{{text}}}")] {
            assert_eq!(Guid::parse(&spelled), Some(guid));
        }
        for wrong in
            ["", "{}", "2DC27766F62342009D64115E9BFD4A08", &text[1..], &format!("+{}", &text[1..])]
        {
            assert_eq!(Guid::parse(wrong), None, "{wrong}");
        }
        let derived = Guid::of_digest(u128::MAX).to_string();
        assert_eq!(derived, "FFFFFFFF-FFFF-8FFF-BFFF-FFFFFFFFFFFF");
    }
}
