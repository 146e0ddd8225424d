//! Bits of sectors, as sector bitmaps have them: least significant first (MS-VHDX 2.4).

use crate::storage::number::to_usize;
use std::ops::Range;

/// Sets the bits of these sectors.
pub(super) fn set(bits: &mut [u8], sectors: Range<u64>) {
    change(bits, sectors, |byte, mask| *byte |= mask);
}

/// Clears the bits of these sectors.
pub(super) fn clear(bits: &mut [u8], sectors: Range<u64>) {
    change(bits, sectors, |byte, mask| *byte &= !mask);
}

/// Returns true if the bits of all of these sectors are set.
pub(super) fn all_set(bits: &[u8], sectors: Range<u64>) -> bool {
    masks(sectors).all(|(index, mask)| bits[index] & mask == mask)
}

fn change(bits: &mut [u8], sectors: Range<u64>, change: impl Fn(&mut u8, u8)) {
    for (index, mask) in masks(sectors) {
        change(&mut bits[index], mask);
    }
}

/// Returns the bytes that have bits of these sectors, and which bits.
fn masks(sectors: Range<u64>) -> impl Iterator<Item = (usize, u8)> {
    let Range { start, end } = sectors;
    (start / 8..end.div_ceil(8)).map(move |byte| {
        let first = start.saturating_sub(byte * 8).min(8);
        let last = (end - byte * 8).min(8);
        let below = |bits: u64| if bits == 8 { u8::MAX } else { !(u8::MAX << bits) };
        (to_usize(byte), below(last) & !below(first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_from_the_least_significant_one() {
        for (sectors, expected) in [
            (0..0, [0, 0, 0]),
            (0..1, [1, 0, 0]),
            (3..6, [0b0011_1000, 0, 0]),
            (7..17, [0x80, 0xff, 1]),
            (8..16, [0, 0xff, 0]),
            (0..24, [0xff; 3]),
        ] {
            let mut bits = [0; 3];
            set(&mut bits, sectors.clone());
            assert_eq!(bits, expected, "{sectors:?}");
            assert!(all_set(&bits, sectors.clone()));
            assert!(!all_set(&bits, 0..24) || sectors == (0..24));
            let mut bits = [0xff; 3];
            clear(&mut bits, sectors);
            assert_eq!(bits, expected.map(|byte: u8| !byte));
        }
    }
}
