//! The output stream of an image: buffers that are filled in order, in the same thread or in a
//! separate one.

use crate::error::{Error, Result};
use crate::storage::buffer::AlignedBuffer;
use crate::storage::number::to_u64;
use crate::storage::threads;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Length of a chunk in bytes.
const CAPACITY: usize = 1 << 20;

/// Maximum number of filled chunks that wait to be written.
const AHEAD: usize = 3;

/// A part of the image.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Byte offset in the image.
    pub(super) position: u64,
    pub(super) bytes: AlignedBuffer,
}

/// Writes a chunk, and returns one to be filled.
type Flush<'f> = dyn FnMut(Chunk) -> Result<Chunk> + 'f;

/// A stream of the bytes of an image, in order. Ranges that the sink already has can be skipped.
pub(super) struct Stream<'f> {
    chunk: Chunk,
    used: usize,
    flush: &'f mut Flush<'f>,
}

impl<'f> Stream<'f> {
    fn new(flush: &'f mut Flush<'f>) -> Self {
        let mut chunk = Chunk::default();
        chunk.bytes.set_len(CAPACITY);
        Self { chunk, used: 0, flush }
    }

    /// Returns the byte offset of the next byte in the image.
    pub(super) fn position(&self) -> u64 {
        self.chunk.position + to_u64(self.used)
    }

    /// Returns a buffer for the next bytes: at least one byte, at most `max`.
    pub(super) fn buffer(&mut self, max: u64) -> Result<&mut [u8]> {
        if self.used == CAPACITY {
            self.flush()?;
        }
        let end = (CAPACITY - self.used).min(usize::try_from(max).unwrap_or(CAPACITY));
        Ok(&mut self.chunk.bytes[self.used..self.used + end])
    }

    /// Appends the first `len` bytes of the buffer that was returned last.
    pub(super) fn advance(&mut self, len: usize) {
        self.used += len;
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let buffer = self.buffer(to_u64(bytes.len()))?;
            let (now, later) = bytes.split_at(buffer.len());
            buffer.copy_from_slice(now);
            self.advance(now.len());
            bytes = later;
        }
        Ok(())
    }

    pub(super) fn zeros(&mut self, mut len: u64) -> Result<()> {
        while len > 0 {
            let buffer = self.buffer(len)?;
            buffer.fill(0);
            let now = buffer.len();
            self.advance(now);
            len -= to_u64(now);
        }
        Ok(())
    }

    /// Writes zeros up to the byte offset `position` of the image.
    pub(super) fn zeros_to(&mut self, position: u64) -> Result<()> {
        self.zeros(position.saturating_sub(self.position()))
    }

    /// Skips `len` bytes that the sink already has.
    pub(super) fn skip(&mut self, len: u64) -> Result<()> {
        self.flush()?;
        self.chunk.position += len;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.used == 0 {
            return Ok(());
        }
        let next = self.position();
        self.chunk.bytes.truncate(self.used);
        self.chunk = (self.flush)(std::mem::take(&mut self.chunk))?;
        self.chunk.position = next;
        self.chunk.bytes.set_len(CAPACITY);
        self.used = 0;
        Ok(())
    }
}

/// Runs `fill`, and calls `write` with each chunk, in order.
pub(super) fn run(
    fill: &mut dyn FnMut(&mut Stream<'_>) -> Result<()>,
    write: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut flush = |chunk: Chunk| write(chunk.position, &chunk.bytes).map(|()| chunk);
    let mut stream = Stream::new(&mut flush);
    fill(&mut stream)?;
    stream.flush()
}

/// Like [`run`], but runs `fill` in a separate thread, ahead of `write`, if one can be started.
pub(super) fn run_ahead(
    fill: &mut (dyn FnMut(&mut Stream<'_>) -> Result<()> + Send),
    write: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let (full, filled) = sync_channel(AHEAD);
    let (empty, emptied) = sync_channel(AHEAD + 2);
    let outcome = std::thread::scope(|scope| {
        let (fill, write) = (&mut *fill, &mut *write);
        let filler = threads::spawn(scope, move || run_filler(fill, full, emptied))?;
        // The closure owns its ends of the channels and drops them in any case. Otherwise the
        // filler would block forever after an error.
        let write_all = move || {
            for chunk in filled {
                let Chunk { position, ref bytes } = chunk;
                write(position, bytes)?;
                // Fails if the filler has finished.
                let _ = empty.send(chunk);
            }
            Ok(())
        };
        let written = write_all();
        let filled = filler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Some(written.and(filled))
    });
    outcome.unwrap_or_else(|| run(fill, write))
}

fn run_filler(
    fill: &mut (dyn FnMut(&mut Stream<'_>) -> Result<()> + Send),
    full: SyncSender<Chunk>,
    emptied: Receiver<Chunk>,
) -> Result<()> {
    let mut chunks = 1;
    let mut flush = |chunk: Chunk| {
        // Fails if writing failed. That error is returned by `run_ahead`, not this one.
        full.send(chunk).map_err(|_| Error::cancelled())?;
        if chunks <= AHEAD {
            chunks += 1;
            return Ok(emptied.try_recv().unwrap_or_default());
        }
        emptied.recv().map_err(|_| Error::cancelled())
    };
    let mut stream = Stream::new(&mut flush);
    fill(&mut stream)?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(stream: &mut Stream<'_>) -> Result<()> {
        stream.write(&[1; 5])?;
        stream.zeros_to(3 << 20)?;
        stream.skip(1 << 20)?;
        for n in 0..9u8 {
            stream.write(&vec![n; 700_000])?;
        }
        Ok(())
    }

    fn check(run: impl FnOnce(&mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()>) {
        let mut out = vec![0xEE; 4 << 20];
        run(&mut |position, bytes| {
            out.truncate(usize::try_from(position).expect("small").max(out.len()));
            let position = position as usize;
            out.resize(out.len().max(position + bytes.len()), 0xEE);
            out[position..position + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })
        .expect("writes");
        assert_eq!(out.len(), (4 << 20) + 9 * 700_000);
        assert_eq!((&out[..5], &out[5..3 << 20]), (&[1; 5][..], &vec![0; (3 << 20) - 5][..]));
        assert!(out[3 << 20..4 << 20].iter().all(|&byte| byte == 0xEE), "skipped");
        for (n, bytes) in out[4 << 20..].chunks(700_000).enumerate() {
            assert!(bytes.iter().all(|&byte| usize::from(byte) == n));
        }
    }

    #[test]
    fn all_bytes_are_written_at_their_offsets() {
        check(|write| run(&mut fill, write));
        check(|write| run_ahead(&mut fill, write));
    }

    #[test]
    fn an_error_of_either_side_is_returned() {
        let mut fails = |stream: &mut Stream<'_>| {
            stream.zeros(9 << 20)?;
            Err(Error::invalid("filling"))
        };
        let error = run_ahead(&mut fails, &mut |_, _| Ok(())).expect_err("fails");
        assert!(error.to_string().contains("filling"));
        let mut failing = |_, _: &[u8]| Err(Error::invalid("writing"));
        let error = run_ahead(&mut fails, &mut failing).expect_err("fails");
        assert!(error.to_string().contains("writing"));
    }
}
