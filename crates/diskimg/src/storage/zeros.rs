//! Zero detection, and a buffer of zeros.

/// Zeros to write, hash or return for ranges that are not stored.
pub(crate) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Returns true if every byte is zero. An empty slice is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Non-zero data nearly always has a non-zero byte in its first block, so test block by block.
    // OR-folding 64-byte blocks in u64 lanes vectorizes on every target, without `unsafe`.
    const BLOCK: usize = 64;
    let (blocks, tail) = bytes.as_chunks::<BLOCK>();
    tail.iter().all(|&b| b == 0) && blocks.iter().all(block_is_zero)
}

#[inline]
fn block_is_zero(block: &[u8; 64]) -> bool {
    let (words, _) = block.as_chunks::<8>();
    words.iter().fold(0, |acc, word| acc | u64::from_ne_bytes(*word)) == 0
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn a_single_set_bit_is_detected_at_any_position() {
        for len in [0, 1, 63, 64, 65, 4096, 4099] {
            let mut bytes = vec![0u8; len];
            assert!(is_zero(&bytes));
            for at in (0..len).step_by(7).chain(len.checked_sub(1)) {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "bit at {at} of {len} not detected");
                bytes[at] = 0;
            }
        }
    }
}
