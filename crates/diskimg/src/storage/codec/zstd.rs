//! Zstandard.

use super::spare;
use std::io;
use zstd_safe::{CCtx, DCtx, ErrorCode, InBuffer, OutBuffer, get_error_name};

/// Default level. At zstd's default level, 3, which QEMU uses, the output is 1 % smaller and
/// compression takes a third longer.
pub(super) const LEVEL: u32 = 2;

pub(super) struct Decompressor {
    context: DCtx<'static>,
}

impl Default for Decompressor {
    fn default() -> Self {
        Self { context: DCtx::create() }
    }
}

impl Decompressor {
    /// Decompresses until the unit is full. Uses streaming, because a unit may consist of several
    /// frames followed by padding, which one-shot decompression rejects.
    pub(super) fn decode(&mut self, stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
        let wanted = unit.len();
        self.context.init().map_err(damaged)?;
        let mut input = InBuffer::around(stored);
        let mut output = OutBuffer::around(unit);
        while output.pos() < wanted {
            let before = (input.pos(), output.pos());
            self.context.decompress_stream(&mut output, &mut input).map_err(damaged)?;
            if (input.pos(), output.pos()) == before {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the zstd stream yields {} bytes instead of {wanted}", before.1),
                ));
            }
        }
        Ok(())
    }
}

fn damaged(code: ErrorCode) -> io::Error {
    let what = format!("damaged zstd stream: {}", get_error_name(code));
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(super) struct Compressor {
    context: CCtx<'static>,
    level: i32,
}

impl Compressor {
    pub(super) fn new(level: u32) -> Self {
        Self { context: CCtx::create(), level: level as i32 }
    }

    pub(super) fn encode(
        &mut self,
        unit: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        // Provide room for the worst case: zstd does not distinguish an output that does not fit
        // from other errors.
        let start = out.len();
        let room = spare(out, zstd_safe::compress_bound(unit.len()));
        let written = self
            .context
            .compress(room, unit, self.level)
            .map_err(|code| io::Error::other(get_error_name(code)))?;
        out.truncate(start + written);
        Ok(written < limit)
    }
}
