//! Comparison of contents that reads little of contents that differ.

use crate::storage::buffer::AlignedBuffer;
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use std::io;
use twox_hash::XxHash3_64;

/// Length in bytes of each of the three samples.
const SAMPLE: u64 = 4096;

/// Number of bytes compared at once.
const CHUNK: u64 = 256 << 10;

/// Returns a digest of the start, the middle and the end. Contents with different digests differ.
pub(super) fn sample(source: &dyn Source) -> io::Result<u64> {
    let len = source.len();
    let mut buffer = [0; to_usize(SAMPLE)];
    let mut digest = XxHash3_64::with_seed(len);
    for at in [0, len / 2, len.saturating_sub(SAMPLE)] {
        let part = &mut buffer[..to_usize((len - at).min(SAMPLE))];
        source.read_exact_at(part, at)?;
        std::hash::Hasher::write(&mut digest, part);
    }
    Ok(std::hash::Hasher::finish(&digest))
}

/// Returns true if two contents are equal, byte for byte.
pub(super) fn is_same(a: &dyn Source, b: &dyn Source) -> io::Result<bool> {
    let len = a.len();
    if len != b.len() {
        return Ok(false);
    }
    let mut buffers = [AlignedBuffer::default(), AlignedBuffer::default()];
    let mut at = 0;
    while at < len {
        let chunk = (len - at).min(CHUNK);
        for (buffer, source) in buffers.iter_mut().zip([a, b]) {
            source.read_exact_at(buffer.set_len(to_usize(chunk)), at)?;
        }
        if *buffers[0] != *buffers[1] {
            return Ok(false);
        }
        at += chunk;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    #[test]
    fn a_different_byte_is_found_by_comparison_and_at_three_positions_by_the_sample() {
        for len in [1, 4096, 5000, 600_000usize] {
            let first = MemorySource::new(vec![7; len]);
            assert!(is_same(&first, &MemorySource::new(vec![7; len])).expect("reads"));
            for at in [0, len / 2, len / 3, len - 1] {
                let mut bytes = vec![7; len];
                bytes[at] = 8;
                let other = MemorySource::new(bytes);
                assert!(!is_same(&first, &other).expect("reads"), "{len} {at}");
                if at != len / 3 {
                    let samples = [&first, &other].map(|source| sample(source).expect("reads"));
                    assert_ne!(samples[0], samples[1], "{len} {at}");
                }
            }
        }
    }
}
