//! Compresses and decompresses whole units (a qcow2 cluster, a VMDK grain) with libdeflate.

use super::{inflate_prefix, too_long, too_short};
use crate::storage::codec::{noise, spare};
use libdeflater::{CompressionLvl, DecompressionError};
use std::io;

/// Inflates with libdeflate; falls back to zlib-rs for streams that are longer than the unit,
/// which libdeflate rejects.
pub(in crate::storage::codec) struct Inflater {
    fast: libdeflater::Decompressor,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { fast: libdeflater::Decompressor::new() }
    }
}

impl Inflater {
    pub(in crate::storage::codec) fn deflate(
        &mut self,
        stored: &[u8],
        unit: &mut [u8],
    ) -> io::Result<()> {
        let outcome = self.fast.deflate_decompress(stored, unit);
        Self::complete(outcome, stored, unit, false)
    }

    pub(in crate::storage::codec) fn zlib(
        &mut self,
        stored: &[u8],
        unit: &mut [u8],
    ) -> io::Result<()> {
        let outcome = self.fast.zlib_decompress(stored, unit);
        Self::complete(outcome, stored, unit, true)
    }

    pub(in crate::storage::codec) fn zlib_exactly(
        &mut self,
        stored: &[u8],
        unit: &mut [u8],
    ) -> io::Result<()> {
        match self.fast.zlib_decompress(stored, unit) {
            Err(DecompressionError::InsufficientSpace) => Err(too_long(unit.len())),
            outcome => Self::complete(outcome, stored, unit, true),
        }
    }

    fn complete(
        outcome: Result<usize, DecompressionError>,
        stored: &[u8],
        unit: &mut [u8],
        zlib_header: bool,
    ) -> io::Result<()> {
        match outcome {
            Ok(n) if n == unit.len() => Ok(()),
            Ok(n) => Err(too_short(n, unit.len())),
            // The stream is longer than the unit: the rest is ignored.
            Err(DecompressionError::InsufficientSpace) => inflate_prefix(stored, unit, zlib_header),
            Err(DecompressionError::BadData) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "damaged deflate stream"))
            }
        }
    }
}

/// Compresses with libdeflate.
pub(in crate::storage::codec) struct Compressor {
    compressor: libdeflater::Compressor,
    /// Level 0, which uses stored blocks, for incompressible units.
    storer: libdeflater::Compressor,
    /// Whether the stream gets a zlib wrapper.
    zlib_header: bool,
}

impl Compressor {
    pub(in crate::storage::codec) fn new(level: u32, zlib_header: bool) -> Self {
        let compressor = |level| {
            let level = CompressionLvl::new(level as i32).unwrap_or_default();
            libdeflater::Compressor::new(level)
        };
        Self { compressor: compressor(level), storer: compressor(0), zlib_header }
    }

    pub(in crate::storage::codec) fn encode(
        &mut self,
        unit: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let start = out.len();
        let room = spare(out, limit.saturating_sub(1));
        let compressor =
            if noise::is_noise(unit) { &mut self.storer } else { &mut self.compressor };
        let compressed = match self.zlib_header {
            true => compressor.zlib_compress(unit, room),
            false => compressor.deflate_compress(unit, room),
        };
        match compressed {
            Ok(n) => {
                out.truncate(start + n);
                Ok(true)
            }
            Err(libdeflater::CompressionError::InsufficientSpace) => Ok(false),
        }
    }
}
