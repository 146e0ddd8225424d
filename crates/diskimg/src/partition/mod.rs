//! Partition tables: MBR, GPT and the Apple partition map.
//!
//! ```text
//!   byte      0   MBR: boot code, four partition entries, 55 aa
//!           512   GPT header, partition entries; or the Apple partition map
//!   end of disk   backup GPT
//! ```
//!
//! Independent of disk image formats and file systems. The input may be damaged or malicious: the
//! parsers return what can be read and a list of violations of the specification ([`Oddity`]). A
//! table that is absent is `None`.

// Numbers read from a disk are converted with `storage::number`, not with `as`, which truncates.
#![cfg_attr(not(test), deny(clippy::as_conversions))]

pub(crate) mod apm;
pub(crate) mod gpt;
#[cfg(feature = "inspect")]
pub(crate) mod inspect;
mod kinds;
pub(crate) mod mbr;
mod table;

pub use apm::{Apm, ApmPartition};
pub use gpt::{Gpt, GptPartition, Guid};
pub(crate) use mbr::only_partition_kind;
pub use mbr::{Mbr, MbrPartition};
pub use table::{Partition, Role, Scheme, Table, table};

use byteorder::{ByteOrder, LittleEndian};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;

/// A violation of the specification in a boot structure that reading tolerates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Oddity {
    /// Offset in bytes from the start of the image.
    pub offset: u64,
    /// Description of what was found and what was expected.
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

/// Maximum number of oddities per structure. Malicious input could cause any number of them.
const MAX_ODDITIES: usize = 64;

/// Appends an oddity, unless [`MAX_ODDITIES`] is reached.
pub(crate) fn note(oddities: &mut Vec<Oddity>, offset: u64, message: impl Into<Cow<'static, str>>) {
    if oddities.len() < MAX_ODDITIES {
        oddities.push(Oddity::new(offset, message));
    }
}

/// Reads a little-endian number. Panics if the slice is too short.
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    LittleEndian::read_u16(&bytes[at..])
}

/// Reads a little-endian number. Panics if the slice is too short.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    LittleEndian::read_u32(&bytes[at..])
}

/// Reads a little-endian number. Panics if the slice is too short.
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    LittleEndian::read_u64(&bytes[at..])
}
