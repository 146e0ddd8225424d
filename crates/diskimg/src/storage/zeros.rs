//! Zeros: how they are told, and some to write.

/// To write, hash or hand out where nothing is stored.
pub(crate) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// True if every byte is zero; of no bytes, too.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Data that is not zero almost always shows it at once: look there before
    // the wide scan. 64-byte blocks OR-folded in u64 lanes vectorise on every
    // target, without `unsafe`.
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
    fn one_set_bit_anywhere_is_found() {
        for len in [0, 1, 63, 64, 65, 4096, 4099] {
            let mut bytes = vec![0u8; len];
            assert!(is_zero(&bytes));
            for at in (0..len).step_by(7).chain(len.checked_sub(1)) {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "bit at {at} of {len} missed");
                bytes[at] = 0;
            }
        }
    }
}
