//! A pipe: bytes leave once, in order.

use super::Sink;
use crate::storage::lock;
use crate::storage::zeros::ZEROS;
use std::fmt;
use std::io::{self, Write};
use std::sync::Mutex;

/// A writer without positions: standard output, a socket, a compressor.
pub struct PipeSink {
    state: Mutex<State>,
}

struct State {
    writer: Box<dyn Write + Send>,
    position: u64,
}

impl PipeSink {
    /// Writes to `writer`, from its present position on.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self { state: Mutex::new(State { writer: Box::new(writer), position: 0 }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for PipeSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PipeSink(at {})", self.lock().position)
    }
}

impl State {
    /// Fills the gap up to `offset` with zeros: what was skipped is a hole.
    fn advance_to(&mut self, offset: u64) -> io::Result<()> {
        if offset < self.position {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("a pipe cannot go back to {offset} from {}", self.position),
            ));
        }
        while self.position < offset {
            let n = (offset - self.position).min(ZEROS.len() as u64);
            self.writer.write_all(&ZEROS[..n as usize])?;
            self.position += n;
        }
        Ok(())
    }
}

impl Sink for PipeSink {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.advance_to(offset)?;
        state.writer.write_all(buf)?;
        state.position += buf.len() as u64;
        Ok(())
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn is_zeroed(&self) -> bool {
        true
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.lock().advance_to(len)
    }

    fn flush(&self) -> io::Result<()> {
        self.lock().writer.flush()
    }
}
