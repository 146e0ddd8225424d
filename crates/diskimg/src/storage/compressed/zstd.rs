//! Zstandard (RFC 8878), and the list of frames of its seekable format
//! (`contrib/seekable_format/zstd_seekable_compression_format.md`, version 0.1.0).
//!
//! ```text
//!   frame │ frame │ … │ 5e 2a 4d 18, length │ entries │ number of entries │ flags │ b1 ea 92 8f
//!                       a skippable frame      compressed, uncompressed length (, checksum)
//! ```
//!
//! Without a list, the frames are found by their headers and those of their blocks.

use super::{Block, BlockBounds, Blocks, READ_BUFFER, WINDOW, damaged, read_exactly};
use crate::storage::source::{Source, SourceReader};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Length in bytes of what follows the entries of a list.
const LIST_FOOTER: u64 = 9;

const LIST_MAGIC: [u8; 4] = [0xb1, 0xea, 0x92, 0x8f];

/// Length in bytes of the header of a skippable frame.
const SKIPPABLE_HEADER: u64 = 8;

/// Reads all frames as one stream.
pub(super) struct Frames<R> {
    context: DCtx<'static>,
    stored: R,
    /// Whether a frame has begun and not ended.
    inside: bool,
}

pub(super) fn reader(source: &dyn Source) -> io::Result<impl Read + Send + '_> {
    let stored = BufReader::with_capacity(READ_BUFFER, SourceReader::whole(source));
    Frames::new(stored)
}

impl<R: BufRead> Frames<R> {
    fn new(stored: R) -> io::Result<Self> {
        let mut context = DCtx::create();
        context.set_parameter(DParameter::WindowLogMax(WINDOW.ilog2())).map_err(failed)?;
        Ok(Self { context, stored, inside: false })
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut output = OutBuffer::around(buf);
        while output.pos() == 0 && output.capacity() > 0 {
            let stored = self.stored.fill_buf()?;
            let at_end = stored.is_empty();
            let mut input = InBuffer::around(stored);
            if at_end && !self.inside {
                break;
            }
            let left = self.context.decompress_stream(&mut output, &mut input).map_err(failed)?;
            let taken = input.pos();
            self.stored.consume(taken);
            self.inside = left > 0;
            if at_end && output.pos() == 0 {
                let message = "the zstd stream ends in the middle of a frame";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
        }
        Ok(output.pos())
    }
}

fn failed(code: zstd_safe::ErrorCode) -> io::Error {
    damaged(format!("cannot decode the zstd stream: {}", get_error_name(code)))
}

/// Lists the frames.
pub(super) fn blocks(source: &dyn Source, bounds: BlockBounds) -> io::Result<Option<Blocks>> {
    match listed_frames(source, bounds)? {
        Some(blocks) => Ok(Some(blocks)),
        None => found_frames(source, bounds),
    }
}

/// Returns the frames that the list at the end contains, if there is a valid one.
fn listed_frames(source: &dyn Source, bounds: BlockBounds) -> io::Result<Option<Blocks>> {
    let Some(footer_at) = source.len().checked_sub(LIST_FOOTER) else { return Ok(None) };
    let mut footer = [0; LIST_FOOTER as usize];
    source.read_exact_at(&mut footer, footer_at)?;
    let [c0, c1, c2, c3, flags, magic @ ..] = footer;
    // The other bits of the flags are reserved.
    if magic != LIST_MAGIC || flags & 0x7f != 0 {
        return Ok(None);
    }
    let entry = if flags & 0x80 == 0 { 8 } else { 12 };
    let list_len = u64::from(u32::from_le_bytes([c0, c1, c2, c3])) * entry;
    let list_at = footer_at.checked_sub(list_len);
    let Some(frame_at) = list_at.and_then(|at| at.checked_sub(SKIPPABLE_HEADER)) else {
        return Ok(None);
    };
    if list_len > bounds.list {
        return Ok(None);
    }
    let mut list = vec![0; (SKIPPABLE_HEADER + list_len) as usize];
    source.read_exact_at(&mut list, frame_at)?;
    let (header, entries) = list.split_at(SKIPPABLE_HEADER as usize);
    let stated = u64::from(u32::from_le_bytes([header[4], header[5], header[6], header[7]]));
    if header[..4] != [0x5e, 0x2a, 0x4d, 0x18] || stated != list_len + LIST_FOOTER {
        return Ok(None);
    }
    let mut blocks = Blocks::default();
    let mut at = 0u64;
    for entry in entries.chunks_exact(entry as usize) {
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| entry[at + i]));
        let stored = at..at + u64::from(number(0));
        at = stored.end;
        if blocks.add(stored, number(4).into(), 0, bounds).is_none() {
            return Ok(None);
        }
    }
    Ok(Some(blocks).filter(|_| at == frame_at))
}

/// Finds the frames by their headers, if all of them say how long their contents are.
fn found_frames(source: &dyn Source, bounds: BlockBounds) -> io::Result<Option<Blocks>> {
    let mut blocks = Blocks::default();
    let mut at = 0;
    while at < source.len() {
        let Some(frame) = Frame::at(source, at, bounds)? else { return Ok(None) };
        let stored = at..frame.end;
        at = frame.end;
        if blocks.add(stored, frame.len, 0, bounds).is_none() {
            return Ok(None);
        }
    }
    Ok(Some(blocks))
}

/// The extent of a frame.
struct Frame {
    /// Offset in bytes of its end.
    end: u64,
    /// Uncompressed length in bytes.
    len: u64,
}

impl Frame {
    /// Reads the frame at `at` (RFC 8878, section 3.1.1). Returns `None` if its uncompressed length is
    /// not stated or exceeds the bounds, or if it is not valid.
    fn at(source: &dyn Source, at: u64, bounds: BlockBounds) -> io::Result<Option<Self>> {
        let mut header = [0; 18];
        let available = (source.len() - at).min(header.len() as u64) as usize;
        source.read_exact_at(&mut header[..available], at)?;
        if header[1..4] == [0x2a, 0x4d, 0x18] && header[0] & 0xf0 == 0x50 {
            let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
            let end = at + SKIPPABLE_HEADER + u64::from(len);
            return Ok(Some(Self { end, len: 0 }).filter(|frame| frame.end <= source.len()));
        }
        let Some((header_len, len, has_checksum)) = frame_header(&header) else { return Ok(None) };
        if len > bounds.block {
            return Ok(None);
        }
        let mut end = at + header_len;
        loop {
            let mut block = [0; 4];
            if end + 3 > source.len() {
                return Ok(None);
            }
            source.read_exact_at(&mut block[..3], end)?;
            let block = u32::from_le_bytes(block);
            let size = u64::from(block >> 3);
            end += match block >> 1 & 3 {
                0 | 2 => 3 + size,
                // A byte that is repeated.
                1 => 3 + 1,
                _ => return Ok(None),
            };
            if block & 1 == 1 {
                break;
            }
        }
        end += if has_checksum { 4 } else { 0 };
        Ok(Some(Self { end, len }).filter(|frame| frame.end <= source.len()))
    }
}

/// Returns the length of a frame's header, that of its contents, and whether a checksum follows
/// them.
fn frame_header(header: &[u8; 18]) -> Option<(u64, u64, bool)> {
    let descriptor = header[4];
    let is_single_segment = descriptor & 0x20 != 0;
    let window = usize::from(!is_single_segment);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let at = 5 + window + dictionary;
    let (size_len, len) = match descriptor >> 6 {
        0 if is_single_segment => (1, header[at].into()),
        1 => (2, u64::from(u16::from_le_bytes([header[at], header[at + 1]])) + 256),
        2 => (4, u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i])).into()),
        3 => (8, u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| header[at + i]))),
        _ => return None,
    };
    let is_plain = header.starts_with(&MAGIC) && dictionary == 0;
    Some(((at + size_len) as u64, len, descriptor & 4 != 0)).filter(|_| is_plain)
}

pub(super) fn decode(source: &dyn Source, block: &Block, bytes: &mut [u8]) -> io::Result<()> {
    let stored = SourceReader::new(source, block.stored.clone());
    let stored = BufReader::with_capacity(READ_BUFFER.min(bytes.len().max(512)), stored);
    read_exactly(Frames::new(stored)?, bytes)
}

/// Default level: that of zstd.
const LEVEL: u32 = 3;

/// Maximum number of frames in a list (the format's section "Number_Of_Frames").
const MAX_FRAMES: u32 = 0x0800_0000;

/// Compresses to frames, each with the length of its contents and a checksum.
pub(crate) struct FrameEncoder(CCtx<'static>);

impl fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameEncoder")
    }
}

impl FrameEncoder {
    pub(super) fn new(level: Option<u32>) -> io::Result<Self> {
        let level = level.unwrap_or(LEVEL).clamp(1, 19) as i32;
        let mut context = CCtx::create();
        for parameter in [CParameter::CompressionLevel(level), CParameter::ChecksumFlag(true)] {
            context.set_parameter(parameter).map_err(cannot_encode)?;
        }
        Ok(Self(context))
    }

    /// Appends `bytes` to `out` as one frame.
    pub(super) fn append(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.resize(start + zstd_safe::compress_bound(bytes.len()), 0);
        let len = self.0.compress2(&mut out[start..], bytes).map_err(cannot_encode)?;
        out.truncate(start + len);
        Ok(())
    }
}

fn cannot_encode(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::other(get_error_name(code))
}

/// The list of frames, as it grows.
#[derive(Debug, Default)]
pub(crate) struct FrameList {
    /// In ascending order; frames of zeros are alike, so that one entry stands for many.
    runs: Vec<FrameRun>,
    count: u32,
}

/// Successive frames of the same lengths.
#[derive(Debug)]
struct FrameRun {
    /// The frame's entry in the list.
    entry: [u8; 8],
    count: u32,
}

impl FrameList {
    /// Adds `count` frames of `stored` bytes each, with `len` bytes of contents.
    pub(super) fn add(&mut self, stored: u32, len: u32, count: u32) -> io::Result<()> {
        let sum = self.count.checked_add(count).filter(|&sum| sum <= MAX_FRAMES);
        self.count = sum.ok_or_else(|| {
            io::Error::other(format!("more than {MAX_FRAMES} frames, the maximum of the format"))
        })?;
        let entry = (u64::from(len) << 32 | u64::from(stored)).to_le_bytes();
        match self.runs.last_mut() {
            Some(last) if last.entry == entry => last.count += count,
            _ => self.runs.push(FrameRun { entry, count }),
        }
        Ok(())
    }

    /// Passes the skippable frame with the list to `write`, in parts.
    pub(super) fn write(&self, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        const ENTRIES_PER_CALL: u32 = 8 << 10;
        let list_len = self.count * 8;
        write(&[0x5e, 0x2a, 0x4d, 0x18])?;
        write(&(list_len + LIST_FOOTER as u32).to_le_bytes())?;
        for run in &self.runs {
            let mut left = run.count;
            while left > 0 {
                let now = left.min(ENTRIES_PER_CALL);
                write(&run.entry.repeat(now as usize))?;
                left -= now;
            }
        }
        write(&self.count.to_le_bytes())?;
        // No checksums in the list: the frames have them.
        write(&[0])?;
        write(&LIST_MAGIC)
    }
}
