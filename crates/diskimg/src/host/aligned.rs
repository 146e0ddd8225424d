//! Buffers that begin at an address a disk can read from and write to.

use crate::host::lock;
use std::sync::Mutex;

/// What offsets, lengths and addresses of direct I/O are multiples of: no disk
/// of today asks for more.
pub(crate) const ALIGNMENT: usize = 4096;

/// Bytes of a buffer: what one direct read or write moves at most.
pub(crate) const CAPACITY: usize = 1 << 20;

/// [`CAPACITY`] bytes that begin at a multiple of [`ALIGNMENT`].
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    /// Longer by the alignment, so that an aligned part fits.
    bytes: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    pub(crate) fn new() -> Self {
        let bytes = vec![0; CAPACITY + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + CAPACITY]
    }
}

/// Buffers that wait for the next thread that needs one.
#[derive(Debug, Default)]
pub(crate) struct AlignedBuffers(Mutex<Vec<AlignedBuffer>>);

impl AlignedBuffers {
    /// Lends a buffer to `work`.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut buffer = lock(&self.0).pop().unwrap_or_else(AlignedBuffer::new);
        let outcome = work(buffer.as_mut_slice());
        lock(&self.0).push(buffer);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let buffers = AlignedBuffers::default();
        let lent = |buffer: &mut [u8]| (buffer.as_ptr() as usize, buffer.len());
        let (address, len) = buffers.with(lent);
        assert!(address.is_multiple_of(ALIGNMENT) && len == CAPACITY);
        assert_eq!(buffers.with(lent), (address, len), "the same one");
        assert_eq!(lock(&buffers.0).len(), 1);
    }
}
