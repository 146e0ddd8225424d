//! Buffers that begin with a page.
//!
//! Two ask for that: direct I/O, which works with no others, and speed. The
//! kernel copies from the page cache into a buffer that begins anywhere else at
//! a fraction of the speed, on processors whose `rep movsb` wants both sides
//! aligned: measured, five times as slow.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// What addresses of buffers, and offsets and lengths of direct I/O, are
/// multiples of.
pub(crate) const PAGE: usize = 4096;

/// Bytes that begin with a page.
#[derive(Default)]
pub(crate) struct AlignedBuffer {
    /// Longer than what is in use by a page, so that an aligned part fits.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// Makes it `len` bytes long. What they hold then is left over from earlier
    /// use: the caller fills them.
    pub(crate) fn set_len(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < self.start + len {
            self.bytes = vec![0; len + PAGE];
            self.start = self.bytes.as_ptr().align_offset(PAGE).min(PAGE);
        }
        self.len = len;
        self
    }

    /// Leaves out what is behind `len`.
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
    fn whatever_its_length_it_begins_with_a_page() {
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
