//! zisofs: files stored packed, a block at a time (RRIP's ZF entry, by H. Peter Anvin; version 2
//! by libburnia, `doc/zisofs2_format.txt`).
//!
//! ```text
//!   version 1   0 magic    8 size: 4    12 header / 4    13 log2 of a block   14 reserved    16
//!   version 2   0 magic    8 version 0   9 header / 4    10 algorithm 1       11 log2        12 size: 8   24
//!   then        pointers, 4 or 8 bytes each: where each block is in the file, and where the last ends
//!   then        blocks, each a zlib stream of its own; an empty one is a block of zeros
//! ```
//!
//! What hostile files ask for is bounded by what they are: every stored byte belongs to one block
//! at most, and a block may be [`unpacked_ratio`](crate::Limits::unpacked_ratio) times as long
//! as what is stored of it. Blocks of zeros cost nothing: they are holes.

use crate::error::{Error, Result};
use crate::iso::node::ZisofsForm;
use crate::open::limits::Limits;
use crate::storage::codec::Decoder;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{Segment, Source, check_range};
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

const NAME: &str = "zisofs file";

/// Pointers that are looked at together, to see how far a hole or data goes.
const POINTERS_AT_ONCE: u64 = 1024;

/// What differs between the two versions.
struct Version {
    magic: [u8; 8],
    header_bytes: u64,
    pointer_bytes: u8,
    /// log2 of a block's bytes.
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

/// The unpacked bytes of a zisofs file.
#[derive(Debug)]
pub(crate) struct ZisofsSource {
    packed: Arc<dyn Source>,
    size: u64,
    block_log2: u8,
    blocks: u64,
    /// Where the pointers are, and how long each is.
    table: u64,
    pointer_bytes: u8,
    /// Stored bytes times this is the most that a block may unpack to.
    ratio: u64,
    last: Mutex<Unpacked>,
}

/// The block that was unpacked last.
#[derive(Debug, Default)]
struct Unpacked {
    index: Option<u64>,
    bytes: Vec<u8>,
    stored: Vec<u8>,
    decoder: Decoder,
}

impl ZisofsSource {
    /// Checks the header in `packed` against what the ZF entry says, and the table's bounds.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the two disagree, or the pointers leave
    /// the file; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for another version.
    pub(crate) fn new(packed: Arc<dyn Source>, form: ZisofsForm, limits: &Limits) -> Result<Self> {
        let version = match form.version {
            1 => VERSION_1,
            2 => VERSION_2,
            other => return Err(Error::unsupported(format!("zisofs of version {other}"))),
        };
        if !version.block_log2.contains(&form.block_log2) {
            let (low, high) = (version.block_log2.start(), version.block_log2.end());
            return Err(corrupt(format!(
                "blocks of 2^{} bytes; 2^{low} to 2^{high} are possible",
                form.block_log2
            )));
        }
        if form.header_bytes < version.header_bytes {
            return Err(corrupt(format!("its header has {} bytes", form.header_bytes)));
        }
        check_header(&*packed, &version, &form)?;
        let blocks = form.size.div_ceil(1 << form.block_log2);
        let table_end = blocks
            .checked_add(1)
            .and_then(|pointers| pointers.checked_mul(version.pointer_bytes.into()))
            .and_then(|bytes| bytes.checked_add(form.header_bytes));
        if table_end.is_none_or(|end| end > packed.len()) {
            let what = format!("its pointers to {blocks} blocks do not fit into it");
            return Err(corrupt(what));
        }
        Ok(Self {
            packed,
            size: form.size,
            block_log2: form.block_log2,
            blocks,
            table: form.header_bytes,
            pointer_bytes: version.pointer_bytes,
            ratio: limits.unpacked_ratio,
            last: Mutex::default(),
        })
    }

    /// `count` pointers from the one of block `first` on, which are all in the table.
    fn pointers(&self, first: u64, count: u64) -> io::Result<Vec<u64>> {
        let width = usize::from(self.pointer_bytes);
        let mut bytes = vec![0; to_usize(count) * width];
        self.packed.read_exact_at(&mut bytes, self.table + first * to_u64(width))?;
        let pointer = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
        Ok(bytes.chunks_exact(width).map(pointer).collect())
    }

    /// Bytes that a block unpacks to.
    fn block_len(&self, index: u64) -> usize {
        let block = 1u64 << self.block_log2;
        to_usize((self.size - (index << self.block_log2)).min(block))
    }

    /// Fills `block` with the block `index`.
    fn unpack(
        &self,
        index: u64,
        block: &mut [u8],
        stored: &mut Vec<u8>,
        decoder: &mut Decoder,
    ) -> io::Result<()> {
        let pointers = self.pointers(index, 2)?;
        let (start, end) = (pointers[0], pointers[1]);
        let first = self.table + (self.blocks + 1) * u64::from(self.pointer_bytes);
        if start == end {
            block.fill(0);
            return Ok(());
        }
        if start > end || start < first || end > self.packed.len() {
            return Err(damaged(format!(
                "block {index} of a zisofs file is at {start}..{end}, which cannot be"
            )));
        }
        let len = to_u64(block.len());
        // No deflater makes a block much longer than it was.
        if end - start > 2 * (1 << self.block_log2) {
            return Err(damaged(format!("block {index} of a zisofs file is too long")));
        }
        if len > self.ratio.saturating_mul(end - start) {
            let stored = end - start;
            let found = format!("block {index} of a zisofs file unpacks {stored} bytes to {len}");
            return Err(io::Error::other(Error::over_limit("unpacked_ratio", found, self.ratio)));
        }
        stored.resize(to_usize(end - start), 0);
        self.packed.read_exact_at(stored, start)?;
        decoder.decode_zlib_exactly(stored, block)
    }
}

impl Source for ZisofsSource {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        check_range(offset, buf.len(), self.size)?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Unpacked { index: cached, bytes, stored, decoder } = &mut *last;
        while !buf.is_empty() {
            let index = offset >> self.block_log2;
            let len = self.block_len(index);
            let inside = to_usize(offset - (index << self.block_log2));
            let (now, later) = buf.split_at_mut(buf.len().min(len - inside));
            if now.len() == len && *cached != Some(index) {
                self.unpack(index, now, stored, decoder)?;
            } else {
                if *cached != Some(index) {
                    // Forgotten until it is there: the bytes are not, should unpacking fail.
                    *cached = None;
                    bytes.resize(len, 0);
                    self.unpack(index, bytes, stored, decoder)?;
                    *cached = Some(index);
                }
                now.copy_from_slice(&bytes[inside..][..now.len()]);
            }
            offset += to_u64(now.len());
            buf = later;
        }
        Ok(())
    }

    fn segment_at(&self, offset: u64) -> io::Result<Segment> {
        let first = offset >> self.block_log2;
        let count = (self.blocks - first).min(POINTERS_AT_ONCE);
        let pointers = self.pointers(first, count + 1)?;
        let mut empty = pointers.windows(2).map(|pair| pair[0] == pair[1]);
        let hole = empty.next().unwrap_or(false);
        let alike = 1 + to_u64(empty.take_while(|&other| other == hole).count());
        let end = (first + alike) << self.block_log2;
        Ok(Segment { end: end.min(self.size), hole })
    }
}

/// The header says what the ZF entry says.
fn check_header(packed: &dyn Source, version: &Version, form: &ZisofsForm) -> Result<()> {
    let mut header = [0; 24];
    let header = &mut header[..to_usize(version.header_bytes)];
    packed.read_exact_at(header, 0).map_err(|e| Error::io("cannot read", e).in_structure(NAME))?;
    if header[..8] != version.magic {
        let what = format!("it does not begin as version {} does", form.version);
        return Err(corrupt(what));
    }
    let le = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    let (size, quarter, log2) = match form.version {
        1 => (le(&header[8..12]), header[12], header[13]),
        _ => (le(&header[12..20]), header[9], header[11]),
    };
    if form.version == 2 && (header[8], header[10]) != (0, 1) {
        let what = format!("zisofs of version 2.{} with algorithm {}", header[8], header[10]);
        return Err(Error::unsupported(what));
    }
    let told = (size, u64::from(quarter) * 4, log2);
    if told != (form.size, form.header_bytes, form.block_log2) {
        let what = format!(
            "size, header and block are {told:?} by its own header, and {:?} by the ZF entry",
            (form.size, form.header_bytes, form.block_log2)
        );
        return Err(corrupt(what));
    }
    Ok(())
}

fn corrupt(what: String) -> Error {
    Error::corrupt(NAME, what)
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::codec::Encoder;
    use crate::storage::source::MemorySource;

    const BLOCK: usize = 1 << 15;

    /// Packs `plain` by the version's rules.
    fn pack(plain: &[u8], version: u8) -> (Vec<u8>, ZisofsForm) {
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
                Encoder::zlib().encode(block, 2 * BLOCK, &mut stored).expect("packs");
            }
            at += stored.len() - start;
        }
        header.extend(&(at as u64).to_le_bytes()[..width]);
        header.extend(stored);
        let header_bytes = rules.header_bytes;
        (header, ZisofsForm { version, header_bytes, block_log2: 15, size })
    }

    fn open(packed: &[u8], form: &ZisofsForm) -> Result<ZisofsSource> {
        let packed = Arc::new(MemorySource::new(packed.to_vec()));
        ZisofsSource::new(packed, *form, &Limits::default())
    }

    /// A block of counting, two of zeros, a short one.
    fn plain() -> Vec<u8> {
        let mut plain: Vec<u8> = (0..BLOCK as u32).flat_map(|n| [(n / 5) as u8]).collect();
        plain.resize(3 * BLOCK, 0);
        plain.extend(*b"the end");
        plain
    }

    #[test]
    fn every_range_reads_as_it_was_in_both_versions() {
        for version in [1, 2] {
            let plain = plain();
            let (packed, form) = pack(&plain, version);
            let source = open(&packed, &form).expect("right");
            let edges = [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 5, 3 * BLOCK, plain.len()];
            for start in edges {
                for end in edges.into_iter().filter(|&end| end >= start) {
                    let mut buf = vec![7; end - start];
                    source.read_exact_at(&mut buf, start as u64).expect("inside");
                    assert_eq!(buf, plain[start..end], "{start}..{end} of version {version}");
                }
            }
            source.read_exact_at(&mut [0; 2], plain.len() as u64 - 1).expect_err("behind the end");
        }
    }

    #[test]
    fn blocks_of_zeros_are_holes() {
        let (packed, form) = pack(&plain(), 1);
        let source = open(&packed, &form).expect("right");
        let segment = |at: usize| source.segment_at(at as u64).expect("in memory");
        let (block, size) = (BLOCK as u64, form.size);
        assert_eq!(segment(5), Segment { end: block, hole: false });
        assert_eq!(segment(BLOCK), Segment { end: 3 * block, hole: true });
        assert_eq!(segment(3 * BLOCK + 1), Segment { end: size, hole: false });
    }

    #[test]
    fn a_form_that_cannot_be_or_that_the_header_denies_is_refused() {
        let (packed, form) = pack(&plain(), 1);
        let open = |form: ZisofsForm| open(&packed, &form);
        open(form).expect("right");
        for block_log2 in [0, 14, 16, 18, 200, 255] {
            open(ZisofsForm { block_log2, ..form }).expect_err("another block");
        }
        open(ZisofsForm { size: form.size + 1, ..form }).expect_err("another size");
        open(ZisofsForm { size: u64::MAX, ..form }).expect_err("a size that overflows");
        open(ZisofsForm { header_bytes: 0, ..form }).expect_err("no header");
        open(ZisofsForm { version: 2, ..form }).expect_err("another magic");
        open(ZisofsForm { version: 3, ..form }).expect_err("another version");
    }

    #[test]
    fn a_table_longer_than_the_file_is_refused_before_it_is_read() {
        let (mut packed, mut form) = pack(&plain(), 2);
        form.size = 1 << 60;
        packed[12..20].copy_from_slice(&form.size.to_le_bytes());
        let error = open(&packed, &form).expect_err("too long");
        assert!(error.to_string().contains("do not fit"), "{error}");
    }

    #[test]
    fn pointers_that_descend_or_leave_the_file_fail_where_they_are_read() {
        let (right, form) = pack(&plain(), 1);
        let first = u32::from_le_bytes(right[16..20].try_into().expect("four bytes"));
        for (pointer, value) in [(0, 3), (0, u32::MAX), (1, first - 1), (1, u32::MAX)] {
            let mut packed = right.clone();
            packed[16 + 4 * pointer..][..4].copy_from_slice(&u32::to_le_bytes(value));
            let source = open(&packed, &form).expect("opens");
            let error = source.read_exact_at(&mut [0; 9], 0).expect_err("no such block");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            source.read_exact_at(&mut [0; 7], 3 * BLOCK as u64).expect("the last is right");
            // Nothing of the failure is left behind.
            source.read_exact_at(&mut [0; 9], 0).expect_err("still no such block");
        }
    }

    #[test]
    fn a_bomb_goes_no_further_than_the_ratio() {
        let mut plain = vec![b'a'; BLOCK];
        plain.extend([b'b'; 9]);
        let (packed, form) = pack(&plain, 1);
        let read = |unpacked_ratio| {
            let limits = Limits { unpacked_ratio, ..Limits::default() };
            let packed = Arc::new(MemorySource::new(packed.clone()));
            let source = ZisofsSource::new(packed, form, &limits).expect("opens");
            source.read_exact_at(&mut vec![0; BLOCK], 0)
        };
        read(1032).expect("what deflate can do");
        read(10).expect_err("more than is allowed");
    }

    #[test]
    fn a_damaged_block_is_an_error() {
        let (mut packed, form) = pack(&plain(), 1);
        let first = u32::from_le_bytes(packed[16..20].try_into().expect("four bytes")) as usize;
        packed[first..first + 9].fill(0xff);
        let source = open(&packed, &form).expect("opens");
        source.read_exact_at(&mut [0; 9], 0).expect_err("no zlib stream");
    }
}
