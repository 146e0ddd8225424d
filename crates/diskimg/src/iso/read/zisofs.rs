//! zisofs: files compressed block by block (RRIP entry ZF, by H. Peter Anvin; version 2 by
//! libburnia, `doc/zisofs2_format.txt`).
//!
//! ```text
//!   version 1   0 magic    8 size: 4     12 header / 4   13 log2 of block length   14 reserved
//!              16 pointers
//!   version 2   0 magic    8 version 0    9 header / 4   10 algorithm 1   11 log2 of block length
//!              12 size: 8  20 reserved   24 pointers
//!   pointers    4 or 8 bytes each: file offset of each block, and of the end of the last one
//!   blocks      each a separate zlib stream; an empty one is a block of zeros
//! ```
//!
//! A block may be at most [`unpacked_ratio`](crate::Limits::unpacked_ratio) times as long as its
//! compressed data, which bounds the work for untrusted files. Empty blocks are holes and are not
//! decompressed.

use crate::error::{Error, Result};
use crate::iso::node::ZisofsParameters;
use crate::open::limits::Limits;
use crate::storage::codec::Decoder;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{HostFileId, Segment, Source, SourceError, check_range};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

const NAME: &str = "zisofs file";

/// Number of pointers read at once to find the end of a hole or of data.
const POINTERS_AT_ONCE: u64 = 1024;

/// The differences between the two versions.
struct Version {
    magic: [u8; 8],
    header_bytes: u64,
    pointer_bytes: u8,
    /// log2 of the block length in bytes.
    block_log2: RangeInclusive<u8>,
}

const VERSION_1: Version = Version {
    magic: [0x37, 0xe4, 0x53, 0x96, 0xc9, 0xdb, 0xd6, 0x07],
    header_bytes: 16,
    pointer_bytes: 4,
    block_log2: 15..=17,
};

const VERSION_2: Version = Version {
    magic: [0xef, 0x22, 0x55, 0xa1, 0xbc, 0x1b, 0x95, 0xa0],
    header_bytes: 24,
    pointer_bytes: 8,
    block_log2: 15..=20,
};

/// The decompressed contents of a zisofs file.
#[derive(Debug)]
pub(crate) struct ZisofsSource {
    compressed: Arc<dyn Source>,
    size: u64,
    block_log2: u8,
    blocks: u64,
    /// File offset of the pointers.
    table: u64,
    /// Length of a pointer in bytes.
    pointer_bytes: u8,
    /// Maximum ratio of the decompressed to the compressed length of a block.
    ratio: u64,
    cache: Mutex<CachedBlock>,
}

/// The block that was decompressed last.
#[derive(Debug, Default)]
struct CachedBlock {
    index: Option<u64>,
    bytes: Vec<u8>,
    compressed: Vec<u8>,
    decoder: Decoder,
}

impl ZisofsSource {
    /// Opens the zisofs file in `compressed`. Checks that its header matches the parameters from
    /// the ZF entry, and that the pointers fit in the file.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if one of these checks fails,
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for an unknown version or
    /// algorithm.
    pub(crate) fn new(
        compressed: Arc<dyn Source>,
        parameters: ZisofsParameters,
        limits: &Limits,
    ) -> Result<Self> {
        let version = match parameters.version {
            1 => VERSION_1,
            2 => VERSION_2,
            other => return Err(Error::unsupported(format!("zisofs version {other}"))),
        };
        if !version.block_log2.contains(&parameters.block_log2) {
            let (low, high) = (version.block_log2.start(), version.block_log2.end());
            return Err(corrupt(format!(
                "block length 2^{} bytes; expected 2^{low} to 2^{high}",
                parameters.block_log2
            )));
        }
        if parameters.header_bytes < version.header_bytes {
            return Err(corrupt(format!(
                "header length {} bytes; expected at least {}",
                parameters.header_bytes, version.header_bytes
            )));
        }
        check_header(&*compressed, &version, &parameters)?;
        let blocks = parameters.size.div_ceil(1 << parameters.block_log2);
        let table_end = blocks
            .checked_add(1)
            .and_then(|pointers| pointers.checked_mul(version.pointer_bytes.into()))
            .and_then(|bytes| bytes.checked_add(parameters.header_bytes));
        if table_end.is_none_or(|end| end > compressed.len()) {
            let what = format!("the pointers to {blocks} blocks do not fit in the file");
            return Err(corrupt(what));
        }
        Ok(Self {
            compressed,
            size: parameters.size,
            block_log2: parameters.block_log2,
            blocks,
            table: parameters.header_bytes,
            pointer_bytes: version.pointer_bytes,
            ratio: limits.unpacked_ratio,
            cache: Mutex::default(),
        })
    }

    /// Reads `count` pointers, starting with that of block `first`. All must be in the table.
    fn pointers(&self, first: u64, count: u64) -> Result<Vec<u64>, SourceError> {
        let width = usize::from(self.pointer_bytes);
        let mut bytes = vec![0; to_usize(count) * width];
        self.compressed.read_exact_at(&mut bytes, self.table + first * to_u64(width))?;
        let pointer = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
        Ok(bytes.chunks_exact(width).map(pointer).collect())
    }

    /// Returns the decompressed length of a block in bytes.
    fn block_len(&self, index: u64) -> usize {
        let block = 1u64 << self.block_log2;
        to_usize((self.size - (index << self.block_log2)).min(block))
    }

    /// Decompresses block `index` into `block`, with `compressed` as a buffer for the compressed
    /// data.
    fn decompress(
        &self,
        index: u64,
        block: &mut [u8],
        compressed: &mut Vec<u8>,
        decoder: &mut Decoder,
    ) -> Result<(), SourceError> {
        let pointers = self.pointers(index, 2)?;
        let (start, end) = (pointers[0], pointers[1]);
        let first = self.table + (self.blocks + 1) * u64::from(self.pointer_bytes);
        if start == end {
            block.fill(0);
            return Ok(());
        }
        let file_len = self.compressed.len();
        if start > end || start < first || end > file_len {
            return Err(corrupt(format!(
                "block {index} is at {start}..{end}; expected within \
                 {first}..{file_len}"
            ))
            .into());
        }
        let len = to_u64(block.len());
        // Deflate makes incompressible data only slightly longer.
        if end - start > 2 * (1 << self.block_log2) {
            return Err(corrupt(format!("block {index} is too long")).into());
        }
        if len > self.ratio.saturating_mul(end - start) {
            let stored = end - start;
            let found =
                format!("block {index} of a zisofs file decompresses {stored} bytes to {len}");
            return Err(Error::over_limit("unpacked_ratio", found, self.ratio).into());
        }
        compressed.resize(to_usize(end - start), 0);
        self.compressed.read_exact_at(compressed, start)?;
        decoder.decode_zlib_exactly(compressed, block).map_err(|e| {
            Error::decode(format!("cannot decompress block {index}"), e).in_structure(NAME).into()
        })
    }
}

impl Source for ZisofsSource {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> Result<(), SourceError> {
        check_range(offset, buf.len(), self.size)?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let CachedBlock { index: cached, bytes, compressed, decoder } = &mut *cache;
        while !buf.is_empty() {
            let index = offset >> self.block_log2;
            let len = self.block_len(index);
            let inside = to_usize(offset - (index << self.block_log2));
            let (now, later) = buf.split_at_mut(buf.len().min(len - inside));
            if now.len() == len && *cached != Some(index) {
                self.decompress(index, now, compressed, decoder)?;
            } else {
                if *cached != Some(index) {
                    // If decompression fails, the cache must not be used.
                    *cached = None;
                    bytes.resize(len, 0);
                    self.decompress(index, bytes, compressed, decoder)?;
                    *cached = Some(index);
                }
                now.copy_from_slice(&bytes[inside..][..now.len()]);
            }
            offset += to_u64(now.len());
            buf = later;
        }
        Ok(())
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        let first = offset >> self.block_log2;
        let count = (self.blocks - first).min(POINTERS_AT_ONCE);
        let pointers = self.pointers(first, count + 1)?;
        let mut empty = pointers.windows(2).map(|pair| pair[0] == pair[1]);
        let hole = empty.next().unwrap_or(false);
        let alike = 1 + to_u64(empty.take_while(|&other| other == hole).count());
        let end = (first + alike) << self.block_log2;
        Ok(Segment { end: end.min(self.size), hole })
    }

    fn identities(&self) -> Vec<HostFileId> {
        self.compressed.identities()
    }
}

/// Checks that the header of the file matches the parameters from the ZF entry.
fn check_header(
    compressed: &dyn Source,
    version: &Version,
    parameters: &ZisofsParameters,
) -> Result<()> {
    let mut header = [0; 24];
    let header = &mut header[..to_usize(version.header_bytes)];
    compressed
        .read_exact_at(header, 0)
        .map_err(|e| Error::io("cannot read the header", e).in_structure(NAME))?;
    if header[..8] != version.magic {
        let what = format!("it does not start with the magic of version {}", parameters.version);
        return Err(corrupt(what));
    }
    let le = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    let (size, header_words, log2) = match parameters.version {
        1 => (le(&header[8..12]), header[12], header[13]),
        _ => (le(&header[12..20]), header[9], header[11]),
    };
    if parameters.version == 2 && (header[8], header[10]) != (0, 1) {
        let what = format!("zisofs version 2.{} with algorithm {}", header[8], header[10]);
        return Err(Error::unsupported(what));
    }
    let recorded = (size, u64::from(header_words) * 4, log2);
    if recorded != (parameters.size, parameters.header_bytes, parameters.block_log2) {
        let what = format!(
            "size, header length and log2 of the block length are {recorded:?} in the header, but \
             {:?} in the ZF entry",
            (parameters.size, parameters.header_bytes, parameters.block_log2)
        );
        return Err(corrupt(what));
    }
    Ok(())
}

fn corrupt(what: String) -> Error {
    Error::corrupt(NAME, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::storage::codec::Encoder;
    use crate::storage::source::MemorySource;

    const BLOCK: usize = 1 << 15;

    /// Compresses `plain` in the format of the version.
    fn compress(plain: &[u8], version: u8) -> (Vec<u8>, ZisofsParameters) {
        let rules = if version == 1 { VERSION_1 } else { VERSION_2 };
        let size = plain.len() as u64;
        let mut header = rules.magic.to_vec();
        match version {
            1 => header.extend([&(size as u32).to_le_bytes()[..], &[4, 15, 0, 0]].concat()),
            _ => header.extend([&[0, 6, 1, 15][..], &size.to_le_bytes(), &[0; 4]].concat()),
        }
        let width = usize::from(rules.pointer_bytes);
        let blocks = plain.len().div_ceil(BLOCK);
        let mut at = header.len() + (blocks + 1) * width;
        let mut stored = Vec::new();
        for block in plain.chunks(BLOCK) {
            header.extend(&(at as u64).to_le_bytes()[..width]);
            let start = stored.len();
            if block.iter().any(|&b| b != 0) {
                Encoder::zlib().encode(block, 2 * BLOCK, &mut stored).expect("fits");
            }
            at += stored.len() - start;
        }
        header.extend(&(at as u64).to_le_bytes()[..width]);
        header.extend(stored);
        let header_bytes = rules.header_bytes;
        (header, ZisofsParameters { version, header_bytes, block_log2: 15, size })
    }

    fn open(compressed: &[u8], parameters: &ZisofsParameters) -> Result<ZisofsSource> {
        let compressed = Arc::new(MemorySource::new(compressed.to_vec()));
        ZisofsSource::new(compressed, *parameters, &Limits::default())
    }

    /// Returns a block of increasing numbers, two of zeros, and a short one.
    fn plain() -> Vec<u8> {
        let mut plain: Vec<u8> = (0..BLOCK as u32).flat_map(|n| [(n / 5) as u8]).collect();
        plain.resize(3 * BLOCK, 0);
        plain.extend(*b"the end");
        plain
    }

    #[test]
    fn every_range_reads_as_the_original_in_both_versions() {
        for version in [1, 2] {
            let plain = plain();
            let (compressed, parameters) = compress(&plain, version);
            let source = open(&compressed, &parameters).expect("valid");
            let edges = [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 5, 3 * BLOCK, plain.len()];
            for start in edges {
                for end in edges.into_iter().filter(|&end| end >= start) {
                    let mut buf = vec![7; end - start];
                    source.read_exact_at(&mut buf, start as u64).expect("inside");
                    assert_eq!(buf, plain[start..end], "{start}..{end} of version {version}");
                }
            }
            source.read_exact_at(&mut [0; 2], plain.len() as u64 - 1).expect_err("past the end");
        }
    }

    #[test]
    fn blocks_of_zeros_are_holes() {
        let (compressed, parameters) = compress(&plain(), 1);
        let source = open(&compressed, &parameters).expect("valid");
        let segment = |at: usize| source.segment_at(at as u64).expect("in memory");
        let (block, size) = (BLOCK as u64, parameters.size);
        assert_eq!(segment(5), Segment { end: block, hole: false });
        assert_eq!(segment(BLOCK), Segment { end: 3 * block, hole: true });
        assert_eq!(segment(3 * BLOCK + 1), Segment { end: size, hole: false });
    }

    #[test]
    fn parameters_out_of_range_or_different_from_the_header_are_refused() {
        let (compressed, parameters) = compress(&plain(), 1);
        let open = |parameters: ZisofsParameters| open(&compressed, &parameters);
        open(parameters).expect("valid");
        for block_log2 in [0, 14, 16, 18, 200, 255] {
            open(ZisofsParameters { block_log2, ..parameters }).expect_err("another block");
        }
        open(ZisofsParameters { size: parameters.size + 1, ..parameters })
            .expect_err("another size");
        open(ZisofsParameters { size: u64::MAX, ..parameters }).expect_err("a size that overflows");
        open(ZisofsParameters { header_bytes: 0, ..parameters }).expect_err("no header");
        open(ZisofsParameters { version: 2, ..parameters }).expect_err("another magic");
        open(ZisofsParameters { version: 3, ..parameters }).expect_err("another version");
    }

    #[test]
    fn a_table_longer_than_the_file_is_refused_before_it_is_read() {
        let (mut compressed, mut parameters) = compress(&plain(), 2);
        parameters.size = 1 << 60;
        compressed[12..20].copy_from_slice(&parameters.size.to_le_bytes());
        let error = open(&compressed, &parameters).expect_err("too long");
        assert!(error.to_string().contains("do not fit"), "{error}");
    }

    #[test]
    fn pointers_that_descend_or_are_outside_the_file_fail_when_their_block_is_read() {
        let (right, parameters) = compress(&plain(), 1);
        let first = u32::from_le_bytes(right[16..20].try_into().expect("four bytes"));
        for (pointer, value) in [(0, 3), (0, u32::MAX), (1, first - 1), (1, u32::MAX)] {
            let mut compressed = right.clone();
            compressed[16 + 4 * pointer..][..4].copy_from_slice(&u32::to_le_bytes(value));
            let source = open(&compressed, &parameters).expect("opens");
            let error = source.read_exact_at(&mut [0; 9], 0).expect_err("no such block");
            let error = Error::io("cannot read", error);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            source.read_exact_at(&mut [0; 7], 3 * BLOCK as u64).expect("the last block is valid");
            // The failed block must not be in the cache.
            source.read_exact_at(&mut [0; 9], 0).expect_err("still no such block");
        }
    }

    #[test]
    fn a_block_that_exceeds_the_ratio_is_an_error() {
        let mut plain = vec![b'a'; BLOCK];
        plain.extend([b'b'; 9]);
        let (compressed, parameters) = compress(&plain, 1);
        let read = |unpacked_ratio| {
            let limits = Limits { unpacked_ratio, ..Limits::default() };
            let compressed = Arc::new(MemorySource::new(compressed.clone()));
            let source = ZisofsSource::new(compressed, parameters, &limits).expect("opens");
            source.read_exact_at(&mut vec![0; BLOCK], 0)
        };
        read(1032).expect("the maximum ratio of deflate");
        read(10).expect_err("exceeds the limit");
    }

    #[test]
    fn a_damaged_block_is_an_error() {
        let (mut compressed, parameters) = compress(&plain(), 1);
        let first = u32::from_le_bytes(compressed[16..20].try_into().expect("four bytes")) as usize;
        compressed[first..first + 9].fill(0xff);
        let source = open(&compressed, &parameters).expect("opens");
        source.read_exact_at(&mut [0; 9], 0).expect_err("not a zlib stream");
    }
}
