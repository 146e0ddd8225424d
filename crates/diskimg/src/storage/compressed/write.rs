//! Writing compressed files as parts that are compressed, and can be decompressed, independently.
//!
//! ```text
//!   gzip    member │ member │ … │ empty member      at most 64 KiB each, with its length (bgzip)
//!   zstd    frame  │ frame  │ … │ list of frames    the seekable format
//! ```
//!
//! Every program that reads gzip or zstd reads them; programs that know the form can read any part.

use super::gzip;
#[cfg(feature = "zstd")]
use super::zstd;
use std::io;

/// The form of a new compressed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// gzip, in the form of bgzip.
    Gzip,
    /// Zstandard, in its seekable format.
    #[cfg(feature = "zstd")]
    Zstd,
}

impl Packing {
    /// Returns the maximum length in bytes of what a part contains, a power of two.
    pub(crate) fn part_len(self) -> u64 {
        match self {
            Self::Gzip => gzip::MAX_MEMBER,
            #[cfg(feature = "zstd")]
            Self::Zstd => 1 << 20,
        }
    }

    /// Creates an encoder. All encoders with the same level encode a part to the same bytes.
    ///
    /// # Errors
    /// Returns an error if the codec fails.
    pub(crate) fn encoder(self, level: Option<u32>) -> io::Result<PartEncoder> {
        Ok(match self {
            Self::Gzip => PartEncoder::Gzip(gzip::MemberEncoder::new(level)),
            #[cfg(feature = "zstd")]
            Self::Zstd => PartEncoder::Zstd(zstd::FrameEncoder::new(level)?),
        })
    }

    /// Returns what follows the last part, for a file without parts so far.
    pub(crate) fn ending(self) -> Ending {
        match self {
            Self::Gzip => Ending::Gzip,
            #[cfg(feature = "zstd")]
            Self::Zstd => Ending::Zstd(zstd::FrameList::default()),
        }
    }
}

/// Compresses parts.
#[derive(Debug)]
pub(crate) enum PartEncoder {
    Gzip(gzip::MemberEncoder),
    #[cfg(feature = "zstd")]
    Zstd(zstd::FrameEncoder),
}

impl PartEncoder {
    /// Appends a part with the contents `bytes`, at most [`Packing::part_len`], to `out`.
    ///
    /// # Errors
    /// Returns an error if the codec fails.
    pub(crate) fn append(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Gzip(members) => members.append(bytes, out),
            #[cfg(feature = "zstd")]
            Self::Zstd(frames) => frames.append(bytes, out),
        }
    }
}

/// What follows the last part.
#[derive(Debug)]
pub(crate) enum Ending {
    /// An empty member.
    Gzip,
    /// The list of frames.
    #[cfg(feature = "zstd")]
    Zstd(zstd::FrameList),
}

impl Ending {
    /// Adds `count` parts of `stored` bytes, each with `len` bytes of contents.
    ///
    /// # Errors
    /// Returns an error if there are more parts than the form can list.
    pub(crate) fn add(&mut self, stored: u64, len: u64, count: u32) -> io::Result<()> {
        match self {
            Self::Gzip => {
                let _ = (stored, len, count);
                Ok(())
            }
            #[cfg(feature = "zstd")]
            // A part has at most 1 MiB.
            Self::Zstd(list) => list.add(stored as u32, len as u32, count),
        }
    }

    /// Passes the bytes to `write`, in parts.
    ///
    /// # Errors
    /// Returns the errors of `write`.
    pub(crate) fn write(&self, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match self {
            Self::Gzip => write(&gzip::END),
            #[cfg(feature = "zstd")]
            Self::Zstd(list) => list.write(write),
        }
    }
}
