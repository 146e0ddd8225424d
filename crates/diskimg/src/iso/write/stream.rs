//! An image on its way out: buffers that are filled one after the other, here
//! or in a thread of their own.

use crate::error::{Error, Result};
use crate::storage::buffer::AlignedBuffer;
use crate::storage::number::to_u64;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes that leave at once.
const CAPACITY: usize = 1 << 20;

/// Buffers under way, if a thread fills them.
const AHEAD: usize = 3;

/// Bytes and where in the image they belong.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) position: u64,
    pub(super) bytes: AlignedBuffer,
}

/// Takes a chunk; gives one back to be filled again.
type Flush<'f> = dyn FnMut(Chunk) -> Result<Chunk> + 'f;

/// The image's bytes in order, some of them skipped where the sink has them already.
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

    /// Where the next byte belongs.
    pub(super) fn position(&self) -> u64 {
        self.chunk.position + to_u64(self.used)
    }

    /// Room for what comes next: at least one byte, at most `want`.
    pub(super) fn room(&mut self, want: u64) -> Result<&mut [u8]> {
        if self.used == CAPACITY {
            self.flush()?;
        }
        let end = (CAPACITY - self.used).min(usize::try_from(want).unwrap_or(CAPACITY));
        Ok(&mut self.chunk.bytes[self.used..self.used + end])
    }

    /// That much of the room is filled.
    pub(super) fn filled(&mut self, len: usize) {
        self.used += len;
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.room(to_u64(bytes.len()))?;
            let (now, later) = bytes.split_at(room.len());
            room.copy_from_slice(now);
            self.filled(now.len());
            bytes = later;
        }
        Ok(())
    }

    pub(super) fn zeros(&mut self, mut len: u64) -> Result<()> {
        while len > 0 {
            let room = self.room(len)?;
            room.fill(0);
            let now = room.len();
            self.filled(now);
            len -= to_u64(now);
        }
        Ok(())
    }

    /// Zeros up to this byte of the image.
    pub(super) fn zeros_to(&mut self, position: u64) -> Result<()> {
        self.zeros(position.saturating_sub(self.position()))
    }

    /// Leaves these bytes out: they are there already.
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

/// Runs what fills the stream, and `write`s each chunk, in order.
pub(super) fn run(
    fill: &mut dyn FnMut(&mut Stream<'_>) -> Result<()>,
    write: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut flush = |chunk: Chunk| write(chunk.position, &chunk.bytes).map(|()| chunk);
    let mut stream = Stream::new(&mut flush);
    fill(&mut stream)?;
    stream.flush()
}

/// The same, with what fills the stream ahead of what is written, in a thread of its own.
pub(super) fn run_ahead(
    fill: &mut (dyn FnMut(&mut Stream<'_>) -> Result<()> + Send),
    write: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let (full, filled) = sync_channel(AHEAD);
    let (empty, emptied) = sync_channel(AHEAD + 2);
    std::thread::scope(|scope| {
        let filler = scope.spawn(move || run_filler(fill, full, emptied));
        // Both ends are gone when writing is over, however it ends: or the filler would wait
        // for ever.
        let write_all = move || {
            for chunk in filled {
                let Chunk { position, ref bytes } = chunk;
                write(position, bytes)?;
                // The filler may be done, and want none.
                let _ = empty.send(chunk);
            }
            Ok(())
        };
        let written = write_all();
        let made = filler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(made)
    })
}

fn run_filler(
    fill: &mut (dyn FnMut(&mut Stream<'_>) -> Result<()> + Send),
    full: SyncSender<Chunk>,
    emptied: Receiver<Chunk>,
) -> Result<()> {
    let mut made = 1;
    let mut flush = |chunk: Chunk| {
        // Nobody takes it: writing failed, which is what will be said.
        full.send(chunk).map_err(|_| Error::cancelled())?;
        if made <= AHEAD {
            made += 1;
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
        assert!(out[3 << 20..4 << 20].iter().all(|&byte| byte == 0xEE), "left out");
        for (n, bytes) in out[4 << 20..].chunks(700_000).enumerate() {
            assert!(bytes.iter().all(|&byte| usize::from(byte) == n));
        }
    }

    #[test]
    fn all_bytes_come_out_where_they_belong() {
        check(|write| run(&mut fill, write));
        check(|write| run_ahead(&mut fill, write));
    }

    #[test]
    fn whichever_side_fails_is_heard() {
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
