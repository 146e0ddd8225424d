//! The greeting and the options, by which both sides agree on an export.

use super::{
    Fields, HandshakeFlags, IHAVEOPT, MAX_CONTEXTS, MAX_PAYLOAD, NBDMAGIC, TransmissionFlags,
    expect_magic, info, join, malformed, option_reply,
};
use std::io;

/// Begins each reply to an option.
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// The greeting of a fixed newstyle server.
pub(crate) fn greeting(flags: HandshakeFlags) -> [u8; 18] {
    join(&[&NBDMAGIC.to_be_bytes(), &IHAVEOPT.to_be_bytes(), &flags.bits().to_be_bytes()])
}

/// An option of a client, which `len` bytes of data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OptionHeader {
    pub(crate) option: u32,
    pub(crate) len: u32,
}

impl OptionHeader {
    pub(crate) const LEN: usize = 16;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        join(&[&IHAVEOPT.to_be_bytes(), &self.option.to_be_bytes(), &self.len.to_be_bytes()])
    }

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> io::Result<Self> {
        let mut fields = Fields::new(bytes);
        expect_magic(fields.u64()?, IHAVEOPT, "an option")?;
        Ok(Self { option: fields.u32()?, len: fields.u32()? })
    }
}

/// A reply to an option, which `len` bytes of data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OptionReply {
    pub(crate) option: u32,
    /// One of [`option_reply`].
    pub(crate) reply: u32,
    pub(crate) len: u32,
}

impl OptionReply {
    pub(crate) const LEN: usize = 20;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        join(&[
            &OPTION_REPLY_MAGIC.to_be_bytes(),
            &self.option.to_be_bytes(),
            &self.reply.to_be_bytes(),
            &self.len.to_be_bytes(),
        ])
    }

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> io::Result<Self> {
        let mut fields = Fields::new(bytes);
        expect_magic(fields.u64()?, OPTION_REPLY_MAGIC, "a reply to an option")?;
        Ok(Self { option: fields.u32()?, reply: fields.u32()?, len: fields.u32()? })
    }

    pub(crate) fn is_error(&self) -> bool {
        self.reply & option_reply::ERROR != 0
    }
}

/// Appends a string after a word with its length.
fn put_string(message: &mut Vec<u8>, string: &str) {
    message.extend((string.len() as u32).to_be_bytes());
    message.extend(string.as_bytes());
}

/// The data of INFO and GO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GoOption {
    pub(crate) export: String,
    /// Types of [`info`] that the client asks for.
    pub(crate) infos: Vec<u16>,
}

impl GoOption {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut message = Vec::new();
        put_string(&mut message, &self.export);
        message.extend((self.infos.len() as u16).to_be_bytes());
        message.extend(self.infos.iter().flat_map(|info| info.to_be_bytes()));
        message
    }

    pub(crate) fn decode(message: &[u8]) -> io::Result<Self> {
        let mut fields = Fields::new(message);
        let export = fields.sized_string()?.to_owned();
        let count = fields.u16()?;
        // Bounded by the length of the message, which ends the loop.
        let infos = (0..count).map(|_| fields.u16()).collect::<io::Result<_>>()?;
        fields.end()?;
        Ok(Self { export, infos })
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContextsOption {
    pub(crate) export: String,
    /// Names of contexts. Those of LIST_META_CONTEXT may be namespaces, `base:`.
    pub(crate) queries: Vec<String>,
}

impl ContextsOption {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut message = Vec::new();
        put_string(&mut message, &self.export);
        message.extend((self.queries.len() as u32).to_be_bytes());
        for query in &self.queries {
            put_string(&mut message, query);
        }
        message
    }

    pub(crate) fn decode(message: &[u8]) -> io::Result<Self> {
        let mut fields = Fields::new(message);
        let export = fields.sized_string()?.to_owned();
        let count = fields.u32()?;
        if count as usize > MAX_CONTEXTS {
            return Err(malformed(format!("{count} contexts are more than {MAX_CONTEXTS}")));
        }
        let queries = (0..count).map(|_| fields.sized_string().map(str::to_owned));
        let queries = queries.collect::<io::Result<_>>()?;
        fields.end()?;
        Ok(Self { export, queries })
    }
}

/// The data of a reply META_CONTEXT: the number by which chunks name a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContextReply {
    pub(crate) id: u32,
    pub(crate) name: String,
}

impl ContextReply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&self.id.to_be_bytes(), self.name.as_bytes()].concat()
    }

    pub(crate) fn decode(message: &[u8]) -> io::Result<Self> {
        let mut fields = Fields::new(message);
        let id = fields.u32()?;
        let name = fields.string(fields.len())?.to_owned();
        Ok(Self { id, name })
    }
}

/// The data of a reply SERVER: an export in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerReply {
    pub(crate) export: String,
    pub(crate) description: String,
}

impl ServerReply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut message = Vec::new();
        put_string(&mut message, &self.export);
        message.extend(self.description.as_bytes());
        message
    }

    pub(crate) fn decode(message: &[u8]) -> io::Result<Self> {
        let mut fields = Fields::new(message);
        let export = fields.sized_string()?.to_owned();
        let description = fields.string(fields.len())?.to_owned();
        Ok(Self { export, description })
    }
}

/// The size and the abilities of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExportInfo {
    pub(crate) size: u64,
    pub(crate) flags: TransmissionFlags,
}

impl ExportInfo {
    pub(crate) const LEN: usize = 10;

    /// As the reply to EXPORT_NAME, which [`EXPORT_NAME_ZEROES`] may follow.
    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        join(&[&self.size.to_be_bytes(), &self.flags.bits().to_be_bytes()])
    }

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> io::Result<Self> {
        let mut fields = Fields::new(bytes);
        Ok(Self { size: fields.u64()?, flags: TransmissionFlags::from_bits_retain(fields.u16()?) })
    }
}

/// Lengths of requests that an export accepts, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockSizes {
    /// Offsets and lengths are multiples of it.
    pub(crate) min: u32,
    pub(crate) preferred: u32,
    /// Maximum length of READ and WRITE; of other requests, too, unless it is `u32::MAX`.
    pub(crate) max: u32,
}

impl BlockSizes {
    /// Those of an export that does not tell them. The protocol says 1 is the minimum only if the
    /// server said so, and 512 works with all.
    pub(crate) const DEFAULT: Self = Self { min: 512, preferred: 4096, max: MAX_PAYLOAD };
}

/// The data of a reply INFO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InfoReply {
    Export(ExportInfo),
    Name(String),
    Description(String),
    BlockSizes(BlockSizes),
    /// Of a type that this version does not know.
    Other(u16),
}

impl InfoReply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let with_type = |info: u16, data: &[u8]| [&info.to_be_bytes(), data].concat();
        match self {
            Self::Export(export) => with_type(info::EXPORT, &export.encode()),
            Self::Name(name) => with_type(info::NAME, name.as_bytes()),
            Self::Description(text) => with_type(info::DESCRIPTION, text.as_bytes()),
            Self::BlockSizes(sizes) => {
                let sizes = [sizes.min, sizes.preferred, sizes.max].map(u32::to_be_bytes);
                with_type(info::BLOCK_SIZE, sizes.as_flattened())
            }
            Self::Other(info) => with_type(*info, &[]),
        }
    }

    pub(crate) fn decode(message: &[u8]) -> io::Result<Self> {
        let mut fields = Fields::new(message);
        let reply = match fields.u16()? {
            info::EXPORT => Self::Export(ExportInfo::decode(&fields.array()?)?),
            info::NAME => Self::Name(fields.string(fields.len())?.to_owned()),
            info::DESCRIPTION => Self::Description(fields.string(fields.len())?.to_owned()),
            info::BLOCK_SIZE => Self::BlockSizes(BlockSizes {
                min: fields.u32()?,
                preferred: fields.u32()?,
                max: fields.u32()?,
            }),
            other => {
                fields.rest();
                Self::Other(other)
            }
        };
        fields.end()?;
        Ok(reply)
    }
}
