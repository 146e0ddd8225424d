//! Requests and replies, after the handshake.

use super::{
    ChunkFlags, CommandFlags, Fields, MAX_STRING, chunk, expect_magic, join, malformed, read_array,
};
use std::io::{self, Read};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// A request. The data of a WRITE follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) flags: CommandFlags,
    /// One of [`command`].
    pub(crate) command: u16,
    /// The reply has the same number. The client chooses it.
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

impl Request {
    pub(crate) const LEN: usize = 28;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        join(&[
            &REQUEST_MAGIC.to_be_bytes(),
            &self.flags.bits().to_be_bytes(),
            &self.command.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.len.to_be_bytes(),
        ])
    }

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> io::Result<Self> {
        let mut fields = Fields::new(bytes);
        expect_magic(fields.u32()?.into(), REQUEST_MAGIC.into(), "a request")?;
        Ok(Self {
            flags: CommandFlags::from_bits_retain(fields.u16()?),
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            len: fields.u32()?,
        })
    }
}

/// The reply to any request, if structured replies were not agreed on, and to any but READ and
/// BLOCK_STATUS otherwise. The data of a READ follow it, unless it is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SimpleReply {
    /// 0 or one of [`error`].
    pub(crate) error: u32,
    pub(crate) cookie: u64,
}

impl SimpleReply {
    pub(crate) const LEN: usize = 16;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        join(&[
            &SIMPLE_REPLY_MAGIC.to_be_bytes(),
            &self.error.to_be_bytes(),
            &self.cookie.to_be_bytes(),
        ])
    }
}

/// A chunk of a structured reply. A payload of `len` bytes follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) flags: ChunkFlags,
    /// One of [`chunk`].
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    pub(crate) len: u32,
}

impl Chunk {
    pub(crate) const LEN: usize = 20;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        join(&[
            &STRUCTURED_REPLY_MAGIC.to_be_bytes(),
            &self.flags.bits().to_be_bytes(),
            &self.kind.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.len.to_be_bytes(),
        ])
    }

    pub(crate) fn is_error(&self) -> bool {
        self.kind & chunk::ERROR_BIT != 0
    }
}

/// A reply to a request, of either kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple(SimpleReply),
    Chunk(Chunk),
}

impl Reply {
    /// Reads a header.
    ///
    /// # Errors
    /// Returns the underlying error, and `InvalidData` for another magic number.
    pub(crate) fn read(reader: &mut impl Read) -> io::Result<Self> {
        let magic = u32::from_be_bytes(read_array(reader)?);
        match magic {
            SIMPLE_REPLY_MAGIC => {
                let bytes: [u8; SimpleReply::LEN - 4] = read_array(reader)?;
                let mut fields = Fields::new(&bytes);
                Ok(Self::Simple(SimpleReply { error: fields.u32()?, cookie: fields.u64()? }))
            }
            STRUCTURED_REPLY_MAGIC => {
                let bytes: [u8; Chunk::LEN - 4] = read_array(reader)?;
                let mut fields = Fields::new(&bytes);
                Ok(Self::Chunk(Chunk {
                    flags: ChunkFlags::from_bits_retain(fields.u16()?),
                    kind: fields.u16()?,
                    cookie: fields.u64()?,
                    len: fields.u32()?,
                }))
            }
            _ => Err(malformed(format!("a reply begins with 0x{magic:x}"))),
        }
    }
}

/// The payload of an OFFSET_HOLE chunk: zeros. That of OFFSET_DATA is an offset and the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HoleChunk {
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

impl HoleChunk {
    pub(crate) const LEN: usize = 12;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        join(&[&self.offset.to_be_bytes(), &self.len.to_be_bytes()])
    }

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> io::Result<Self> {
        let mut fields = Fields::new(bytes);
        Ok(Self { offset: fields.u64()?, len: fields.u32()? })
    }
}

/// A part of the payload of a BLOCK_STATUS chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) len: u32,
    /// As the context defines it.
    pub(crate) flags: u32,
}

/// The payload of a BLOCK_STATUS chunk: descriptors of consecutive ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockStatus {
    /// As in [`ContextReply`].
    pub(crate) context: u32,
    pub(crate) descriptors: Vec<Descriptor>,
}

impl BlockStatus {
    pub(crate) const DESCRIPTOR_LEN: usize = 8;

    /// Returns the length of the payload with `count` descriptors.
    pub(crate) const fn len(count: usize) -> usize {
        4 + count * Self::DESCRIPTOR_LEN
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let words = self.descriptors.iter().flat_map(|part| [part.len, part.flags]);
        std::iter::once(self.context).chain(words).flat_map(u32::to_be_bytes).collect()
    }

    /// # Errors
    /// Returns `InvalidData` unless there is at least one descriptor, and each has a length.
    pub(crate) fn decode(payload: &[u8]) -> io::Result<Self> {
        let mut fields = Fields::new(payload);
        let context = fields.u32()?;
        let mut descriptors = Vec::with_capacity(fields.len() / Self::DESCRIPTOR_LEN);
        while fields.len() > 0 {
            let part = Descriptor { len: fields.u32()?, flags: fields.u32()? };
            if part.len == 0 {
                return Err(malformed("a range of the block status has no length"));
            }
            descriptors.push(part);
        }
        match descriptors.is_empty() {
            true => Err(malformed("the block status has no ranges")),
            false => Ok(Self { context, descriptors }),
        }
    }
}

/// The payload of an error chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ErrorChunk {
    /// One of [`error`].
    pub(crate) error: u32,
    pub(crate) message: String,
    /// With ERROR_OFFSET only.
    pub(crate) offset: Option<u64>,
}

impl ErrorChunk {
    /// Maximum length of the payload.
    pub(crate) const MAX_LEN: usize = 4 + 2 + MAX_STRING + 8;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut payload = self.error.to_be_bytes().to_vec();
        payload.extend((self.message.len() as u16).to_be_bytes());
        payload.extend(self.message.as_bytes());
        payload.extend(self.offset.iter().flat_map(|offset| offset.to_be_bytes()));
        payload
    }

    /// Decodes the payload of a chunk of the type `kind`. One of an unknown type is read as far as
    /// all have the same layout.
    pub(crate) fn decode(kind: u16, payload: &[u8]) -> io::Result<Self> {
        let mut fields = Fields::new(payload);
        let error = fields.u32()?;
        if error == 0 {
            return Err(malformed("an error has the number 0"));
        }
        let len = fields.u16()?;
        let message = String::from_utf8_lossy(fields.bytes(len.into())?).into_owned();
        let offset = match kind {
            chunk::ERROR_OFFSET => Some(fields.u64()?),
            _ => None,
        };
        if matches!(kind, chunk::ERROR | chunk::ERROR_OFFSET) {
            fields.end()?;
        }
        Ok(Self { error, message, offset })
    }
}
