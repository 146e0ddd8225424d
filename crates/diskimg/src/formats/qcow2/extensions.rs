//! Header extensions: what follows the header in the first cluster.
//!
//! ```text
//!   0 type │ 4 length │ 8 data … │ padding to a multiple of 8
//!   0 type │ …
//!   0 0    │ 4 0                        ── end
//! ```
//!
//! Specification: "Header extensions". Unknown types are ignored.

use super::header::{Autoclear, Compatible, Incompatible, text};
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::number::{to_index, to_u8, to_u32, to_u64, to_usize};
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Types of extensions.
const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;
const ENCRYPTION: u32 = 0x0537_be77;
const DATA_FILE: u32 = 0x4441_5441;

/// Bytes of a backing format's name (QEMU's limit: 15 and a zero).
pub(crate) const MAX_BACKING_FORMAT: usize = 15;

/// Bytes of a bitmap's name (QEMU's limit, named in the specification).
pub(crate) const MAX_BITMAP_NAME: u64 = 1023;

/// What precedes an extension's data.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawExtension {
    kind: U32,
    length: U32,
}

/// One entry of the feature name table.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFeatureName {
    /// 0 incompatible, 1 compatible, 2 autoclear.
    kind: u8,
    bit: u8,
    name: [u8; 46],
}

/// The bitmaps extension's data.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBitmaps {
    count: U32,
    reserved: U32,
    directory_bytes: U64,
    directory_offset: U64,
}

/// Where the bitmap directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BitmapDirectory {
    /// Bitmaps, at least one.
    pub(crate) count: u32,
    /// Bytes of the directory, within the limits.
    pub(crate) bytes: u64,
    /// Host offset.
    pub(crate) offset: u64,
}

/// Where the LUKS header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EncryptionHeader {
    /// Host offset.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

/// What the extensions say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extensions {
    /// Format of the backing file.
    pub(crate) backing_format: Option<String>,
    /// Name of the external data file.
    pub(crate) data_file: Option<String>,
    /// Names of incompatible features by bit.
    pub(crate) incompatible_names: Vec<(u8, String)>,
    /// The bitmaps, which are up to date only if the autoclear bit says so.
    pub(crate) bitmaps: Option<BitmapDirectory>,
    /// The LUKS header.
    pub(crate) encryption: Option<EncryptionHeader>,
}

impl Extensions {
    /// Parses what lies between `start` and `end` of the first cluster.
    pub(super) fn parse(
        first_cluster: &[u8],
        start: u64,
        end: u64,
        limits: &Limits,
    ) -> Result<Self> {
        let mut extensions = Self::default();
        let mut at = to_usize(start);
        let end = to_usize(end);
        while at < end {
            // What the file does not hold of its first cluster is zeros: the end.
            let here = first_cluster.get(at..).unwrap_or_default();
            let Ok((raw, data)) = RawExtension::read_from_prefix(here) else { break };
            let (kind, length) = (raw.kind.get(), to_index(raw.length.get()));
            if kind == END {
                break;
            }
            let room = end.saturating_sub(at + size_of::<RawExtension>());
            if length > room || length > data.len() {
                return Err(Error::corrupt(
                    "header extension",
                    format!("type {kind:#010x} is {length} bytes long, {room} left"),
                )
                .at(to_u64(at)));
            }
            extensions.take(kind, &data[..length], limits).map_err(|e| e.at(to_u64(at)))?;
            at += size_of::<RawExtension>() + length.next_multiple_of(8);
        }
        Ok(extensions)
    }

    fn take(&mut self, kind: u32, data: &[u8], limits: &Limits) -> Result<()> {
        match kind {
            BACKING_FORMAT if data.len() > MAX_BACKING_FORMAT => {
                return Err(Error::corrupt(
                    "backing format",
                    format!("{} bytes, at most {MAX_BACKING_FORMAT} allowed", data.len()),
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
                    Error::corrupt("encryption header pointer", "it is not 16 bytes long")
                })?;
                self.encryption =
                    Some(EncryptionHeader { offset: offset.get(), bytes: bytes.get() });
            }
            _ => {}
        }
        Ok(())
    }
}

fn bitmaps(data: &[u8], limits: &Limits) -> Result<BitmapDirectory> {
    const NAME: &str = "bitmaps extension";
    let bad = |what: String| Error::corrupt(NAME, what);
    let raw = RawBitmaps::read_from_bytes(data)
        .map_err(|_| bad(format!("{} bytes, {} wanted", data.len(), size_of::<RawBitmaps>())))?;
    let directory = BitmapDirectory {
        count: raw.count.get(),
        bytes: raw.directory_bytes.get(),
        offset: raw.directory_offset.get(),
    };
    if directory.count == 0 {
        return Err(bad("it is of no bitmaps".into()));
    }
    if u64::from(directory.count) > limits.bitmaps {
        let found = format!("{} bitmaps", directory.count);
        return Err(Error::over_limit("bitmaps", found, limits.bitmaps).in_structure(NAME));
    }
    if directory.bytes > limits.bitmap_directory_bytes {
        let (found, most) = (directory.bytes, limits.bitmap_directory_bytes);
        let found = format!("a directory of {found} bytes");
        return Err(Error::over_limit("bitmap_directory_bytes", found, most).in_structure(NAME));
    }
    Ok(directory)
}

/// Appends an extension: type, length, data, padding.
fn encode(out: &mut Vec<u8>, kind: u32, data: &[u8]) {
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

/// Appends the names of all features, which tell the users of older readers
/// what those do not know.
pub(crate) fn encode_feature_names(out: &mut Vec<u8>) {
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
    encode(out, FEATURE_NAMES, &table);
}

/// Appends the end of the extensions.
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
    fn what_was_encoded_parses() {
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
    fn an_extension_may_not_leave_its_room() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, &[0; 100]);
        parse(&bytes, 0, 108).expect("just fits");
        parse(&bytes, 0, 107).expect_err("one too many");
        parse(&bytes[..50], 0, 108).expect_err("the file ends");
        let huge = RawExtension { kind: 1.into(), length: u32::MAX.into() };
        parse(huge.as_bytes(), 0, 512).expect_err("huge");
    }

    #[test]
    fn bitmaps_are_bounded() {
        let raw = |count: u32, bytes: u64| RawBitmaps {
            count: count.into(),
            reserved: U32::ZERO,
            directory_bytes: bytes.into(),
            directory_offset: U64::ZERO,
        };
        let most = Limits::default();
        let bitmaps = |data: &[u8]| bitmaps(data, &most).map_err(|e| e.exceeded());
        bitmaps(raw(1, 32).as_bytes()).expect("one");
        assert_eq!(bitmaps(raw(0, 0).as_bytes()), Err(None));
        assert_eq!(bitmaps(raw(65_536, 32).as_bytes()), Err(Some("bitmaps")));
        let bytes = most.bitmap_directory_bytes + 1;
        assert_eq!(bitmaps(raw(1, bytes).as_bytes()), Err(Some("bitmap_directory_bytes")));
        assert_eq!(bitmaps(&[0; 23]), Err(None));
    }
}
