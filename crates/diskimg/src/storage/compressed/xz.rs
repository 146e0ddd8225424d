//! The .xz file format, version 1.2.1.
//!
//! ```text
//!   stream header │ block │ block │ … │ index │ stream footer │ padding │ next stream …
//!   fd 7zXZ 00                          ▲ the sizes of        backward size: length of the index
//!   flags, CRC-32                         all blocks
//! ```
//!
//! A block is decoded as a stream of its own: its header and index are made for it.

use super::{Block, BlockBounds, Blocks, READ_BUFFER, WINDOW, damaged, read_exactly};
use crate::storage::source::{Source, SourceReader};
use lzma_rust2::XzReader;
use std::io::{self, BufReader, Read};

/// Length in bytes of a stream's header, and of its footer.
const HEADER: u64 = 12;

const HEADER_MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

const FOOTER_MAGIC: [u8; 2] = *b"YZ";

/// The flags of a block have the kind of its check in the lower four bits, and from here on how many
/// bytes of padding it has.
const PADDING_SHIFT: u32 = 4;

/// Number of streams of a file that are looked at. Each takes some reads.
const MAX_STREAMS: usize = 4096;

/// Maximum memory of a decoder in KiB: the dictionary, and what it needs besides.
const MEMORY_KIB: u32 = (WINDOW >> 10) as u32 + 1024;

/// Maximum length in bytes of the padding after a stream that is skipped.
const MAX_PADDING: u64 = 64 << 10;

pub(super) fn reader(source: &dyn Source) -> io::Result<impl Read + Send + '_> {
    let end = end_of_streams(source, source.len())?;
    let stored = BufReader::with_capacity(READ_BUFFER, SourceReader::new(source, 0..end));
    Ok(XzReader::new_mem_limit(stored, true, MEMORY_KIB))
}

/// Returns the offset before `end` at which the padding of a stream begins: zeros, in units of four
/// bytes.
///
/// # Errors
/// Returns [`io::ErrorKind::InvalidData`] if it is longer than [`MAX_PADDING`].
fn end_of_streams(source: &dyn Source, end: u64) -> io::Result<u64> {
    let len = end.min(MAX_PADDING);
    let mut bytes = vec![0; len as usize];
    source.read_exact_at(&mut bytes, end - len)?;
    let padding = bytes.rchunks_exact(4).take_while(|unit| **unit == [0; 4]).count() as u64 * 4;
    if padding > 0 && padding + 4 > MAX_PADDING {
        return Err(damaged("the file ends with more zeros than may follow an xz stream"));
    }
    Ok(end - padding)
}

/// Lists the blocks of all streams, by their indexes.
pub(super) fn blocks(source: &dyn Source, bounds: BlockBounds) -> io::Result<Option<Blocks>> {
    let mut streams = Vec::new();
    let mut end = source.len();
    let mut listed = 0;
    while end > 0 {
        let Some(stream) = Stream::ending_at(source, end, bounds.list - listed)? else {
            return Ok(None);
        };
        listed += stream.records.len() as u64 * size_of::<Record>() as u64;
        end = stream.start;
        streams.push(stream);
        if streams.len() > MAX_STREAMS || listed > bounds.list {
            return Ok(None);
        }
    }
    let mut blocks = Blocks::default();
    for stream in streams.iter().rev() {
        let mut at = stream.start + HEADER;
        for record in &stream.records {
            let padding = record.unpadded_len.wrapping_neg() & 3;
            let stored = at..at + record.unpadded_len + padding;
            let flags = stream.check | (padding as u8) << PADDING_SHIFT;
            at = stored.end;
            if blocks.add(stored, record.len, flags, bounds).is_none() {
                return Ok(None);
            }
        }
    }
    Ok(Some(blocks))
}

/// A stream of the file.
struct Stream {
    /// Offset in bytes of its header.
    start: u64,
    /// The kind of check of its blocks.
    check: u8,
    records: Vec<Record>,
}

/// A record of an index.
struct Record {
    /// Length in bytes of the block without its padding.
    unpadded_len: u64,
    /// Uncompressed length in bytes.
    len: u64,
}

impl Stream {
    /// Reads the index of the stream that ends at `end`, before padding. Returns `None` if there is
    /// no valid one, or if it is longer than `max` bytes.
    fn ending_at(source: &dyn Source, mut end: u64, max: u64) -> io::Result<Option<Self>> {
        end = end_of_streams(source, end)?;
        let mut footer = [0; HEADER as usize];
        let Some(at) = end.checked_sub(HEADER) else { return Ok(None) };
        source.read_exact_at(&mut footer, at)?;
        let [c0, c1, c2, c3, b0, b1, b2, b3, reserved, check, magic @ ..] = footer;
        let valid = magic == FOOTER_MAGIC
            && reserved == 0
            && check <= 0x0f
            && u32::from_le_bytes([c0, c1, c2, c3]) == crc32(&footer[4..10]);
        let index_len = (u64::from(u32::from_le_bytes([b0, b1, b2, b3])) + 1) * 4;
        let index_at = (end - HEADER).checked_sub(index_len);
        let Some(index_at) = index_at.filter(|_| valid && index_len <= max) else {
            return Ok(None);
        };
        let mut index = vec![0; index_len as usize];
        source.read_exact_at(&mut index, index_at)?;
        let Some(records) = parse_index(&index) else { return Ok(None) };
        let padded = |record: &Record| record.unpadded_len.checked_next_multiple_of(4);
        let blocks = records.iter().try_fold(HEADER, |sum: u64, r| sum.checked_add(padded(r)?));
        let start = blocks.and_then(|blocks| index_at.checked_sub(blocks));
        Ok(start.map(|start| Self { start, check, records }))
    }
}

/// Parses an index (section 4). Returns `None` if it is not valid.
fn parse_index(index: &[u8]) -> Option<Vec<Record>> {
    let (body, crc) = index.split_last_chunk()?;
    let mut rest = body.strip_prefix(&[0])?;
    if u32::from_le_bytes(*crc) != crc32(body) {
        return None;
    }
    // Each record has at least two bytes.
    let count = usize::try_from(number(&mut rest)?).ok().filter(|&n| n <= rest.len() / 2)?;
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let unpadded_len = number(&mut rest).filter(|&len| len > 0)?;
        records.push(Record { unpadded_len, len: number(&mut rest)? });
    }
    Some(records).filter(|_| rest.len() < 4 && rest.iter().all(|&byte| byte == 0))
}

/// Takes a number of variable length (section 1.2).
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for index in 0..9 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(value).filter(|_| byte != 0 || index == 0);
        }
    }
    None
}

fn append_number(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

pub(super) fn decode(source: &dyn Source, block: &Block, bytes: &mut [u8]) -> io::Result<()> {
    let flags = [0, block.flags & ((1 << PADDING_SHIFT) - 1)];
    let padding = u64::from(block.flags >> PADDING_SHIFT);
    let mut header = HEADER_MAGIC.to_vec();
    header.extend(flags);
    header.extend(crc32(&flags).to_le_bytes());
    let mut index = vec![0, 1];
    append_number(&mut index, block.stored.end - block.stored.start - padding);
    append_number(&mut index, bytes.len() as u64);
    index.resize(index.len().next_multiple_of(4), 0);
    index.extend(crc32(&index).to_le_bytes());
    let backward_size = (index.len() / 4 - 1) as u32;
    let mut footer = backward_size.to_le_bytes().to_vec();
    footer.extend(flags);
    let mut end = index;
    end.extend(crc32(&footer).to_le_bytes());
    end.extend(footer);
    end.extend(FOOTER_MAGIC);
    let stored = SourceReader::new(source, block.stored.clone());
    let stream = header.chain(BufReader::with_capacity(READ_BUFFER, stored)).chain(&*end);
    read_exactly(XzReader::new_mem_limit(stream, false, MEMORY_KIB), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_variable_length_have_one_spelling() {
        for value in [0, 1, 127, 128, 300, u64::MAX >> 1] {
            let mut bytes = Vec::new();
            append_number(&mut bytes, value);
            let mut rest = &bytes[..];
            assert_eq!((number(&mut rest), rest.len()), (Some(value), 0));
        }
        // Zeros at the end; ten bytes; not complete.
        for bytes in [&[0x80, 0][..], &[0xff; 10], &[0x80]] {
            assert_eq!(number(&mut &*bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn an_index_with_a_wrong_count_or_padding_is_not_used() {
        let index = |body: &[u8]| {
            let mut bytes = body.to_vec();
            bytes.extend(crc32(body).to_le_bytes());
            parse_index(&bytes).map(|records| records.len())
        };
        assert_eq!(index(&[0, 1, 20, 9]), Some(1));
        assert_eq!(index(&[0, 2, 20, 9, 20, 9, 0, 0]), Some(2));
        assert_eq!(index(&[0, 2, 20, 9]), None, "a record is missing");
        assert_eq!(
            index(&[0, 0xff, 0xff, 0xff, 0x7f, 9, 9, 9]),
            None,
            "more than there is room for"
        );
        assert_eq!(index(&[0, 1, 20, 9, 1, 0, 0, 0]), None, "padding");
        assert_eq!(index(&[1, 1, 20, 9]), None, "not an index");
        assert_eq!(parse_index(&[0, 1, 20, 9, 0, 0, 0, 0]).map(|r| r.len()), None, "CRC");
    }
}
