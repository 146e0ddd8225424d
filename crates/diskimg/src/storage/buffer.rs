//! Page-aligned buffers.
//!
//! Direct I/O requires them, and buffered reads are faster with them: on processors whose
//! `rep movsb` is fast only if source and destination are aligned, the kernel was measured to copy
//! from the page cache into an unaligned buffer five times more slowly.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Alignment in bytes of buffers, and of the offsets and lengths of direct I/O.
pub(crate) const PAGE: usize = 4096;

/// Returns whether `len` bytes of memory are free. Takes only address space, and only for a moment.
pub(crate) fn is_free(len: usize) -> bool {
    let mut probe = Vec::<u8>::new();
    let reserved = probe.try_reserve_exact(len).is_ok();
    // Otherwise, the compiler could assume that it succeeds, and leave it out.
    std::hint::black_box(&probe);
    reserved
}

/// Returns `len` zeros.
///
/// # Panics
/// Panics if there is not enough memory. Unlike an abort, which is what Rust's collections do, this
/// leaves time to remove temporary files.
pub(crate) fn zeroed<T: Clone + Default>(len: usize) -> Vec<T> {
    let mut items = Vec::new();
    resize(&mut items, len);
    items
}

/// Sets the length of `items`. Added items are zero.
///
/// # Panics
/// As [`zeroed`].
pub(crate) fn resize<T: Clone + Default>(items: &mut Vec<T>, len: usize) {
    let added = len.saturating_sub(items.len());
    if let Err(error) = items.try_reserve(added) {
        panic!("there is not enough memory: {error}");
    }
    items.resize(len, T::default());
}

/// A buffer that starts at a page boundary.
#[derive(Default)]
pub(crate) struct AlignedBuffer {
    /// One page longer than the largest length, so that an aligned part fits.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// Sets the length in bytes. The contents are unspecified until the caller fills them.
    pub(crate) fn set_len(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < self.start + len {
            self.bytes = zeroed(len + PAGE);
            self.start = self.bytes.as_ptr().align_offset(PAGE).min(PAGE);
        }
        self.len = len;
        self
    }

    /// Shortens the buffer to at most `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.len)
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_any_length_are_page_aligned() {
        let mut buffer = AlignedBuffer::default();
        for len in [0, 1, 5000, 300, 1 << 20, 4096, (1 << 20) + 1] {
            assert_eq!(buffer.set_len(len).len(), len);
            assert!(len == 0 || (buffer.as_ptr() as usize).is_multiple_of(PAGE), "{len}");
        }
        buffer.truncate(10);
        buffer.truncate(20);
        assert_eq!(buffer.len(), 10);
    }
}
