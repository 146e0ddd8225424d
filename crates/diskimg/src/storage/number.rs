//! From one width of integer to another, without `as`, which would drop bits in silence.
//!
//! What an image says is checked before it is used, so that it fits where it goes. Should a check
//! be missing, these give the largest value there is: an index or a length that fails, instead of
//! one that looks right.

/// A length or an index in memory. No platform that Rust knows has larger ones.
#[allow(clippy::as_conversions)]
pub(crate) const fn to_u64(n: usize) -> u64 {
    n as u64
}

/// Something in memory of this length, or at this index.
#[allow(clippy::as_conversions)]
pub(crate) const fn to_usize(n: u64) -> usize {
    if n > usize::MAX as u64 { usize::MAX } else { n as usize }
}

/// An index or a length of 32 bits: memory is addressed by no fewer here.
#[allow(clippy::as_conversions)]
pub(crate) const fn to_index(n: u32) -> usize {
    n as usize
}

/// What is known to have no more than 32 bits.
pub(crate) fn to_u32(n: impl TryInto<u32>) -> u32 {
    fitting(n, u32::MAX)
}

/// What is known to have no more than 16 bits.
pub(crate) fn to_u16(n: impl TryInto<u16>) -> u16 {
    fitting(n, u16::MAX)
}

/// What is known to have no more than 8 bits.
pub(crate) fn to_u8(n: impl TryInto<u8>) -> u8 {
    fitting(n, u8::MAX)
}

fn fitting<T>(n: impl TryInto<T>, most: T) -> T {
    n.try_into().unwrap_or_else(|_| {
        debug_assert!(false, "a number that was said to fit");
        most
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_stays_what_it_is() {
        assert_eq!(to_u64(usize::MAX), usize::MAX.try_into().expect("no wider"));
        assert_eq!((to_usize(7), to_index(u32::MAX)), (7, 0xffff_ffff));
        assert_eq!(to_u32(u64::from(u32::MAX)), u32::MAX);
        assert_eq!((to_u16(65_535usize), to_u8(255i64)), (u16::MAX, u8::MAX));
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "said to fit"))]
    fn what_does_not_fit_is_never_a_number_that_looks_right() {
        assert_eq!(to_u32(0x1_0000_0001u64), u32::MAX);
    }
}
