//! Compression, a unit at a time.
//!
//! A unit (a qcow2 cluster, a VMDK grain) is compressed on its own, so both
//! directions work on whole buffers. Contexts are reused: one [`Decoder`] or
//! [`Encoder`] per worker.

mod deflate;
mod noise;
mod zstd;

use std::fmt;
use std::io;

/// How a unit's bytes are encoded where they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// A bare deflate stream (RFC 1951), as qcow2's "zlib" clusters are.
    Deflate,
    /// Deflate in a zlib envelope (RFC 1950), as VMDK grains are.
    Zlib,
    /// A Zstandard frame (RFC 8878).
    Zstd,
}

/// Inflates units. Holds the codecs' contexts for reuse.
#[derive(Default)]
pub struct Decoder {
    deflate: Option<deflate::Inflater>,
    zstd: Option<zstd::Decompressor>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoder")
    }
}

impl Decoder {
    /// Fills `unit` from `stored`. Bytes of `stored` behind the end of the
    /// stream are padding and ignored: qcow2 and VMDK store whole sectors.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if the stream is damaged or gives fewer
    /// bytes than `unit` wants.
    pub fn decode(&mut self, codec: Codec, stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
        match codec {
            Codec::Deflate => self.inflater().deflate(stored, unit),
            Codec::Zlib => self.inflater().zlib(stored, unit),
            Codec::Zstd => self.zstd.get_or_insert_with(Default::default).decode(stored, unit),
        }
    }

    /// Fills `unit` from a zlib stream that gives just that many bytes: one that goes on is
    /// damaged, and not followed.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`].
    pub(crate) fn decode_zlib_exactly(&mut self, stored: &[u8], unit: &mut [u8]) -> io::Result<()> {
        self.inflater().zlib_exactly(stored, unit)
    }

    fn inflater(&mut self) -> &mut deflate::Inflater {
        self.deflate.get_or_insert_with(Default::default)
    }
}

/// Compresses units the way one target wants them.
pub struct Encoder(Inner);

enum Inner {
    SmallWindow(deflate::SmallWindowDeflater),
    Zlib(deflate::ZlibCompressor),
    Zstd(zstd::Compressor),
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Inner::SmallWindow(_) => "Encoder(deflate, 4 KiB window)",
            Inner::Zlib(_) => "Encoder(zlib)",
            Inner::Zstd(_) => "Encoder(zstd)",
        })
    }
}

impl Encoder {
    /// Bare deflate with a 4 KiB window: what every qcow2 reader inflates.
    pub fn deflate_4k_window() -> Self {
        Self(Inner::SmallWindow(deflate::SmallWindowDeflater::new(deflate::SMALL_WINDOW_LEVEL)))
    }

    /// zlib with the full 32 KiB window.
    pub fn zlib() -> Self {
        Self(Inner::Zlib(deflate::ZlibCompressor::new(deflate::ZLIB_LEVEL)))
    }

    /// Zstandard.
    pub fn zstd() -> Self {
        Self(Inner::Zstd(zstd::Compressor::new(zstd::LEVEL)))
    }

    /// The same at another level: 1 is the fastest, 9 makes the smallest output (19 with
    /// Zstandard). Others count as the nearest of these; `None` changes nothing.
    #[must_use]
    pub fn at_level(self, level: Option<u32>) -> Self {
        let Some(level) = level else { return self };
        Self(match self.0 {
            Inner::SmallWindow(_) => {
                Inner::SmallWindow(deflate::SmallWindowDeflater::new(level.clamp(1, 9)))
            }
            Inner::Zlib(_) => Inner::Zlib(deflate::ZlibCompressor::new(level.clamp(1, 9))),
            Inner::Zstd(_) => Inner::Zstd(zstd::Compressor::new(level.clamp(1, 19))),
        })
    }

    /// Appends the compressed `unit` to `out` if that takes fewer than `limit`
    /// bytes; otherwise leaves `out` as it was and answers `false`.
    ///
    /// # Errors
    /// [`io::ErrorKind::Other`] if the codec itself fails, which it does not on
    /// any input.
    pub fn encode(&mut self, unit: &[u8], limit: usize, out: &mut Vec<u8>) -> io::Result<bool> {
        let start = out.len();
        let fits = match &mut self.0 {
            Inner::SmallWindow(c) => c.encode(unit, limit, out)?,
            Inner::Zlib(c) => c.encode(unit, limit, out)?,
            Inner::Zstd(c) => c.encode(unit, limit, out)?,
        };
        if !fits {
            out.truncate(start);
        }
        Ok(fits)
    }
}

/// Grows `out` by `room` zero bytes and gives that part.
fn spare(out: &mut Vec<u8>, room: usize) -> &mut [u8] {
    let start = out.len();
    out.resize(start + room, 0);
    &mut out[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        (0..65536u32).flat_map(|i| [(i / 97) as u8]).collect()
    }

    #[test]
    fn every_codec_gives_back_what_it_took_and_ignores_padding() {
        for (codec, mut encoder) in [
            (Codec::Deflate, Encoder::deflate_4k_window()),
            (Codec::Zlib, Encoder::zlib()),
            (Codec::Zstd, Encoder::zstd()),
        ] {
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
        for (codec, mut encoder) in [
            (Codec::Deflate, Encoder::deflate_4k_window()),
            (Codec::Zlib, Encoder::zlib()),
            (Codec::Zstd, Encoder::zstd()),
        ] {
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
        // QEMU accepts this: the cluster is full, the rest of the stream is left over.
        for (codec, mut encoder) in [
            (Codec::Deflate, Encoder::deflate_4k_window()),
            (Codec::Zlib, Encoder::zlib()),
            (Codec::Zstd, Encoder::zstd()),
        ] {
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
        decode(&stored).expect_err("another checksum");
    }

    /// Bytes that no codec shrinks.
    pub(super) fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn incompressible_bytes_are_declined_and_leave_the_buffer_alone() {
        // Again and again: an encoder must not carry anything over.
        for len in [512, 4096, 65536, 2 << 20] {
            let unit = noise(len);
            for mut encoder in [Encoder::deflate_4k_window(), Encoder::zlib(), Encoder::zstd()] {
                let mut out = vec![1, 2, 3];
                for _ in 0..(1 << 20) / len + 2 {
                    assert!(!encoder.encode(&unit, unit.len(), &mut out).expect("encodes"));
                    assert_eq!(out, [1, 2, 3]);
                }
            }
        }
    }
}
