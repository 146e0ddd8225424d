//! Deflate and zlib.
//!
//! With the cargo feature `libdeflate`, whole units are inflated and zlib units are compressed by
//! libdeflate, a C library. zlib-rs does the rest, and everything without the feature: it handles
//! smaller windows, and streams that are longer than the unit.

#[cfg(feature = "libdeflate")]
mod libdeflate;
#[cfg(not(feature = "libdeflate"))]
mod portable;

#[cfg(feature = "libdeflate")]
pub(super) use libdeflate::{Compressor, Inflater};
#[cfg(not(feature = "libdeflate"))]
pub(super) use portable::{Compressor, Inflater};

use super::{noise, spare};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::io;

/// Default level for qcow2 clusters: the output is as small as at zlib-rs's default level, 6, and
/// compression is somewhat faster. (QEMU uses zlib's level 6, whose output is 2 % smaller and which
/// takes three times as long.)
pub(super) const SMALL_WINDOW_LEVEL: u32 = 5;

/// Default level for VMDK grains: the output is within 2 % of the size of QEMU's. At libdeflate's
/// default level, 6, it is smaller than QEMU's, and compression takes a third longer.
pub(super) const ZLIB_LEVEL: u32 = 3;

/// Default level for gzip files: the default of gzip.
pub(super) const GZIP_LEVEL: u32 = 6;

/// Base-2 logarithm of the window size of qcow2 clusters. QEMU reads them with
/// `inflateInit2(-12)`, so larger windows cannot be read.
const QCOW2_WINDOW_BITS: u8 = 12;

/// Maximum number of bytes that are inflated past the end of the unit to verify a checksum.
const MAX_EXCESS: u64 = 64 << 20;

/// Inflates a stream into `unit`. The stream may be longer than the unit.
fn inflate_prefix(stored: &[u8], unit: &mut [u8], zlib_header: bool) -> io::Result<()> {
    let mut stream = Decompress::new(zlib_header);
    let status = stream.decompress(stored, unit, FlushDecompress::Finish);
    let filled = stream.total_out() as usize;
    match status {
        // Only the zlib wrapper has a checksum; it covers the rest of the stream as well.
        Ok(_) if filled == unit.len() && zlib_header => verify_rest(stream, stored),
        Ok(_) if filled == unit.len() => Ok(()),
        Ok(_) => Err(too_short(filled, unit.len())),
        Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
    }
}

/// Inflates the rest of a stream to verify the checksum at its end.
fn verify_rest(mut stream: Decompress, stored: &[u8]) -> io::Result<()> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let max = stream.total_out() + MAX_EXCESS;
    let mut rest = vec![0; 16 << 10];
    while stream.total_out() < max {
        let before = (stream.total_in(), stream.total_out());
        let input = &stored[before.0 as usize..];
        let status = stream.decompress(input, &mut rest, FlushDecompress::None);
        match status.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))? {
            Status::StreamEnd => return Ok(()),
            _ if (stream.total_in(), stream.total_out()) == before => {
                return Err(invalid("the zlib stream is truncated"));
            }
            _ => {}
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the zlib stream yields more than {max} bytes"),
    ))
}

fn too_long(len: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the deflate stream yields more than {len} bytes"),
    )
}

fn too_short(got: usize, wanted: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the deflate stream yields {got} bytes instead of {wanted}"),
    )
}

/// Raw deflate with a 4 KiB window. Uses zlib-rs, because libdeflate's window size is fixed.
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

    /// Returns the maximum compressed size, as zlib's `deflateBound` does for a window other than
    /// the largest.
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
        // Always provide room for the worst case: zlib-rs 0.6.8 keeps part of an output that did
        // not fit across `reset`, and panics later.
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
