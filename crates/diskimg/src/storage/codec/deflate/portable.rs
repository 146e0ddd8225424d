//! Whole units with zlib-rs, for builds without a C compiler.

use super::{inflate_prefix, too_long};
use crate::storage::codec::{noise, spare};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::io;

/// Inflates units.
#[derive(Default)]
pub(in crate::storage::codec) struct Inflater;

impl Inflater {
    #[allow(clippy::unused_self, reason = "the other implementation keeps a context")]
    pub(in crate::storage::codec) fn deflate(
        &mut self,
        stored: &[u8],
        unit: &mut [u8],
    ) -> io::Result<()> {
        inflate_prefix(stored, unit, false)
    }

    #[allow(clippy::unused_self, reason = "the other implementation keeps a context")]
    pub(in crate::storage::codec) fn zlib(
        &mut self,
        stored: &[u8],
        unit: &mut [u8],
    ) -> io::Result<()> {
        inflate_prefix(stored, unit, true)
    }

    pub(in crate::storage::codec) fn zlib_exactly(
        &mut self,
        stored: &[u8],
        unit: &mut [u8],
    ) -> io::Result<()> {
        self.zlib(stored, unit)?;
        let mut stream = Decompress::new(true);
        let mut longer = vec![0; unit.len() + 1];
        match stream.decompress(stored, &mut longer, FlushDecompress::Finish) {
            Ok(Status::StreamEnd) if stream.total_out() == unit.len() as u64 => Ok(()),
            _ => Err(too_long(unit.len())),
        }
    }
}

/// Compresses with zlib-rs.
pub(in crate::storage::codec) struct Compressor {
    level: Compression,
    /// Whether the stream gets a zlib wrapper.
    zlib_header: bool,
}

impl Compressor {
    pub(in crate::storage::codec) fn new(level: u32, zlib_header: bool) -> Self {
        Self { level: Compression::new(level), zlib_header }
    }

    pub(in crate::storage::codec) fn encode(
        &mut self,
        unit: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let level = if noise::is_noise(unit) { Compression::none() } else { self.level };
        let mut stream = Compress::new(level, self.zlib_header);
        let start = out.len();
        // Room for the worst case, stored blocks, as zlib's `deflateBound` computes it.
        let room = spare(out, unit.len() + unit.len().div_ceil(16_383) * 5 + 64);
        let status =
            stream.compress(unit, room, FlushCompress::Finish).map_err(io::Error::other)?;
        let written = stream.total_out() as usize;
        out.truncate(start + written);
        Ok(status == Status::StreamEnd && written < limit)
    }
}
