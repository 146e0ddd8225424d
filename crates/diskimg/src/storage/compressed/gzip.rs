//! gzip (RFC 1952), and its members in the form of bgzip: each is at most 64 KiB long and has its
//! size in an extra field (the SAM/BAM format specification, 4.1).
//!
//! ```text
//!   1f 8b 08 04 … XLEN │ "BC" 2 0 BSIZE-1 │ deflate │ CRC-32 │ uncompressed length
//! ```

use super::{Block, BlockBounds, Blocks, READ_BUFFER, damaged};
use crate::storage::codec::{Codec, Decoder, Encoder};
use crate::storage::source::{Source, SourceReader};
use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, BufReader, Read};

/// Length in bytes of a member's header without its extra fields, but with their length.
const HEADER: u64 = 12;

/// Length in bytes of the only extra field that bgzip writes.
const EXTRA: u64 = 6;

/// Length in bytes of the CRC and the uncompressed length.
const TRAILER: u64 = 8;

/// Maximum length in bytes of a member, compressed and uncompressed.
pub(super) const MAX_MEMBER: u64 = 64 << 10;

/// The empty member with which bgzip marks the end of a file (4.1.2).
pub(super) const END: [u8; 28] = [
    0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 6, 0, b'B', b'C', 2, 0, 0x1b, 0, 3, 0, 0, 0, 0, 0, 0, 0,
    0, 0,
];

/// Reads all members as one stream. As by gzip, zeros at the end are ignored: they fill the last
/// block of a tape or a device.
struct Members<R> {
    /// `None` after the last member.
    member: Option<GzDecoder<R>>,
}

pub(super) fn reader(source: &dyn Source) -> impl Read + Send + '_ {
    Members::new(BufReader::with_capacity(READ_BUFFER, SourceReader::whole(source)))
}

impl<R: BufRead> Members<R> {
    fn new(stored: R) -> Self {
        Self { member: Some(GzDecoder::new(stored)) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = self.member.as_mut().filter(|_| !buf.is_empty()) {
            let read = member.read(buf)?;
            if read > 0 {
                return Ok(read);
            }
            let has_zeros = skip_zeros(member.get_mut())?;
            let at_end = member.get_mut().fill_buf()?.is_empty();
            if has_zeros && !at_end {
                return Err(damaged("other bytes follow the zeros after a gzip member"));
            }
            let next = self.member.take().filter(|_| !at_end);
            self.member = next.map(|member| GzDecoder::new(member.into_inner()));
        }
        Ok(0)
    }
}

/// Skips zeros. Returns true if there were any.
fn skip_zeros(stored: &mut impl BufRead) -> io::Result<bool> {
    let mut found = false;
    loop {
        let bytes = stored.fill_buf()?;
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        if zeros == 0 {
            return Ok(found);
        }
        stored.consume(zeros);
        found = true;
    }
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

/// Compresses to members in the form of bgzip.
#[derive(Debug)]
pub(crate) struct MemberEncoder(Encoder);

impl MemberEncoder {
    pub(super) fn new(level: Option<u32>) -> Self {
        Self(Encoder::deflate().at_level(level))
    }

    /// Appends `bytes` to `out` as members.
    pub(super) fn append(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        bytes.chunks(MAX_MEMBER as usize).try_for_each(|bytes| self.append_member(bytes, out))
    }

    /// Appends a member or, if the bytes are incompressible and one would become too long, two.
    fn append_member(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.extend([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 6, 0, b'B', b'C', 2, 0, 0, 0]);
        let max = (MAX_MEMBER - HEADER - EXTRA - TRAILER) as usize;
        if !self.0.encode(bytes, max + 1, out)? {
            out.truncate(start);
            let (first, second) = bytes.split_at(bytes.len() / 2);
            self.append_member(first, out)?;
            return self.append_member(second, out);
        }
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        out.extend(crc.sum().to_le_bytes());
        out.extend((bytes.len() as u32).to_le_bytes());
        // One less than the length, so that the maximum can be stored.
        let bsize = (out.len() - start - 1) as u16;
        out[start + 16..start + 18].copy_from_slice(&bsize.to_le_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn member(contents: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(contents).expect("in memory");
        encoder.finish().expect("in memory")
    }

    fn read(stored: &[u8]) -> io::Result<Vec<u8>> {
        let mut contents = Vec::new();
        // A buffer that is filled several times.
        let mut members = Members::new(BufReader::with_capacity(7, stored));
        members.read_to_end(&mut contents).map(|_| contents)
    }

    #[test]
    fn members_are_read_one_after_the_other() {
        let stored = [member(b"one "), member(b""), member(b"two")].concat();
        assert_eq!(read(&stored).expect("valid"), b"one two");
    }

    #[test]
    fn zeros_at_the_end_are_ignored_but_nothing_else() {
        let padded = [member(b"disk"), vec![0; 500]].concat();
        assert_eq!(read(&padded).expect("valid"), b"disk");
        assert!(read(&[&member(b"disk")[..], b"garbage and more"].concat()).is_err());
        assert!(read(&[padded, member(b"more")].concat()).is_err());
        let whole = member(b"disk");
        assert!(read(&whole[..whole.len() - 1]).is_err());
    }
}
