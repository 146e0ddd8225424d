//! The header: the size and the number of blocks.

use super::read;
use crate::error::{Error, Result};
use crate::formats::holes::require_stored;
use crate::open::limits::Limits;
use crate::storage::source::Source;
use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The script at the start of images of version 2.0, which QEMU requires.
pub(super) const SCRIPT: &[u8] =
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";

/// The start of the script of any version: then come its number and the rest of the line.
const START: &[u8] = b"#!/bin/sh\n#V";

/// The rest of the line.
const AFTER_VERSION: &[u8] = b" Format\n";

/// The version that is read.
const VERSION: [u8; 3] = *b"2.0";

/// Length in bytes of the script, with its padding.
const SCRIPT_BYTES: u64 = 128;

/// Host offset of the table of blocks.
pub(super) const TABLE_AT: u64 = SCRIPT_BYTES + 8;

/// Maximum size of a block in bytes, as in QEMU.
const MAX_BLOCK: u64 = 64 << 20;

/// Maximum length in bytes of the table of blocks, as in QEMU.
const MAX_TABLE: u64 = 512 << 20;

/// How messages call the header.
const STRUCTURE: &str = "cloop header";

#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    script: [u8; 128],
    block_bytes: U32,
    blocks: U32,
}

/// A valid header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Guest bytes of a block: a multiple of 512, but not always a power of two.
    pub(super) block_bytes: u64,
    /// Number of blocks.
    pub(super) blocks: u32,
}

/// Returns the version in the script at the start of a file, if it is that of cloop.
pub(super) fn version(head: &[u8]) -> Option<[u8; 3]> {
    let rest = head.strip_prefix(START)?;
    let (version, rest) = rest.split_first_chunk::<3>()?;
    let is_version = matches!(version, [major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit());
    (is_version && rest.starts_with(AFTER_VERSION)).then_some(*version)
}

impl Header {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is invalid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for another version,
    /// [`Limit`](crate::ErrorKind::Limit) if blocks are too large, [`Io`](crate::ErrorKind::Io).
    pub(super) fn read(source: &dyn Source, limits: &Limits) -> Result<Self> {
        let mut bytes = [0; size_of::<RawHeader>()];
        read(source, &mut bytes, 0, STRUCTURE)?;
        match version(&bytes) {
            Some(VERSION) => {}
            Some(version) => {
                let version = String::from_utf8_lossy(&version).into_owned();
                return Err(Error::unsupported(format!("version {version} of the format"))
                    .in_structure(STRUCTURE)
                    .at(11)
                    .hint("version 2.0 is supported; extract_compressed_fs reads others"));
            }
            None => {
                let message = "expected the script of version 2.0";
                return Err(Error::corrupt(STRUCTURE, message).at(0));
            }
        }
        let raw: RawHeader = zerocopy::transmute!(bytes);
        let header = Self { block_bytes: raw.block_bytes.get().into(), blocks: raw.blocks.get() };
        let header = header.validate(source.len(), limits)?;
        require_stored(source, STRUCTURE, TABLE_AT, header.table_end() - TABLE_AT)?;
        Ok(header)
    }

    fn validate(self, file_len: u64, limits: &Limits) -> Result<Self> {
        let bytes = self.block_bytes;
        if bytes == 0 || !bytes.is_multiple_of(super::SECTOR) || bytes > MAX_BLOCK {
            let message =
                format!("blocks of {bytes} bytes; expected a multiple of 512 up to {MAX_BLOCK}");
            return Err(Error::corrupt(STRUCTURE, message).at(SCRIPT_BYTES));
        }
        if bytes > limits.unit_bytes {
            let found = format!("blocks of {bytes} bytes");
            return Err(Error::over_limit("unit_bytes", found, limits.unit_bytes));
        }
        let end = self.table_end();
        if end - TABLE_AT > MAX_TABLE {
            let message = format!("a table of {} blocks; at most {MAX_TABLE} bytes", self.blocks);
            return Err(Error::limit(message).in_structure(STRUCTURE).at(SCRIPT_BYTES + 4));
        }
        if end > file_len {
            let message = format!(
                "the table of {} blocks extends to {end:#x}, beyond the end of the file at \
                 {file_len:#x}",
                self.blocks
            );
            return Err(Error::corrupt(STRUCTURE, message)
                .at(SCRIPT_BYTES + 4)
                .hint("the file is probably truncated"));
        }
        Ok(self)
    }

    /// Returns the host offset of the end of the table.
    pub(super) fn table_end(&self) -> u64 {
        TABLE_AT + (u64::from(self.blocks) + 1) * 8
    }

    /// Returns the size of the disk in bytes: whole blocks, of which the last one is padded.
    pub(super) fn size(&self) -> u64 {
        u64::from(self.blocks) * self.block_bytes
    }
}
