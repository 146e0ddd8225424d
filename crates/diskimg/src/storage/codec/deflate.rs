//! Deflate: libdeflate where a whole buffer will do, zlib-rs where a small
//! window or a lenient end is wanted.

use super::{noise, spare};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use libdeflater::{CompressionLvl, DecompressionError};
use std::io;

/// What clusters are deflated with unless another level is asked for: as small as
/// zlib-rs's own default, 6, and somewhat faster. (QEMU's, zlib's level 6, is 2 % smaller
/// and takes three times as long.)
pub(super) const SMALL_WINDOW_LEVEL: u32 = 5;

/// What grains are deflated with unless another level is asked for: within 2 % of what
/// QEMU writes. libdeflate's own default, 6, is smaller than that, and slower by a third.
pub(super) const ZLIB_LEVEL: u32 = 3;

/// QEMU writes qcow2 clusters with this window (`inflateInit2(-12)`), and
/// readers built on that number fail on anything larger.
const QCOW2_WINDOW_BITS: u8 = 12;

/// How much may follow a unit in its stream: as much as the largest unit holds.
const MAX_REST: u64 = 64 << 20;

/// Inflates with libdeflate, and with zlib-rs what libdeflate is too strict for.
pub(super) struct Inflater {
    fast: libdeflater::Decompressor,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { fast: libdeflater::Decompressor::new() }
    }
}

impl Inflater {
    pub(super) fn deflate(&mut self, stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
        let outcome = self.fast.deflate_decompress(stored, unit);
        Self::settle(outcome, stored, unit, false)
    }

    pub(super) fn zlib(&mut self, stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
        let outcome = self.fast.zlib_decompress(stored, unit);
        Self::settle(outcome, stored, unit, true)
    }

    pub(super) fn zlib_exactly(&mut self, stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
        match self.fast.zlib_decompress(stored, unit) {
            Err(DecompressionError::InsufficientSpace) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the deflate stream gives more than {} bytes", unit.len()),
            )),
            outcome => Self::settle(outcome, stored, unit, true),
        }
    }

    fn settle(
        outcome: Result<usize, DecompressionError>,
        stored: &[u8],
        unit: &mut [u8],
        zlib_header: bool,
    ) -> io::Result<()> {
        match outcome {
            Ok(n) if n == unit.len() => Ok(()),
            Ok(n) => Err(too_short(n, unit.len())),
            // The stream goes on behind the unit's end. The unit is all we want.
            Err(DecompressionError::InsufficientSpace) => inflate_prefix(stored, unit, zlib_header),
            Err(DecompressionError::BadData) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "damaged deflate stream"))
            }
        }
    }
}

/// Fills `unit` from a stream that may be longer.
fn inflate_prefix(stored: &[u8], unit: &mut [u8], zlib_header: bool) -> io::Result<()> {
    let mut stream = Decompress::new(zlib_header);
    let status = stream.decompress(stored, unit, FlushDecompress::Finish);
    let filled = stream.total_out() as usize;
    match status {
        // Only an envelope has a checksum, and it covers what is left over too.
        Ok(_) if filled == unit.len() && zlib_header => verify_rest(stream, stored),
        Ok(_) if filled == unit.len() => Ok(()),
        Ok(_) => Err(too_short(filled, unit.len())),
        Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
    }
}

/// Inflates what is left of a stream, for the checksum at its end.
fn verify_rest(mut stream: Decompress, stored: &[u8]) -> io::Result<()> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let most = stream.total_out() + MAX_REST;
    let mut rest = vec![0; 16 << 10];
    while stream.total_out() < most {
        let before = (stream.total_in(), stream.total_out());
        let input = &stored[before.0 as usize..];
        let status = stream.decompress(input, &mut rest, FlushDecompress::None);
        match status.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))? {
            Status::StreamEnd => return Ok(()),
            _ if (stream.total_in(), stream.total_out()) == before => {
                return Err(invalid("the zlib stream has no end"));
            }
            _ => {}
        }
    }
    Err(invalid("the zlib stream does not end"))
}

fn too_short(got: usize, wanted: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the deflate stream gives {got} bytes, {wanted} wanted"),
    )
}

/// Bare deflate with a 4 KiB window (zlib-rs: libdeflate's window is fixed).
pub(super) struct SmallWindowDeflater {
    stream: Compress,
    level: Compression,
}

impl SmallWindowDeflater {
    pub(super) fn new(level: u32) -> Self {
        let level = Compression::new(level);
        Self { stream: Self::fresh(level), level }
    }

    fn fresh(level: Compression) -> Compress {
        Compress::new_with_window_bits(level, false, QCOW2_WINDOW_BITS)
    }

    /// zlib's bound for a window other than the largest (`deflateBound`).
    fn bound(len: usize) -> usize {
        len + len.div_ceil(8) + len.div_ceil(64) + 11
    }

    pub(super) fn encode(
        &mut self,
        unit: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        if limit <= unit.len() && noise::is_noise(unit) {
            return Ok(false);
        }
        // Always room for the worst case: zlib-rs (0.6.8) keeps part of an
        // output that did not fit through `reset`, and panics over it later.
        let start = out.len();
        let room = spare(out, Self::bound(unit.len()));
        let status = self.stream.compress(unit, room, FlushCompress::Finish);
        let written = self.stream.total_out() as usize;
        out.truncate(start + written);
        if matches!(status, Ok(Status::StreamEnd)) {
            self.stream.reset();
            return Ok(written < limit);
        }
        self.stream = Self::fresh(self.level);
        status.map_err(io::Error::other).map(|_| false)
    }
}

/// zlib with libdeflate.
pub(super) struct ZlibCompressor {
    compressor: libdeflater::Compressor,
    /// Puts what will not shrink into stored blocks.
    storer: libdeflater::Compressor,
}

impl ZlibCompressor {
    pub(super) fn new(level: u32) -> Self {
        let compressor = |level| {
            let level = CompressionLvl::new(level as i32).unwrap_or_default();
            libdeflater::Compressor::new(level)
        };
        Self { compressor: compressor(level), storer: compressor(0) }
    }

    pub(super) fn encode(
        &mut self,
        unit: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let start = out.len();
        let room = spare(out, limit.saturating_sub(1));
        let compressor =
            if noise::is_noise(unit) { &mut self.storer } else { &mut self.compressor };
        match compressor.zlib_compress(unit, room) {
            Ok(n) => {
                out.truncate(start + n);
                Ok(true)
            }
            Err(libdeflater::CompressionError::InsufficientSpace) => Ok(false),
        }
    }
}
