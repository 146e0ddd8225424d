//! Fast detection of incompressible units, such as compressed or encrypted data. Trying to compress
//! them takes deflate a thousand times as long.
//!
//! A unit is noise if its byte values are uniformly distributed and hardly any bytes repeat earlier
//! ones.

/// Length in bytes of the prefix that is examined first, which suffices for most units.
const PREFIX: usize = 1024;

/// Minimum number of distinct values in the prefix of a noise unit. Random bytes have 251 on
/// average and rarely fewer than this; text and code have far fewer.
const MIN_DISTINCT: usize = 235;

/// Number of samples of the unit in which byte values are counted.
const SAMPLES: usize = 16;

/// Length of a sample in bytes.
const SAMPLE: usize = 512;

/// Distance in bytes between positions that are entered in the table of earlier positions.
const STEP: usize = 8;

/// Base-2 logarithm of the number of entries of that table.
const TABLE_BITS: u32 = 13;

/// Minimum length in bytes of a repetition that counts.
const REPEAT: usize = 8;

/// Returns true if deflate would shrink `unit` by no more than about one percent.
pub(super) fn is_noise(unit: &[u8]) -> bool {
    unit.len() >= 2 * PREFIX
        && distinct_values(&unit[..PREFIX]) >= MIN_DISTINCT
        && is_uniform(unit)
        && !repeats(unit)
}

/// Returns the number of distinct byte values.
fn distinct_values(bytes: &[u8]) -> usize {
    let mut seen = [false; 256];
    for &byte in bytes {
        seen[usize::from(byte)] = true;
    }
    seen.iter().filter(|&&seen| seen).count()
}

/// Returns true if the probability that two bytes of the samples are equal is at most 3 % above
/// 1/256, which is a collision entropy (Rényi entropy of order 2) of at least 7.95 bits.
fn is_uniform(unit: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    let mut n = 0u64;
    let step = (unit.len() / SAMPLES).max(SAMPLE);
    for chunk in unit.chunks(step) {
        let sample = &chunk[..chunk.len().min(SAMPLE)];
        n += sample.len() as u64;
        for &byte in sample {
            counts[usize::from(byte)] += 1;
        }
    }
    let pairs: u64 = counts.iter().map(|&c| u64::from(c) * u64::from(c).saturating_sub(1)).sum();
    // For 8192 random bytes, the number of equal pairs exceeds its expected value by 1 % in fewer
    // than one of 10,000 units.
    pairs * 256 * 100 < n * (n - 1) * 103
}

/// Returns true if more than one byte in 128 belongs to a repetition of earlier bytes.
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
    fn noise_is_detected_in_units_of_any_size() {
        for len in [4096, 65536, 2 << 20] {
            assert!(is_noise(&noise(len)), "{len}");
        }
    }

    #[test]
    fn compressible_units_are_not_noise() {
        let noise = noise(65536);
        let text = b"It was the best of times, it was the worst of times. ".repeat(1300);
        // Uniform, but each block occurs twice.
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
