//! Header extensions, which follow the header in the first cluster.
//!
//! ```text
//!   0: type     │ 4: length     │ 8: data … │ padding to a multiple of 8
//!   0: type     │ …
//!   0: type = 0 │ 4: length = 0             ── end
//! ```
//!
//! Specification: "Header extensions". Unknown types are ignored.

use super::header::{Autoclear, Compatible, Incompatible, text};
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::number::{to_index, to_u8, to_u32, to_u64, to_usize};
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Extension types.
const END: u32 = 0;
pub(crate) const BACKING_FORMAT: u32 = 0xe279_2aca;
pub(crate) const FEATURE_NAMES: u32 = 0x6803_f857;
pub(crate) const BITMAPS: u32 = 0x2385_2875;
const ENCRYPTION: u32 = 0x0537_be77;
pub(crate) const DATA_FILE: u32 = 0x4441_5441;

/// Maximum length in bytes of a backing format name (QEMU's limit: 15 and a terminating zero).
pub(crate) const MAX_BACKING_FORMAT: usize = 15;

/// Maximum length in bytes of a bitmap name (QEMU's limit, mentioned in the specification).
pub(crate) const MAX_BITMAP_NAME: u64 = 1023;

/// The header of an extension.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawExtension {
    kind: U32,
    length: U32,
}

/// An entry of the feature name table.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFeatureName {
    /// 0 incompatible, 1 compatible, 2 autoclear.
    kind: u8,
    /// Number of the feature bit.
    bit: u8,
    name: [u8; 46],
}

/// Content of the bitmaps extension.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBitmaps {
    count: U32,
    reserved: U32,
    directory_bytes: U64,
    directory_offset: U64,
}

/// Location of the bitmap directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BitmapDirectory {
    /// Number of bitmaps, at least one.
    pub(crate) count: u32,
    /// Length of the directory in bytes, within the limits.
    pub(crate) bytes: u64,
    /// Host offset.
    pub(crate) offset: u64,
}

impl BitmapDirectory {
    /// Returns the content of the bitmaps extension.
    pub(crate) fn encode(self) -> Vec<u8> {
        let raw = RawBitmaps {
            count: self.count.into(),
            reserved: U32::ZERO,
            directory_bytes: self.bytes.into(),
            directory_offset: self.offset.into(),
        };
        raw.as_bytes().to_vec()
    }
}

/// Location of the LUKS header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EncryptionHeader {
    /// Host offset.
    pub(crate) offset: u64,
    /// Length in bytes.
    pub(crate) bytes: u64,
}

/// The content of all known extensions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extensions {
    /// Format of the backing file.
    pub(crate) backing_format: Option<String>,
    /// Name of the external data file.
    pub(crate) data_file: Option<String>,
    /// Bit numbers and names of incompatible features.
    pub(crate) incompatible_names: Vec<(u8, String)>,
    /// The bitmap directory, which is valid only if its autoclear bit is set.
    pub(crate) bitmaps: Option<BitmapDirectory>,
    /// The location of the LUKS header.
    pub(crate) encryption: Option<EncryptionHeader>,
}

impl Extensions {
    /// Parses the extensions between offsets `start` and `end` of the first cluster.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if an extension is invalid, and
    /// [`Limit`](crate::ErrorKind::Limit) if the bitmap directory exceeds the limits.
    pub(super) fn parse(
        first_cluster: &[u8],
        start: u64,
        end: u64,
        limits: &Limits,
    ) -> Result<Self> {
        let mut extensions = Self::default();
        walk(first_cluster, start, end, |at, kind, data| {
            extensions.set(kind, data, limits).map_err(|e| e.at(at))
        })?;
        Ok(extensions)
    }

    /// Stores the content of one extension.
    fn set(&mut self, kind: u32, data: &[u8], limits: &Limits) -> Result<()> {
        match kind {
            BACKING_FORMAT if data.len() > MAX_BACKING_FORMAT => {
                return Err(Error::corrupt(
                    "backing format",
                    format!(
                        "it has {} bytes, but must have at most {MAX_BACKING_FORMAT}",
                        data.len()
                    ),
                ));
            }
            BACKING_FORMAT => {
                self.backing_format = Some(text(data)).filter(|name| !name.is_empty());
            }
            DATA_FILE => self.data_file = Some(text(data)).filter(|name| !name.is_empty()),
            FEATURE_NAMES => {
                let (names, _) = <[RawFeatureName]>::ref_from_prefix_with_elems(
                    data,
                    data.len() / size_of::<RawFeatureName>(),
                )
                .map_err(|_| Error::corrupt("feature name table", "it cannot be read"))?;
                self.incompatible_names =
                    names.iter().filter(|n| n.kind == 0).map(|n| (n.bit, text(&n.name))).collect();
            }
            BITMAPS => self.bitmaps = Some(bitmaps(data, limits)?),
            ENCRYPTION => {
                let [offset, bytes] = <[U64; 2]>::read_from_bytes(data).map_err(|_| {
                    Error::corrupt(
                        "encryption header pointer",
                        format!("it has {} bytes instead of 16", data.len()),
                    )
                })?;
                self.encryption =
                    Some(EncryptionHeader { offset: offset.get(), bytes: bytes.get() });
            }
            _ => {}
        }
        Ok(())
    }
}

/// Calls `each` with the offset, the type and the content of every extension between offsets `start`
/// and `end` of the first cluster. Returns the offset of their end, which includes the end marker if
/// there is one.
///
/// # Errors
/// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if an extension is longer than the space for it,
/// and the errors of `each`.
pub(crate) fn walk<'a>(
    first_cluster: &'a [u8],
    start: u64,
    end: u64,
    mut each: impl FnMut(u64, u32, &'a [u8]) -> Result<()>,
) -> Result<u64> {
    let mut at = to_usize(start);
    let end = to_usize(end);
    while at < end {
        // Bytes beyond the end of the file are zeros, which end the extensions.
        let rest = first_cluster.get(at..).unwrap_or_default();
        let Ok((raw, _)) = RawExtension::read_from_prefix(rest) else { break };
        let (kind, length) = (raw.kind.get(), to_index(raw.length.get()));
        let data = &rest[size_of::<RawExtension>()..];
        if kind == END {
            at += size_of::<RawExtension>();
            break;
        }
        let room = end.saturating_sub(at + size_of::<RawExtension>()).min(data.len());
        if length > room {
            return Err(Error::corrupt(
                "header extension",
                format!("type {kind:#010x} has {length} bytes, but only {room} are left"),
            )
            .at(to_u64(at)));
        }
        each(to_u64(at), kind, &data[..length])?;
        at += size_of::<RawExtension>() + length.next_multiple_of(8);
    }
    Ok(to_u64(at))
}

fn bitmaps(data: &[u8], limits: &Limits) -> Result<BitmapDirectory> {
    const NAME: &str = "bitmaps extension";
    let corrupt = |what: String| Error::corrupt(NAME, what);
    let raw = RawBitmaps::read_from_bytes(data).map_err(|_| {
        corrupt(format!("it has {} bytes instead of {}", data.len(), size_of::<RawBitmaps>()))
    })?;
    let directory = BitmapDirectory {
        count: raw.count.get(),
        bytes: raw.directory_bytes.get(),
        offset: raw.directory_offset.get(),
    };
    if directory.count == 0 {
        return Err(corrupt("the number of bitmaps is 0".into()));
    }
    if u64::from(directory.count) > limits.bitmaps {
        let found = format!("{} bitmaps", directory.count);
        return Err(Error::over_limit("bitmaps", found, limits.bitmaps).in_structure(NAME));
    }
    if directory.bytes > limits.bitmap_directory_bytes {
        let (found, max) = (directory.bytes, limits.bitmap_directory_bytes);
        let found = format!("a directory of {found} bytes");
        return Err(Error::over_limit("bitmap_directory_bytes", found, max).in_structure(NAME));
    }
    Ok(directory)
}

/// Appends an extension: type, length, data, padding.
pub(crate) fn encode(out: &mut Vec<u8>, kind: u32, data: &[u8]) {
    let raw = RawExtension { kind: kind.into(), length: to_u32(data.len()).into() };
    out.extend_from_slice(raw.as_bytes());
    out.extend_from_slice(data);
    out.resize(out.len() + data.len().next_multiple_of(8) - data.len(), 0);
}

/// Appends the backing file's format.
pub(crate) fn encode_backing_format(out: &mut Vec<u8>, format: &str) {
    encode(out, BACKING_FORMAT, format.as_bytes());
}

/// Appends the external data file's name.
pub(crate) fn encode_data_file(out: &mut Vec<u8>, name: &str) {
    encode(out, DATA_FILE, name.as_bytes());
}

/// Appends the feature name table.
pub(crate) fn encode_feature_names(out: &mut Vec<u8>) {
    encode(out, FEATURE_NAMES, &feature_names());
}

/// Returns the feature name table, with which programs that do not support a feature can report its
/// name.
pub(crate) fn feature_names() -> Vec<u8> {
    let features: [(u8, u64, &str); 8] = [
        (0, Incompatible::DIRTY.bits(), "dirty bit"),
        (0, Incompatible::CORRUPT.bits(), "corrupt bit"),
        (0, Incompatible::DATA_FILE.bits(), "external data file"),
        (0, Incompatible::COMPRESSION.bits(), "compression type"),
        (0, Incompatible::EXTENDED_L2.bits(), "extended L2 entries"),
        (1, Compatible::LAZY_REFCOUNTS.bits(), "lazy refcounts"),
        (2, Autoclear::BITMAPS.bits(), "bitmaps"),
        (2, Autoclear::DATA_FILE_RAW.bits(), "raw external data"),
    ];
    let mut table = Vec::with_capacity(features.len() * size_of::<RawFeatureName>());
    for (kind, mask, text) in features {
        let mut name = [0; 46];
        name[..text.len()].copy_from_slice(text.as_bytes());
        let bit = to_u8(mask.trailing_zeros());
        table.extend_from_slice(RawFeatureName { kind, bit, name }.as_bytes());
    }
    table
}

/// Appends the end marker of the extensions.
pub(crate) fn encode_end(out: &mut Vec<u8>) {
    encode(out, END, &[]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(first_cluster: &[u8], start: u64, end: u64) -> Result<Extensions> {
        Extensions::parse(first_cluster, start, end, &Limits::default())
    }

    #[test]
    fn encoded_extensions_are_parsed() {
        let mut bytes = vec![0; 112];
        encode_backing_format(&mut bytes, "raw");
        encode_feature_names(&mut bytes);
        encode_data_file(&mut bytes, "data.raw");
        encode(&mut bytes, 0x1234_5678, b"something else");
        encode_end(&mut bytes);
        assert!(bytes.len().is_multiple_of(8));
        let extensions = parse(&bytes, 112, 65536).expect("parses");
        assert_eq!(extensions.backing_format.as_deref(), Some("raw"));
        assert_eq!(extensions.data_file.as_deref(), Some("data.raw"));
        assert_eq!(extensions.incompatible_names.len(), 5);
        assert_eq!(extensions.incompatible_names[4], (4, "extended L2 entries".into()));
    }

    #[test]
    fn an_extension_that_extends_beyond_the_end_is_an_error() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, &[0; 100]);
        parse(&bytes, 0, 108).expect("just fits");
        parse(&bytes, 0, 107).expect_err("one byte too many");
        parse(&bytes[..50], 0, 108).expect_err("the file ends");
        let huge = RawExtension { kind: 1.into(), length: u32::MAX.into() };
        parse(huge.as_bytes(), 0, 512).expect_err("huge");
    }

    #[test]
    fn the_number_of_bitmaps_and_the_size_of_their_directory_are_limited() {
        let raw = |count: u32, bytes: u64| RawBitmaps {
            count: count.into(),
            reserved: U32::ZERO,
            directory_bytes: bytes.into(),
            directory_offset: U64::ZERO,
        };
        let limits = Limits::default();
        let bitmaps = |data: &[u8]| bitmaps(data, &limits).map_err(|e| e.exceeded());
        bitmaps(raw(1, 32).as_bytes()).expect("one");
        assert_eq!(bitmaps(raw(0, 0).as_bytes()), Err(None));
        assert_eq!(bitmaps(raw(65_536, 32).as_bytes()), Err(Some("bitmaps")));
        let bytes = limits.bitmap_directory_bytes + 1;
        assert_eq!(bitmaps(raw(1, bytes).as_bytes()), Err(Some("bitmap_directory_bytes")));
        assert_eq!(bitmaps(&[0; 23]), Err(None));
    }
}
