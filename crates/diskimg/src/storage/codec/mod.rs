//! Compression of single units.
//!
//! A unit (a qcow2 cluster, a VMDK grain) is compressed independently, so encoding and decoding
//! work on whole buffers. Contexts are reused: each worker thread has its own [`Decoder`] or
//! [`Encoder`].

#[cfg(feature = "dmg")]
mod adc;
mod adler32;
#[cfg(feature = "dmg-codecs")]
mod bzip2;
mod deflate;
#[cfg(feature = "dmg")]
mod lzfse;
#[cfg(feature = "dmg")]
mod lzvn;
#[cfg(feature = "dmg")]
mod matches;
mod noise;
#[cfg(feature = "dmg-codecs")]
mod xz;
#[cfg(feature = "zstd")]
mod zstd;

#[cfg(feature = "ewf")]
pub(crate) use adler32::{Adler32, adler32};

use crate::storage::buffer;
use std::fmt;
use std::io;

/// Compression method of a stored unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// A raw deflate stream (RFC 1951), as used by qcow2 for the compression type "zlib".
    Deflate,
    /// Deflate in a zlib wrapper (RFC 1950), as used by VMDK grains.
    Zlib,
    /// Zstandard frames (RFC 8878).
    Zstd,
    /// The bytes as they are, then their Adler-32 (RFC 1950, section 8.2) in four bytes, little
    /// endian, as EWF stores chunks that it does not compress.
    StoredAdler32,
    /// Apple Data Compression, in chunks of a DMG.
    Adc,
    /// A bzip2 stream, in chunks of a DMG.
    Bzip2,
    /// An LZFSE stream, whose blocks may be LZVN, in chunks of a DMG.
    Lzfse,
    /// An xz stream, in chunks of a DMG.
    Xz,
}

impl Codec {
    /// Returns a lower bound of the length in bytes of a unit of `len` bytes when it is encoded.
    pub(crate) fn min_encoded_len(self, len: u64) -> u64 {
        /// Deflate needs two bits for a match of the maximum length, 258 bytes.
        const DEFLATE_RATIO: u64 = 1032;
        /// A block of a Zstandard frame yields at most this many bytes, and takes at least a header
        /// of three bytes and a byte to repeat.
        const ZSTD_BLOCK: u64 = 128 << 10;
        const MIN_ZSTD_BLOCK: u64 = 4;
        /// Magic number, descriptor, and the size of window or content.
        const MIN_ZSTD_HEADER: u64 = 6;
        /// A match of three bytes yields at most 67.
        const ADC_RATIO: u64 = 67_u64.div_ceil(3);
        /// Bytes of a bzip2 block when it is decoded: 900,000 after a run-length encoding that turns
        /// up to 259 equal bytes into five.
        const BZIP2_BLOCK: u64 = 900_000 / 5 * 259;
        /// Magic number, checksum and other fields of a bzip2 block, without its symbols.
        const MIN_BZIP2_BLOCK: u64 = 20;
        /// Headers and footers of a stream, without its contents.
        const MIN_STREAM: u64 = 12;
        /// Bytes that an LZFSE block yields at most: 10,000 matches of the maximum length and as many
        /// literals. A block of LZVN expands less.
        const LZFSE_BLOCK: u64 = 10_000 * (2359 + 315);
        /// Header of an LZFSE block, without its symbols.
        const MIN_LZFSE_BLOCK: u64 = 32;
        match self {
            Self::Deflate | Self::Zlib => len.div_ceil(DEFLATE_RATIO),
            Self::Zstd => MIN_ZSTD_HEADER + len.div_ceil(ZSTD_BLOCK) * MIN_ZSTD_BLOCK,
            Self::StoredAdler32 => len.saturating_add(4),
            Self::Adc => len.div_ceil(ADC_RATIO),
            Self::Bzip2 => MIN_STREAM + len.div_ceil(BZIP2_BLOCK) * MIN_BZIP2_BLOCK,
            Self::Lzfse => (len / LZFSE_BLOCK * MIN_LZFSE_BLOCK).max(1),
            Self::Xz => MIN_STREAM,
        }
    }
}

/// Decompresses units. Keeps the codecs' contexts for reuse.
#[derive(Default)]
pub struct Decoder {
    deflate: Option<deflate::Inflater>,
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::Decompressor>,
    #[cfg(feature = "dmg")]
    lzfse: Option<lzfse::Decompressor>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoder")
    }
}

impl Decoder {
    /// Decompresses `stored` into `unit`. Ignores bytes of `stored` past the end of the stream:
    /// qcow2 and VMDK pad to whole sectors.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidData`] if the stream is damaged or yields fewer bytes than
    /// `unit` holds.
    pub fn decode(&mut self, codec: Codec, stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
        match codec {
            Codec::Deflate => self.inflater().deflate(stored, unit),
            Codec::Zlib => self.inflater().zlib(stored, unit),
            Codec::StoredAdler32 => adler32::copy(stored, unit),
            #[cfg(feature = "zstd")]
            Codec::Zstd => self.zstd.get_or_insert_with(Default::default).decode(stored, unit),
            #[cfg(not(feature = "zstd"))]
            Codec::Zstd => Err(not_included("Zstandard", "zstd")),
            #[cfg(feature = "dmg")]
            Codec::Adc => adc::decode(stored, unit),
            #[cfg(feature = "dmg")]
            Codec::Lzfse => self.lzfse.get_or_insert_with(Default::default).decode(stored, unit),
            #[cfg(feature = "dmg-codecs")]
            Codec::Bzip2 => bzip2::decode(stored, unit),
            #[cfg(feature = "dmg-codecs")]
            Codec::Xz => xz::decode(stored, unit),
            #[cfg(not(feature = "dmg"))]
            Codec::Adc | Codec::Lzfse => Err(not_included("ADC and LZFSE", "dmg")),
            #[cfg(not(feature = "dmg-codecs"))]
            Codec::Bzip2 | Codec::Xz => Err(not_included("bzip2 and xz", "dmg-codecs")),
        }
    }

    /// Decompresses a zlib stream that must yield exactly as many bytes as `unit` holds.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidData`] if the stream is damaged or yields fewer or more
    /// bytes.
    pub(crate) fn decode_zlib_exactly(&mut self, stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
        self.inflater().zlib_exactly(stored, unit)
    }

    fn inflater(&mut self) -> &mut deflate::Inflater {
        self.deflate.get_or_insert_with(Default::default)
    }
}

/// Returns the error for a codec that is not in this build.
#[allow(dead_code, reason = "a build with all codecs")]
fn not_included(codec: &str, feature: &str) -> io::Error {
    let message =
        format!("this build of diskimg does not include {codec} (cargo feature {feature})");
    io::Error::new(io::ErrorKind::Unsupported, message)
}

/// Compresses units with one method and level.
pub struct Encoder(Inner);

/// What surrounds a deflate stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrapper {
    None,
    Zlib,
}

enum Inner {
    SmallWindow(deflate::SmallWindowDeflater),
    Window(deflate::Compressor, Wrapper),
    #[cfg(feature = "zstd")]
    Zstd(zstd::Compressor),
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Inner::SmallWindow(_) => "Encoder(deflate, 4 KiB window)",
            Inner::Window(_, Wrapper::None) => "Encoder(deflate)",
            Inner::Window(_, Wrapper::Zlib) => "Encoder(zlib)",
            #[cfg(feature = "zstd")]
            Inner::Zstd(_) => "Encoder(zstd)",
        })
    }
}

impl Encoder {
    /// Creates an encoder of raw deflate with a 4 KiB window, which every qcow2 reader supports.
    pub fn deflate_4k_window() -> Self {
        Self(Inner::SmallWindow(deflate::SmallWindowDeflater::new(deflate::SMALL_WINDOW_LEVEL)))
    }

    /// Creates an encoder of zlib with the full 32 KiB window.
    pub fn zlib() -> Self {
        Self::window(deflate::ZLIB_LEVEL, Wrapper::Zlib)
    }

    /// Creates an encoder of raw deflate with the full 32 KiB window, as in gzip files.
    #[cfg(feature = "compressed")]
    pub(crate) fn deflate() -> Self {
        Self::window(deflate::GZIP_LEVEL, Wrapper::None)
    }

    fn window(level: u32, wrapper: Wrapper) -> Self {
        let compressor = deflate::Compressor::new(level, wrapper == Wrapper::Zlib);
        Self(Inner::Window(compressor, wrapper))
    }

    /// Creates an encoder of Zstandard.
    #[cfg(feature = "zstd")]
    pub fn zstd() -> Self {
        Self(Inner::Zstd(zstd::Compressor::new(zstd::LEVEL)))
    }

    /// Sets the compression level, from 1 (fastest) to 9 (smallest output; 19 for Zstandard).
    /// Clamps other values to this range. `None` keeps the default level.
    #[must_use]
    pub fn at_level(self, level: Option<u32>) -> Self {
        let Some(level) = level else { return self };
        Self(match self.0 {
            Inner::SmallWindow(_) => {
                Inner::SmallWindow(deflate::SmallWindowDeflater::new(level.clamp(1, 9)))
            }
            Inner::Window(_, wrapper) => return Self::window(level.clamp(1, 9), wrapper),
            #[cfg(feature = "zstd")]
            Inner::Zstd(_) => Inner::Zstd(zstd::Compressor::new(level.clamp(1, 19))),
        })
    }

    /// Compresses `unit` and appends the result to `out`. If it would take `limit` bytes or more,
    /// leaves `out` unchanged and returns `false`.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Other`] if the codec fails. No input causes this.
    pub fn encode(&mut self, unit: &[u8], limit: usize, out: &mut Vec<u8>) -> io::Result<bool> {
        let start = out.len();
        let fits = match &mut self.0 {
            Inner::SmallWindow(c) => c.encode(unit, limit, out)?,
            Inner::Window(c, _) => c.encode(unit, limit, out)?,
            #[cfg(feature = "zstd")]
            Inner::Zstd(c) => c.encode(unit, limit, out)?,
        };
        if !fits {
            out.truncate(start);
        }
        Ok(fits)
    }
}

/// Appends `room` zero bytes to `out` and returns them.
fn spare(out: &mut Vec<u8>, room: usize) -> &mut [u8] {
    let start = out.len();
    buffer::resize(out, start + room);
    &mut out[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoders() -> Vec<(Codec, Encoder)> {
        vec![
            (Codec::Deflate, Encoder::deflate_4k_window()),
            #[cfg(feature = "compressed")]
            (Codec::Deflate, Encoder::deflate()),
            (Codec::Zlib, Encoder::zlib()),
            #[cfg(feature = "zstd")]
            (Codec::Zstd, Encoder::zstd()),
        ]
    }

    fn sample() -> Vec<u8> {
        (0..65536u32).flat_map(|i| [(i / 97) as u8]).collect()
    }

    #[test]
    fn every_codec_round_trips_and_ignores_padding() {
        for (codec, mut encoder) in encoders() {
            let unit = sample();
            let mut stored = Vec::new();
            assert!(encoder.encode(&unit, unit.len(), &mut stored).expect("encodes"));
            stored.extend([0xaa; 300]);
            let mut back = vec![1; unit.len()];
            Decoder::default().decode(codec, &stored, &mut back).expect("decodes");
            assert_eq!(back, unit, "{codec:?}");
        }
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error() {
        for (codec, mut encoder) in encoders() {
            let unit = sample();
            let mut stored = Vec::new();
            encoder.encode(&unit[..40000], 40000, &mut stored).expect("encodes");
            let mut back = vec![0; unit.len()];
            let error =
                Decoder::default().decode(codec, &stored, &mut back).expect_err("too short");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{codec:?}");
            let cut = stored.len() / 2;
            Decoder::default()
                .decode(codec, &stored[..cut], &mut back[..40000])
                .expect_err("truncated");
        }
    }

    #[test]
    fn a_stream_longer_than_the_unit_still_fills_the_unit() {
        // QEMU accepts this: it fills the cluster and ignores the rest of the stream.
        for (codec, mut encoder) in encoders() {
            let unit = sample();
            let mut stored = Vec::new();
            encoder.encode(&unit, unit.len(), &mut stored).expect("encodes");
            let mut back = vec![0; 512];
            Decoder::default().decode(codec, &stored, &mut back).expect("decodes");
            assert_eq!(back, unit[..512], "{codec:?}");
        }
    }

    #[test]
    fn the_checksum_of_a_stream_longer_than_the_unit_is_verified() {
        let unit = sample();
        let mut stored = Vec::new();
        Encoder::zlib().encode(&unit, unit.len(), &mut stored).expect("encodes");
        let mut back = vec![0; 40_000];
        let mut decode = |stored: &[u8]| Decoder::default().decode(Codec::Zlib, stored, &mut back);
        decode(&stored).expect("decodes");
        let last = stored.len() - 1;
        decode(&stored[..last]).expect_err("no checksum");
        stored[last] ^= 1;
        decode(&stored).expect_err("wrong checksum");
    }

    /// Returns incompressible bytes.
    pub(super) fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn incompressible_bytes_are_rejected_and_leave_the_buffer_unchanged() {
        // Repeatedly, because an encoder must not keep state between units.
        for len in [512, 4096, 65536, 2 << 20] {
            let unit = noise(len);
            for (_, mut encoder) in encoders() {
                let mut out = vec![1, 2, 3];
                for _ in 0..(1 << 20) / len + 2 {
                    assert!(!encoder.encode(&unit, unit.len(), &mut out).expect("encodes"));
                    assert_eq!(out, [1, 2, 3]);
                }
            }
        }
    }
}
