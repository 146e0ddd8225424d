//! The checksum Adler-32 (RFC 1950, section 8.2), and units that are stored with it.

use std::io;

/// Length in bytes of the checksum that follows a stored unit.
const CHECKSUM: usize = 4;

/// The Adler-32 of bytes that are passed in parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adler32 {
    a: u32,
    b: u32,
}

impl Default for Adler32 {
    fn default() -> Self {
        Self { a: 1, b: 0 }
    }
}

impl Adler32 {
    /// Adds the bytes that follow.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        const MODULUS: u32 = 65521;
        /// The sums of this many bytes fit in 32 bits.
        const BLOCK: usize = 5552;
        let Self { a, b } = self;
        for block in bytes.chunks(BLOCK) {
            // In groups, so that the compiler can use vector instructions.
            let (groups, rest) = block.as_chunks::<16>();
            for group in groups {
                *b += *a * 16;
                let weighted = (1..=16).rev().zip(group);
                *b += weighted.map(|(weight, &byte)| weight * u32::from(byte)).sum::<u32>();
                *a += group.iter().copied().map(u32::from).sum::<u32>();
            }
            for &byte in rest {
                *a += u32::from(byte);
                *b += *a;
            }
            *a %= MODULUS;
            *b %= MODULUS;
        }
    }

    /// Returns the checksum.
    pub(crate) fn finish(self) -> u32 {
        self.b << 16 | self.a
    }
}

/// Returns the Adler-32 of `bytes`.
pub(crate) fn adler32(bytes: &[u8]) -> u32 {
    let mut checksum = Adler32::default();
    checksum.update(bytes);
    checksum.finish()
}

/// Copies the bytes of a stored unit to `unit` and verifies the checksum that follows them, which is
/// little endian. They may be more than `unit` holds.
pub(super) fn copy(stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
    let invalid = |message| Err(io::Error::new(io::ErrorKind::InvalidData, message));
    let Some((bytes, checksum)) = stored.split_last_chunk::<CHECKSUM>() else {
        return invalid(format!("{} bytes are too few for a checksum", stored.len()));
    };
    let Some(wanted) = bytes.get(..unit.len()) else {
        return invalid(format!("{} bytes are stored instead of {}", bytes.len(), unit.len()));
    };
    let (found, recorded) = (adler32(bytes), u32::from_le_bytes(*checksum));
    if found != recorded {
        return invalid(format!("the Adler-32 is {found:#010x} instead of {recorded:#010x}"));
    }
    unit.copy_from_slice(wanted);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_1950() {
        for (bytes, checksum) in [
            (vec![], 1),
            (b"a".to_vec(), 0x0062_0062),
            (b"Wikipedia".to_vec(), 0x11e6_0398),
            // As zlib computes it, where the sums are largest.
            (vec![0xff; 100_000], 0x149a_302c),
        ] {
            assert_eq!(adler32(&bytes), checksum, "{} bytes", bytes.len());
            let mut parts = Adler32::default();
            bytes.chunks(977).for_each(|part| parts.update(part));
            assert_eq!(parts.finish(), checksum, "{} bytes in parts", bytes.len());
        }
    }

    #[test]
    fn a_stored_unit_is_verified() {
        let bytes: Vec<u8> = (0..40_000_u32).map(|n| (n / 7) as u8).collect();
        let stored = [&bytes[..], &adler32(&bytes).to_le_bytes()].concat();
        let mut unit = vec![0; bytes.len()];
        copy(&stored, &mut unit).expect("copies");
        assert_eq!(unit, bytes);
        copy(&stored, &mut unit[..512]).expect("copies the first bytes");
        for at in [0, 39_999, 40_000, 40_003] {
            let mut damaged = stored.clone();
            damaged[at] ^= 1;
            let error = copy(&damaged, &mut unit).expect_err("damaged");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert!(copy(&stored[1..], &mut unit).is_err() && copy(&stored[..3], &mut []).is_err());
    }
}
