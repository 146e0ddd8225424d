//! Telling bytes that no codec shrinks (compressed or encrypted already) at a
//! glance: trying costs deflate a thousand times as much.
//!
//! A unit is noise if its bytes are as evenly spread as chance would have it,
//! and if hardly anything in it was there before.

/// Bytes looked at to begin with: most units show their kind at once.
const GLANCE: usize = 1024;

/// Values that noise of a [`GLANCE`] has nearly always (251 on average); text
/// and code have far fewer.
const VALUES_OF_NOISE: usize = 235;

/// Stretches of the unit in which bytes are counted, and their length.
const STRETCHES: usize = 16;
const STRETCH: usize = 512;

/// Positions between two that are remembered.
const STEP: usize = 8;

/// Entries of the table of what was there before: `1 << TABLE_BITS`.
const TABLE_BITS: u32 = 13;

/// Bytes that must repeat to be worth something to deflate.
const REPEAT: usize = 8;

/// True if deflate would not make `unit` smaller by more than a percent or so.
pub(super) fn is_noise(unit: &[u8]) -> bool {
    unit.len() >= 2 * GLANCE
        && values(&unit[..GLANCE]) >= VALUES_OF_NOISE
        && is_evenly_spread(unit)
        && !repeats(unit)
}

/// How many different bytes there are.
fn values(bytes: &[u8]) -> usize {
    let mut seen = [false; 256];
    for &byte in bytes {
        seen[usize::from(byte)] = true;
    }
    seen.iter().filter(|&&seen| seen).count()
}

/// True if two bytes picked from the unit are the same hardly more often than
/// once in 256 times: an entropy (Rényi's, of order 2) of 7.95 bits or more.
fn is_evenly_spread(unit: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    let mut n = 0u64;
    let step = (unit.len() / STRETCHES).max(STRETCH);
    for stretch in unit.chunks(step) {
        let stretch = &stretch[..stretch.len().min(STRETCH)];
        n += stretch.len() as u64;
        for &byte in stretch {
            counts[usize::from(byte)] += 1;
        }
    }
    let pairs: u64 = counts.iter().map(|&c| u64::from(c) * u64::from(c).saturating_sub(1)).sum();
    // 8192 bytes of noise exceed chance by 1 % less than once in 10,000 units.
    pairs * 256 * 100 < n * (n - 1) * 103
}

/// True if more than one byte in 128 could be had by repeating earlier ones.
fn repeats(unit: &[u8]) -> bool {
    let mut table = [0u32; 1 << TABLE_BITS];
    let mut repeated = 0;
    let word = |at: usize| -> Option<u64> {
        unit.get(at..at + REPEAT)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    };
    let mut at = 0;
    while let Some(here) = word(at) {
        let slot = (here.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TABLE_BITS)) as usize;
        let before = table[slot] as usize;
        if before < at && word(before) == Some(here) {
            repeated += REPEAT;
            at += REPEAT;
            continue;
        }
        if at.is_multiple_of(STEP) {
            table[slot] = at as u32;
        }
        at += 1;
    }
    repeated * 128 > unit.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::codec::tests::noise;

    #[test]
    fn noise_of_any_unit_is_told() {
        for len in [4096, 65536, 2 << 20] {
            assert!(is_noise(&noise(len)), "{len}");
        }
    }

    #[test]
    fn what_deflate_shrinks_is_no_noise() {
        let noise = noise(65536);
        let text = b"It was the best of times, it was the worst of times. ".repeat(1300);
        // Evenly spread, but each block comes twice.
        let twice: Vec<u8> = noise.chunks(1000).flat_map(|b| [b, b].concat()).take(65536).collect();
        // Seven bits of noise in each byte.
        let seven_bits: Vec<u8> = noise.iter().map(|b| b & 0x7f).collect();
        // A quarter is zeros.
        let holes: Vec<u8> =
            noise.iter().enumerate().map(|(i, &b)| if i % 4096 < 1024 { 0 } else { b }).collect();
        let counter: Vec<u8> = (0..16384u32).flat_map(|i| (i * 40503).to_le_bytes()).collect();
        for (name, unit) in [
            ("zeros", vec![0; 65536]),
            ("text", text),
            ("twice", twice),
            ("seven bits", seven_bits),
            ("holes", holes),
            ("counter", counter),
        ] {
            assert!(!is_noise(&unit), "{name}");
        }
    }
}
