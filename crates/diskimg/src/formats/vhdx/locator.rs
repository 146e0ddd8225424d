//! The parent locator: keys and values that name the parent of a differencing disk.
//!
//! ```text
//!   0    GUID of the type, number of entries
//!   20   [ offset of the key, offset of the value, their lengths ], relative to the locator
//!        keys and values in UTF-16, not terminated
//! ```
//!
//! MS-VHDX 2.6.2.6.

use super::guid::Guid;
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u16, to_u32, to_u64};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The type of a locator for a VHDX, the only one there is.
const TYPE: Guid =
    Guid::new(0xb04a_efb7, 0xd19e, 0x4a81, [0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13]);

/// Maximum number of entries.
const MAX_ENTRIES: u16 = 256;

/// How messages call the locator.
pub(super) const STRUCTURE: &str = "VHDX parent locator";

/// The `DataWriteGuid` of the parent, in braces.
pub(super) const LINKAGE: &str = "parent_linkage";
/// Another `DataWriteGuid` that the parent may have, while it is merged with its own parent.
pub(super) const LINKAGE2: &str = "parent_linkage2";
/// A path relative to the child's directory.
pub(super) const RELATIVE: &str = "relative_path";
/// A path below a volume: `\\?\Volume{GUID}\…`.
pub(super) const VOLUME: &str = "volume_path";
/// A path with a drive.
pub(super) const ABSOLUTE: &str = "absolute_win32_path";

/// The start of a locator on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawLocator {
    kind: [u8; 16],
    reserved: U16,
    count: U16,
}

/// An entry on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawEntry {
    key_at: U32,
    value_at: U32,
    key_len: U16,
    value_len: U16,
}

/// A parent locator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locator {
    /// Keys and values, in the order in which they are stored.
    pub(super) entries: Vec<(String, String)>,
}

impl Locator {
    /// Parses the locator that is stored at host offset `at`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if an entry is invalid or two have the same key,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for another type of locator.
    pub(super) fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let corrupt = |message: String| Error::corrupt(STRUCTURE, message).at(at);
        let (raw, rest) =
            RawLocator::read_from_prefix(bytes).map_err(|_| corrupt("it is too short".into()))?;
        if Guid(raw.kind) != TYPE {
            let message = format!("a locator of the type {}", Guid(raw.kind));
            return Err(Error::unsupported(message).in_structure(STRUCTURE).at(at));
        }
        let count = raw.count.get();
        if count > MAX_ENTRIES {
            return Err(corrupt(format!("{count} entries; at most {MAX_ENTRIES}")));
        }
        let (raw_entries, _) =
            <[RawEntry]>::ref_from_prefix_with_elems(rest, to_index(count.into()))
                .map_err(|_| corrupt("it is too short".into()))?;
        let text = |at: U32, len: U16| {
            let start = to_index(at.get());
            let end = start.checked_add(usize::from(len.get()))?;
            let units = bytes.get(start..end).filter(|text| text.len().is_multiple_of(2))?;
            let units = units.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        };
        let mut entries: Vec<(String, String)> = Vec::with_capacity(raw_entries.len());
        for (index, raw) in raw_entries.iter().enumerate() {
            let (key, value) = (text(raw.key_at, raw.key_len), text(raw.value_at, raw.value_len));
            let (Some(key), Some(value)) = (key, value) else {
                let message =
                    format!("entry {index} is not within the locator, or not valid Unicode");
                return Err(corrupt(message));
            };
            // Some programs store the terminator.
            let (key, value) = (key.trim_end_matches('\0'), value.trim_end_matches('\0'));
            if entries.iter().any(|(other, _)| other == key) {
                return Err(corrupt(format!("two entries '{}'", key.escape_debug())));
            }
            entries.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self { entries })
    }

    /// Returns the bytes of the locator.
    pub(super) fn encode(&self) -> Vec<u8> {
        let raw = RawLocator {
            kind: TYPE.0,
            reserved: 0.into(),
            count: to_u16(self.entries.len()).into(),
        };
        let mut bytes = raw.as_bytes().to_vec();
        let mut texts = Vec::new();
        let texts_at = bytes.len() + self.entries.len() * size_of::<RawEntry>();
        for (key, value) in &self.entries {
            let mut add = |text: &str| {
                let start = texts.len();
                texts.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
                (to_u32(to_u64(texts_at + start)), to_u16(texts.len() - start))
            };
            let ((key_at, key_len), (value_at, value_len)) = (add(key), add(value));
            let entry = RawEntry {
                key_at: key_at.into(),
                value_at: value_at.into(),
                key_len: key_len.into(),
                value_len: value_len.into(),
            };
            bytes.extend_from_slice(entry.as_bytes());
        }
        bytes.extend(texts);
        bytes
    }

    /// Returns the value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Returns the `DataWriteGuid`s that the parent may have.
    pub(super) fn linkages(&self) -> Vec<Guid> {
        let values = [LINKAGE, LINKAGE2].into_iter().filter_map(|key| self.get(key));
        values.filter_map(Guid::parse).filter(|guid| !guid.is_nil()).collect()
    }
}
