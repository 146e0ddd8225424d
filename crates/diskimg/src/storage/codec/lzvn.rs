//! LZVN, the codec of some blocks of LZFSE.
//!
//! ```text
//!   LLMMMDDD DDDDDDDD            literals, a match at a distance below 0x600
//!   LLMMM110                     literals, a match at the last distance; 06: end; 0e, 16: nothing
//!   LLMMM111 DDDDDDDD DDDDDDDD   literals, a match; the distance is little endian
//!   101LLMMM DDDDDDMM DDDDDDDD   literals, a match; the distance is little endian
//!   1110LLLL, e0 LLLLLLLL        literals
//!   1111MMMM, f0 MMMMMMMM        a match at the last distance
//! ```
//!
//! The literals follow the operation, and precede the match in the output. The comments of Apple's
//! reference implementation (github.com/lzfse/lzfse) are the specification.

use super::matches::{copy_match, damaged};
use std::io;

/// A decoded operation.
struct Operation {
    /// Length of the operation itself in bytes.
    len: usize,
    literals: usize,
    matched: usize,
    /// 0 for the last distance.
    distance: usize,
}

/// Decompresses a stream to `unit` from offset `at`, until its end. Matches may refer to what is
/// before. Returns the offset after the last byte.
///
/// # Errors
/// Returns [`io::ErrorKind::InvalidData`] if the stream is damaged.
pub(super) fn decode(mut stored: &[u8], unit: &mut [u8], mut at: usize) -> io::Result<usize> {
    let mut last_distance = 0;
    while at < unit.len() {
        let operation = match next(stored)? {
            Some(operation) => operation,
            None => return Ok(at),
        };
        let rest = stored.get(operation.len..).unwrap_or_default();
        let Some((literals, rest)) = rest.split_at_checked(operation.literals) else {
            return Err(damaged("the LZVN stream ends within literals"));
        };
        let len = literals.len().min(unit.len() - at);
        unit[at..at + len].copy_from_slice(&literals[..len]);
        at += len;
        if operation.distance != 0 {
            last_distance = operation.distance;
        }
        if operation.matched > 0 && at < unit.len() {
            copy_match(unit, &mut at, operation.matched, last_distance)?;
        }
        stored = rest;
    }
    Ok(at)
}

/// Returns the first operation of a stream, or `None` at its end.
#[inline]
fn next(stored: &[u8]) -> io::Result<Option<Operation>> {
    let [first, rest @ ..] = stored else {
        return Err(damaged("the LZVN stream has no end"));
    };
    let first = *first;
    let truncated = || damaged("the LZVN stream ends within an operation");
    let operand = |n: usize| rest.get(n).copied().ok_or_else(truncated);
    let bits = |shift: u32, mask: u8| usize::from(first >> shift & mask);
    let (literals, matched) = (bits(6, 3), bits(3, 7) + 3);
    let operation = match first {
        0x06 => return Ok(None),
        0x0e | 0x16 => Operation { len: 1, literals: 0, matched: 0, distance: 0 },
        0x70..=0x7f | 0xd0..=0xdf | 0x1e | 0x26 | 0x2e | 0x36 | 0x3e => {
            return Err(damaged(format!("the LZVN operation {first:#04x} is not defined")));
        }
        0xa0..=0xbf => {
            let word = u16::from_le_bytes([operand(0)?, operand(1)?]);
            Operation {
                len: 3,
                literals: bits(3, 3),
                matched: (bits(0, 7) << 2 | usize::from(word & 3)) + 3,
                distance: required(usize::from(word >> 2))?,
            }
        }
        0xe0 => {
            Operation { len: 2, literals: usize::from(operand(0)?) + 16, matched: 0, distance: 0 }
        }
        0xe1..=0xef => Operation { len: 1, literals: bits(0, 15), matched: 0, distance: 0 },
        0xf0 => {
            Operation { len: 2, literals: 0, matched: usize::from(operand(0)?) + 16, distance: 0 }
        }
        0xf1..=0xff => Operation { len: 1, literals: 0, matched: bits(0, 15), distance: 0 },
        _ => match first & 7 {
            6 => Operation { len: 1, literals, matched, distance: 0 },
            7 => {
                let distance = u16::from_le_bytes([operand(0)?, operand(1)?]);
                let distance = required(usize::from(distance))?;
                Operation { len: 3, literals, matched, distance }
            }
            high => {
                let distance = usize::from(u16::from_be_bytes([high, operand(0)?]));
                Operation { len: 2, literals, matched, distance: required(distance)? }
            }
        },
    };
    Ok(Some(operation))
}

fn required(distance: usize) -> io::Result<usize> {
    match distance {
        0 => Err(damaged("a match of an LZVN stream has the distance 0")),
        distance => Ok(distance),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes to at most `len` bytes after `before`.
    fn decoded(before: &[u8], stored: &[u8], len: usize) -> io::Result<Vec<u8>> {
        let mut unit = before.to_vec();
        unit.resize(before.len() + len, 0);
        let end = decode(stored, &mut unit, before.len())?;
        Ok(unit[before.len()..end].to_vec())
    }

    #[test]
    fn each_operation_is_decoded() {
        let cases: [(&[u8], &[u8]); 9] = [
            // Two literals, a match of 3 at distance 2, the end.
            (&[0x80, 2, b'x', b'y', 6], b"xyxyx"),
            // A match with a distance of two bytes, without literals; nothing; nothing.
            (&[0x0e, 0x16, 0x07, 3, 0, 6], b"abc"),
            // One literal, then a match of 4 at the same distance.
            (
                &[0x00, 1, 0x4e, b'z', 6],
                b"cccz".iter().chain(b"zzzz").copied().collect::<Vec<_>>().leak(),
            ),
            // Three literals and a match of 3 + (1 << 2 | 2).
            (&[0xb9, 3 << 2 | 2, 0, b'p', b'q', b'r', 6], b"pqrpqrpqrpqr"),
            (&[0xe2, b'k', b'l', 6], b"kl"),
            (
                &[0xe0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 6],
                &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
            ),
            (&[0x00, 3, 0xf2, 6], b"abcab"),
            (&[0x00, 1, 0xf0, 1, 6], &[b'c'; 20]),
            (&[6], b""),
        ];
        for (stored, expected) in cases {
            let found = decoded(b"abc", stored, 100).expect("decodes");
            assert_eq!(found, expected, "{stored:02x?}");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let cases: [&[u8]; 9] = [
            &[],
            &[0x70],
            &[0xd5],
            &[0x1e],
            &[0x00, 4, 6],
            &[0x00, 0, 6],
            &[0xf3, 6],
            &[0xe3, 1],
            &[0xe0],
        ];
        for stored in cases {
            let error = decoded(b"abc", stored, 100).expect_err("damaged");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{stored:02x?}");
        }
        // What does not fit is cut off.
        assert_eq!(decoded(b"abc", &[0x00, 1, 0xf0, 255], 5).expect("decodes"), b"ccccc");
    }
}
