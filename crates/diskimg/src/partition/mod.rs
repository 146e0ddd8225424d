//! Partition tables: MBR, GPT and the Apple partition map.
//!
//! ```text
//!   byte      0   MBR: boot code, four partition entries, 55 aa
//!           512   GPT header, partition entries; or the Apple partition map
//!   end of disk   backup GPT
//! ```
//!
//! Nothing here depends on a disk image format or a file system. What is read may be damaged or
//! hostile: the parsers return what can be read, with a list of what breaks the rules
//! ([`Oddity`]). A table that is absent is `None`.

// Numbers read from a disk are converted with `storage::number`, never cut by `as`.
#![cfg_attr(not(test), deny(clippy::as_conversions))]

mod apm;
pub(crate) mod gpt;
pub(crate) mod inspect;
pub(crate) mod mbr;

pub use apm::{Apm, ApmPartition};
pub use gpt::{Gpt, GptPartition, Guid};
pub(crate) use mbr::only_partition_kind;
pub use mbr::{Mbr, MbrPartition};

use serde::Serialize;
use std::borrow::Cow;
use std::fmt;

/// Something that a boot structure should not say, and does. Reading goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Oddity {
    /// Where: bytes from the start of the image.
    pub offset: u64,
    /// What is found there, and what should be.
    pub message: Cow<'static, str>,
}

impl Oddity {
    pub(crate) fn new(offset: u64, message: impl Into<Cow<'static, str>>) -> Self {
        Self { offset, message: message.into() }
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at offset {})", self.message, self.offset)
    }
}

/// The most oddities that are kept of one structure: hostile bytes can be odd without end.
const MAX_ODDITIES: usize = 64;

/// Keeps an oddity, while there are not too many.
pub(crate) fn note(oddities: &mut Vec<Oddity>, offset: u64, message: impl Into<Cow<'static, str>>) {
    if oddities.len() < MAX_ODDITIES {
        oddities.push(Oddity::new(offset, message));
    }
}

/// Little-endian numbers out of a slice that is known to be long enough.
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from(le16(bytes, at)) | u32::from(le16(bytes, at + 2)) << 16
}

pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}
