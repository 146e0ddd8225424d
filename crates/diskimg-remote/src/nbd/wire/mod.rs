//! The messages of the NBD protocol, as both sides send and receive them. All numbers are big-endian.
//!
//! ```text
//!   greeting   server: NBDMAGIC, IHAVEOPT, HandshakeFlags        client: ClientFlags
//!   options    client: OptionHeader, data                        server: OptionReply, data
//!   requests   client: Request, data of a WRITE                  server: SimpleReply, data of a READ
//!                                                                     or Chunk, payload
//! ```
//!
//! See `doc/proto.md` of the NBD project. Everything that is decoded here is bounded, and what
//! violates the protocol is an error of the kind [`InvalidData`](io::ErrorKind::InvalidData).
#![allow(dead_code, unused_imports)]

mod handshake;
mod transmission;

pub(crate) use handshake::*;
pub(crate) use transmission::*;

#[cfg(test)]
mod tests;

use bitflags::bitflags;
use std::io::{self, Read};

/// The TCP port of NBD, registered with IANA.
pub(crate) const PORT: u16 = 10809;

/// First bytes of every server.
pub(crate) const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;

/// Follows [`NBDMAGIC`] of a newstyle server; begins each option of a client.
pub(crate) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;

/// Follows [`NBDMAGIC`] of an oldstyle server.
pub(crate) const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;

/// Maximum length of a string: of the name of an export, of a context or of a message.
pub(crate) const MAX_STRING: usize = 4096;

/// Maximum length of the data of an option or of a reply to one. Room for a name, and for some
/// contexts or a description.
pub(crate) const MAX_OPTION_DATA: usize = 64 << 10;

/// Maximum number of contexts of metadata in one option.
pub(crate) const MAX_CONTEXTS: usize = 64;

/// Maximum number of bytes of one READ or WRITE that every server accepts, unless it says otherwise.
pub(crate) const MAX_PAYLOAD: u32 = 32 << 20;

/// Maximum number of descriptors in one chunk with block status.
pub(crate) const MAX_DESCRIPTORS: usize = 1 << 20;

/// Zeros after the reply to [`option::EXPORT_NAME`], unless [`ClientFlags::NO_ZEROES`] is set.
pub(crate) const EXPORT_NAME_ZEROES: usize = 124;

/// The context of metadata with the flags [`ALLOCATION_HOLE`] and [`ALLOCATION_ZERO`].
pub(crate) const BASE_ALLOCATION: &str = "base:allocation";

/// In `base:allocation`: no space is allocated. Says nothing about the bytes.
pub(crate) const ALLOCATION_HOLE: u32 = 1;

/// In `base:allocation`: the bytes are zeros.
pub(crate) const ALLOCATION_ZERO: u32 = 2;

/// First part of the names of QEMU's contexts for dirty bitmaps. Bit 0 of the flags is "dirty".
pub(crate) const QEMU_DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

bitflags! {
    /// What a newstyle server offers in its greeting.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct HandshakeFlags: u16 {
        /// Unknown options are answered instead of closing the connection.
        const FIXED_NEWSTYLE = 1 << 0;
        /// The zeros after the reply to EXPORT_NAME can be omitted.
        const NO_ZEROES = 1 << 1;
        const _ = !0;
    }

    /// What a client accepts of the [`HandshakeFlags`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct ClientFlags: u32 {
        const FIXED_NEWSTYLE = 1 << 0;
        const NO_ZEROES = 1 << 1;
        const _ = !0;
    }

    /// What an export can do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct TransmissionFlags: u16 {
        /// Always set.
        const HAS_FLAGS = 1 << 0;
        const READ_ONLY = 1 << 1;
        const SEND_FLUSH = 1 << 2;
        /// [`CommandFlags::FUA`].
        const SEND_FUA = 1 << 3;
        const ROTATIONAL = 1 << 4;
        const SEND_TRIM = 1 << 5;
        const SEND_WRITE_ZEROES = 1 << 6;
        /// [`CommandFlags::DF`].
        const SEND_DF = 1 << 7;
        /// A FLUSH covers the writes of all connections, and all see the same bytes.
        const CAN_MULTI_CONN = 1 << 8;
        const SEND_RESIZE = 1 << 9;
        const SEND_CACHE = 1 << 10;
        /// [`CommandFlags::FAST_ZERO`].
        const SEND_FAST_ZERO = 1 << 11;
        const BLOCK_STAT_PAYLOAD = 1 << 12;
        const _ = !0;
    }

    /// Flags of a request.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct CommandFlags: u16 {
        /// The request is durable before its reply is sent.
        const FUA = 1 << 0;
        /// WRITE_ZEROES does not deallocate.
        const NO_HOLE = 1 << 1;
        /// The reply to a READ has a single chunk with data.
        const DF = 1 << 2;
        /// The reply to BLOCK_STATUS has one descriptor.
        const REQ_ONE = 1 << 3;
        /// WRITE_ZEROES fails with ENOTSUP unless it is faster than WRITE.
        const FAST_ZERO = 1 << 4;
        const PAYLOAD_LEN = 1 << 5;
        const _ = !0;
    }

    /// Flags of a chunk of a structured reply.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct ChunkFlags: u16 {
        /// The last chunk of the reply.
        const DONE = 1 << 0;
        const _ = !0;
    }
}

/// Numbers of options.
pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const STARTTLS: u32 = 5;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
    pub(crate) const EXTENDED_HEADERS: u32 = 11;
}

/// Types of replies to options.
pub(crate) mod option_reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    /// Set in each type that is an error.
    pub(crate) const ERROR: u32 = 1 << 31;
    pub(crate) const ERR_UNSUP: u32 = ERROR | 1;
    pub(crate) const ERR_POLICY: u32 = ERROR | 2;
    pub(crate) const ERR_INVALID: u32 = ERROR | 3;
    pub(crate) const ERR_PLATFORM: u32 = ERROR | 4;
    pub(crate) const ERR_TLS_REQD: u32 = ERROR | 5;
    pub(crate) const ERR_UNKNOWN: u32 = ERROR | 6;
    pub(crate) const ERR_SHUTDOWN: u32 = ERROR | 7;
    pub(crate) const ERR_BLOCK_SIZE_REQD: u32 = ERROR | 8;
    pub(crate) const ERR_TOO_BIG: u32 = ERROR | 9;
    pub(crate) const ERR_EXT_HEADER_REQD: u32 = ERROR | 10;
}

/// Types of the information in replies to INFO and GO.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// Commands of requests.
pub(crate) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISC: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const CACHE: u16 = 5;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
    pub(crate) const RESIZE: u16 = 8;
}

/// Types of the chunks of structured replies.
pub(crate) mod chunk {
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    /// Set in each type that is an error.
    pub(crate) const ERROR_BIT: u16 = 1 << 15;
    pub(crate) const ERROR: u16 = ERROR_BIT | 1;
    pub(crate) const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// Error numbers of replies: those of Linux, on every system.
pub(crate) mod error {
    pub(crate) const EPERM: u32 = 1;
    pub(crate) const EIO: u32 = 5;
    pub(crate) const ENOMEM: u32 = 12;
    pub(crate) const EINVAL: u32 = 22;
    pub(crate) const ENOSPC: u32 = 28;
    pub(crate) const EOVERFLOW: u32 = 75;
    pub(crate) const ENOTSUP: u32 = 95;
    pub(crate) const ESHUTDOWN: u32 = 108;
}

/// Returns the error of a message that violates the protocol.
pub(crate) fn malformed(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Reads exactly `N` bytes: a structure of fixed length.
///
/// # Errors
/// Returns the underlying error.
pub(crate) fn read_array<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Takes fields from the start of a message of known length.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    pub(crate) fn u16(&mut self) -> io::Result<u16> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk().ok_or_else(too_short)?;
        self.0 = rest;
        Ok(*field)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> io::Result<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len).ok_or_else(too_short)?;
        self.0 = rest;
        Ok(field)
    }

    /// A string of `len` bytes.
    pub(crate) fn string(&mut self, len: usize) -> io::Result<&'a str> {
        if len > MAX_STRING {
            return Err(malformed(format!("a string has {len} bytes, more than {MAX_STRING}")));
        }
        std::str::from_utf8(self.bytes(len)?).map_err(|_| malformed("a string is not UTF-8"))
    }

    /// A string after a word with its length.
    pub(crate) fn sized_string(&mut self) -> io::Result<&'a str> {
        let len = self.u32()?;
        self.string(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Checks that nothing is left.
    pub(crate) fn end(self) -> io::Result<()> {
        match self.0 {
            [] => Ok(()),
            _ => Err(malformed("a message is longer than its contents")),
        }
    }
}

fn too_short() -> io::Error {
    malformed("a message is shorter than its contents")
}

fn expect_magic(found: u64, expected: u64, what: &str) -> io::Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(malformed(format!("{what} begins with 0x{found:x}, not 0x{expected:x}"))),
    }
}

/// Concatenates fields to a message of known length.
fn join<const N: usize>(fields: &[&[u8]]) -> [u8; N] {
    let mut message = [0; N];
    let mut rest = &mut message[..];
    for field in fields {
        let (place, after) = rest.split_at_mut(field.len());
        place.copy_from_slice(field);
        rest = after;
    }
    debug_assert!(rest.is_empty());
    message
}
