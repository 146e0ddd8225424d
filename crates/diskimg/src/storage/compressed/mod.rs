//! Files that are compressed as a whole, by gzip, xz, bzip2 or zstd.
//!
//! ```text
//!   independent blocks, whose sizes are stored        decoded where they are read (`blocks.rs`)
//!     xz       blocks, listed in an index             xz -T, pixz
//!     zstd     frames, with or without a list         pzstd, the seekable format
//!     gzip     members, each with its size            bgzip
//!   anything else                                     decoded from the start (`Compression::reader`)
//! ```
//!
//! [`write`] writes gzip and zstd in the form of independent blocks.

mod blocks;
mod bzip2;
mod gzip;
pub(crate) mod write;
mod xz;
#[cfg(feature = "zstd")]
mod zstd;

pub(crate) use blocks::BlockSource;

use crate::storage::source::Source;
use std::io::{self, Read};
use std::ops::Range;

/// Length in bytes of the buffer through which a compressed stream is read.
const READ_BUFFER: usize = 256 << 10;

/// Maximum length in bytes of a decoder's window or dictionary. The programs' highest levels use 64
/// MiB (xz) and 128 MiB (zstd, also with `--long`).
const WINDOW: u64 = 128 << 20;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// gzip (RFC 1952).
    Gzip,
    /// The .xz file format.
    Xz,
    /// bzip2.
    Bzip2,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// Blocks of a compressed file that can be decoded independently, in ascending order. Together they
/// are the whole contents.
#[derive(Debug, Default)]
struct Blocks {
    list: Vec<Block>,
    /// Uncompressed length of all blocks in bytes.
    len: u64,
    /// Number of blocks, also of those without contents, which are not in the list.
    count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    /// Where it is stored in the file.
    stored: Range<u64>,
    /// Where its bytes begin in the uncompressed contents. They end where the next block begins.
    start: u64,
    /// What its format needs to decode it: the check of an xz stream.
    flags: u8,
}

/// Bounds for what is decoded block by block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockBounds {
    /// Maximum uncompressed length of a block in bytes.
    pub(crate) block: u64,
    /// Maximum length in bytes of the list of blocks.
    pub(crate) list: u64,
}

impl Blocks {
    /// Adds the next block. Blocks without contents are left out. Returns `None` if the list or the
    /// block exceeds the bounds.
    fn add(&mut self, stored: Range<u64>, len: u64, flags: u8, bounds: BlockBounds) -> Option<()> {
        self.count += 1;
        if self.count * size_of::<Block>() as u64 > bounds.list {
            return None;
        }
        if len == 0 {
            return Some(());
        }
        if len > bounds.block || stored.end - stored.start > 2 * bounds.block {
            return None;
        }
        self.list.push(Block { stored, start: self.len, flags });
        self.len = self.len.checked_add(len)?;
        Some(())
    }
}

impl Compression {
    /// Returns the compression whose signature `head` starts with.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        match head {
            // RFC 1952, 2.3.1: ID1, ID2, CM = deflate.
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // The compression level, then the magic of a block or of the end of the stream.
            [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..]
                if rest.starts_with(b"1AY&SY") || rest.starts_with(b"\x17\x72\x45\x38\x50\x90") =>
            {
                Some(Self::Bzip2)
            }
            // RFC 8878, 3.1.1 and 3.1.2: a frame, or a skippable frame. Others may follow that one,
            // however long it is; lz4 files may begin with it as well.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The name of the program that compresses so.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Zstd => "zstd",
        }
    }

    /// Reads the uncompressed contents of `source` from the start.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] if this build lacks the decoder. Reading returns
    /// [`io::ErrorKind::InvalidData`] or [`io::ErrorKind::UnexpectedEof`] if the file is damaged,
    /// and the errors of the source.
    pub(crate) fn reader(self, source: &dyn Source) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(match self {
            Self::Gzip => Box::new(gzip::reader(source)),
            Self::Xz => Box::new(xz::reader(source)?),
            Self::Bzip2 => Box::new(bzip2::reader(source)),
            #[cfg(feature = "zstd")]
            Self::Zstd => Box::new(zstd::reader(source)?),
            #[cfg(not(feature = "zstd"))]
            Self::Zstd => return Err(without_zstd()),
        })
    }

    /// Returns the blocks of `source`, if it has several that can be decoded independently and that
    /// are within the bounds. What the lists in the file say is verified when a block is decoded.
    fn blocks(self, source: &dyn Source, bounds: BlockBounds) -> io::Result<Option<Blocks>> {
        let blocks = match self {
            Self::Gzip => gzip::blocks(source, bounds)?,
            Self::Xz => xz::blocks(source, bounds)?,
            Self::Bzip2 => None,
            #[cfg(feature = "zstd")]
            Self::Zstd => zstd::blocks(source, bounds)?,
            #[cfg(not(feature = "zstd"))]
            Self::Zstd => None,
        };
        Ok(blocks.filter(|blocks| blocks.list.len() > 1))
    }

    /// Decodes a block, which must have exactly as many bytes as `bytes`.
    fn decode(self, source: &dyn Source, block: &Block, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Gzip => gzip::decode(source, block, bytes),
            Self::Xz => xz::decode(source, block, bytes),
            Self::Bzip2 => unreachable!("bzip2 files have no list of blocks"),
            #[cfg(feature = "zstd")]
            Self::Zstd => zstd::decode(source, block, bytes),
            #[cfg(not(feature = "zstd"))]
            Self::Zstd => Err(without_zstd()),
        }
    }
}

#[cfg(not(feature = "zstd"))]
fn without_zstd() -> io::Error {
    let message = "this build does not include Zstandard (cargo feature zstd)";
    io::Error::new(io::ErrorKind::Unsupported, message)
}

/// Creates the error for data that cannot be decoded.
fn damaged(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// Fills `bytes` from a stream that must end with them. Reading to the end verifies the checksums.
fn read_exactly(mut stream: impl Read, bytes: &mut [u8]) -> io::Result<()> {
    let found = crate::storage::source::fill(&mut stream, bytes)?;
    if found < bytes.len() {
        return Err(damaged(format!("a block has {found} bytes; expected {}", bytes.len())));
    }
    match crate::storage::source::fill(&mut stream, &mut [0])? {
        0 => Ok(()),
        _ => Err(damaged(format!("a block has more than {} bytes", bytes.len()))),
    }
}
