//! gzip (RFC 1952), and its members in the form of bgzip: each is at most 64 KiB long and has its
//! size in an extra field (the SAM/BAM format specification, 4.1).
//!
//! ```text
//!   1f 8b 08 04 … XLEN │ "BC" 2 0 BSIZE-1 │ deflate │ CRC-32 │ uncompressed length
//! ```

use super::{Block, BlockBounds, Blocks, READ_BUFFER, damaged};
use crate::storage::codec::{Codec, Decoder};
use crate::storage::source::{Source, SourceReader};
use flate2::bufread::MultiGzDecoder;
use std::io::{self, BufReader, Read};

/// Length in bytes of a member's header without its extra fields, but with their length.
const HEADER: u64 = 12;

/// Length in bytes of the only extra field that bgzip writes.
const EXTRA: u64 = 6;

/// Length in bytes of the CRC and the uncompressed length.
const TRAILER: u64 = 8;

/// Maximum uncompressed length of a member.
const MAX_MEMBER: u64 = 64 << 10;

pub(super) fn reader(source: &dyn Source) -> impl Read + Send + '_ {
    MultiGzDecoder::new(BufReader::with_capacity(READ_BUFFER, SourceReader::whole(source)))
}

/// Lists the members if all of them are of bgzip.
pub(super) fn blocks(source: &dyn Source, bounds: BlockBounds) -> io::Result<Option<Blocks>> {
    let mut blocks = Blocks::default();
    let mut at = 0;
    while at < source.len() {
        let Some(member_len) = member_len(source, at)? else { return Ok(None) };
        let mut isize = [0; 4];
        source.read_exact_at(&mut isize, at + member_len - 4)?;
        let len = u64::from(u32::from_le_bytes(isize));
        let stored = at..at + member_len;
        if len > MAX_MEMBER || blocks.add(stored, len, 0, bounds).is_none() {
            return Ok(None);
        }
        at += member_len;
    }
    Ok(Some(blocks))
}

/// Returns the length in bytes of the member at `at`, if it has the extra field of bgzip and is
/// within the source.
fn member_len(source: &dyn Source, at: u64) -> io::Result<Option<u64>> {
    let mut header = [0; (HEADER + EXTRA) as usize];
    let shortest = HEADER + EXTRA + TRAILER;
    if source.len() - at < shortest {
        return Ok(None);
    }
    source.read_exact_at(&mut header, at)?;
    let is_bgzip = header[..4] == [0x1f, 0x8b, 8, 4] && header[10..16] == *b"\x06\0BC\x02\0";
    let len = u64::from(u16::from_le_bytes([header[16], header[17]])) + 1;
    let fits = (shortest..=source.len() - at).contains(&len);
    Ok(Some(len).filter(|_| is_bgzip && fits))
}

pub(super) fn decode(source: &dyn Source, block: &Block, bytes: &mut [u8]) -> io::Result<()> {
    let mut stored = vec![0; (block.stored.end - block.stored.start) as usize];
    source.read_exact_at(&mut stored, block.stored.start)?;
    let (rest, trailer) = stored.split_at(stored.len() - TRAILER as usize);
    Decoder::default().decode(Codec::Deflate, &rest[(HEADER + EXTRA) as usize..], bytes)?;
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    match trailer.starts_with(&crc.sum().to_le_bytes()) {
        true => Ok(()),
        false => Err(damaged("the CRC of a gzip member is wrong")),
    }
}
