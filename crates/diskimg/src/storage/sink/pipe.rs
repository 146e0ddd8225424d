//! Sequential writers, such as pipes, as sinks.

use super::Sink;
use crate::storage::lock;
use crate::storage::zeros::ZEROS;
use std::fmt;
use std::io::{self, Write};
use std::sync::Mutex;

/// A writer that cannot seek, such as standard output, a socket or a compressor.
pub struct PipeSink {
    state: Mutex<State>,
}

struct State {
    writer: Box<dyn Write + Send>,
    position: u64,
}

impl PipeSink {
    /// Creates a sink that writes to `writer`.
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
    /// Writes zeros up to `offset`, because ranges that the caller skips must read as zeros.
    fn advance_to(&mut self, offset: u64) -> io::Result<()> {
        if offset < self.position {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("a pipe cannot seek back from offset {} to {offset}", self.position),
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
