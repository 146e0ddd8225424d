//! The choices of a sequence, which its seed determines.

use super::model::SECTOR;

/// Steele, Lea and Flood's SplitMix64.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// Returns a number less than `end`, which must not be 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Returns true once in `n` times.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Returns a byte that is 0 once in four times.
    pub(super) fn byte(&mut self) -> u8 {
        if self.one_in(4) { 0 } else { self.next() as u8 }
    }

    /// Returns the size of a disk in bytes: up to 2 MiB, also odd numbers of sectors.
    pub(super) fn size(&mut self) -> u64 {
        match self.below(4) {
            0 => (1 + self.below(32)) * (64 << 10),
            1 => (1 + self.below(64)) * SECTOR,
            _ => (1 + self.below(4096)) * SECTOR,
        }
    }
}
