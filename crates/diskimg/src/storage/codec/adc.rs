//! Apple Data Compression, which DMGs of the 1990s and 2000s use.
//!
//! ```text
//!   1nnnnnnn                      n + 1 literal bytes follow
//!   00llll dd  dddddddd           a match: length l + 3, distance d + 1
//!   01llllll   dddddddd dddddddd  a match: length l + 4, distance d + 1
//! ```
//!
//! There is no official specification. This is the description in libmodi's documentation of the
//! format ("Mac OS disk image types").

use super::matches::{copy_match, too_short};
use std::io;

/// Decompresses until the unit is full.
///
/// # Errors
/// Returns [`io::ErrorKind::InvalidData`] if the stream is damaged or yields fewer bytes.
pub(super) fn decode(mut stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
    let mut at = 0;
    while at < unit.len() {
        let before = at;
        stored = match *stored {
            [first @ 0x80..=0xff, ref rest @ ..] => {
                let len = usize::from(first & 0x7f) + 1;
                let Some((literals, rest)) = rest.split_at_checked(len) else {
                    return Err(too_short("ADC", before, unit.len()));
                };
                let len = len.min(unit.len() - at);
                unit[at..at + len].copy_from_slice(&literals[..len]);
                at += len;
                rest
            }
            [first @ 0x40..=0x7f, high, low, ref rest @ ..] => {
                let distance = usize::from(u16::from_be_bytes([high, low])) + 1;
                copy_match(unit, &mut at, usize::from(first & 0x3f) + 4, distance)?;
                rest
            }
            [first @ 0..=0x3f, low, ref rest @ ..] => {
                let distance = usize::from(u16::from_be_bytes([first & 3, low])) + 1;
                copy_match(unit, &mut at, usize::from(first >> 2) + 3, distance)?;
                rest
            }
            _ => return Err(too_short("ADC", before, unit.len())),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_both_kinds_of_matches_are_decoded() {
        // "abc", a match of 4 bytes at distance 3, one of 5 at distance 1, one of 67 at distance 2.
        let stored = [0x82, b'a', b'b', b'c', 0x04, 0x02, 0x41, 0, 0, 0x7f, 0, 1];
        let mut unit = [0; 3 + 4 + 5 + 67];
        decode(&stored, &mut unit).expect("decodes");
        let mut expected = b"abcabcaaaaaa".to_vec();
        expected.extend([b'a'; 67]);
        assert_eq!(unit, &*expected);
    }

    #[test]
    fn damage_is_an_error_wherever_it_is() {
        let mut unit = [0; 10];
        for stored in [
            &[][..],
            // Fewer literals than announced, a match without its distance.
            &[0x83, 1, 2],
            &[0x80, 1, 0x04],
            &[0x80, 1, 0x41, 0],
            // A distance beyond the start.
            &[0x80, 1, 0x04, 0x01],
            // Ends early.
            &[0x81, 1, 2],
        ] {
            let error = decode(stored, &mut unit).expect_err("damaged");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{stored:?}");
        }
        // What does not fit is cut off.
        decode(&[0x80, 7, 0x7f, 0, 0], &mut unit).expect("decodes");
        assert_eq!(unit, [7; 10]);
    }
}
