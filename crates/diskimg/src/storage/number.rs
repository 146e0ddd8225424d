//! Integer conversions that saturate, unlike `as`, which truncates.
//!
//! Numbers read from an image are checked before they are converted. If a check is missing, these
//! functions return the maximum value, an index or length that fails instead of one that looks
//! valid.

/// Converts a length or index in memory. `usize` has at most 64 bits on every Rust platform.
#[allow(clippy::as_conversions)]
pub(crate) const fn to_u64(n: usize) -> u64 {
    n as u64
}

/// Converts to a length or index in memory.
#[allow(clippy::as_conversions)]
pub(crate) const fn to_usize(n: u64) -> usize {
    if n > usize::MAX as u64 { usize::MAX } else { n as usize }
}

/// Converts an index or length of 32 bits. `usize` has at least 32 bits on supported platforms.
#[allow(clippy::as_conversions)]
pub(crate) const fn to_index(n: u32) -> usize {
    n as usize
}

/// Converts a number that is known to fit in 32 bits.
pub(crate) fn to_u32(n: impl TryInto<u32>) -> u32 {
    saturating(n, u32::MAX)
}

/// Converts a number that is known to fit in 16 bits.
pub(crate) fn to_u16(n: impl TryInto<u16>) -> u16 {
    saturating(n, u16::MAX)
}

/// Converts a number that is known to fit in 8 bits.
pub(crate) fn to_u8(n: impl TryInto<u8>) -> u8 {
    saturating(n, u8::MAX)
}

fn saturating<T>(n: impl TryInto<T>, max: T) -> T {
    n.try_into().unwrap_or_else(|_| {
        debug_assert!(false, "number does not fit");
        max
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_fit_are_unchanged() {
        assert_eq!(to_u64(usize::MAX), u64::try_from(usize::MAX).expect("at most 64 bits"));
        assert_eq!((to_usize(7), to_index(u32::MAX)), (7, 0xffff_ffff));
        assert_eq!(to_u32(u64::from(u32::MAX)), u32::MAX);
        assert_eq!((to_u16(65_535usize), to_u8(255i64)), (u16::MAX, u8::MAX));
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "number does not fit"))]
    fn a_number_that_does_not_fit_panics_or_saturates() {
        assert_eq!(to_u32(0x1_0000_0001u64), u32::MAX);
    }
}
