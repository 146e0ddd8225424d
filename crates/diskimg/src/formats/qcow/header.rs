//! The header.
//!
//! ```text
//!    0 magic "QFI\xfb"        4 version             8 backing_file_offset
//!   16 backing_file_size     20 mtime              24 size
//!   32 cluster_bits (u8)     33 l2_bits (u8)       34 padding
//!   36 crypt_method          40 l1_table_offset
//! ```

use super::{SECTOR, TABLES};
use crate::error::{Error, Result};
use crate::formats::two_level::{Layout, Location};
use crate::storage::number::{to_u8, to_u32, to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::RangeInclusive;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How errors call the header.
pub(super) const HEADER: &str = "QCOW header";

pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The version of the format.
pub(super) const VERSION: u32 = 1;

/// Maximum length in bytes of a backing file's name: QEMU's limit.
pub(super) const MAX_BACKING_NAME: u32 = 1023;

/// Valid numbers of bits of an offset within a cluster.
const CLUSTER_BITS: RangeInclusive<u32> = 9..=16;

/// Valid numbers of bits of an index in an L2 table.
const L2_BITS: RangeInclusive<u32> = 6..=13;

/// The encryption method AES-CBC, with the password as the key.
const AES: u32 = 1;

/// The header as stored.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: [u8; 4],
    pub(super) version: U32,
    /// Host offset of the name of the backing file; 0 if there is none.
    pub(super) backing_file_offset: U64,
    pub(super) backing_file_size: U32,
    /// Modification time of the backing file, which no program uses.
    mtime: U32,
    /// Size of the disk in bytes.
    pub(super) size: U64,
    cluster_bits: u8,
    l2_bits: u8,
    padding: U16,
    pub(super) crypt_method: U32,
    l1_table_offset: U64,
}

impl RawHeader {
    pub(super) const BYTES: usize = 48;
}

const _: () = assert!(size_of::<RawHeader>() == RawHeader::BYTES);

/// A validated header.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) location: Location,
    /// Size of the disk as stored, which need not consist of whole sectors.
    pub(super) stored_size: u64,
    pub(super) is_encrypted: bool,
    /// Name of the backing file.
    pub(super) backing: Option<String>,
}

/// Returns the dimensions of the tables.
pub(super) fn layout(cluster_bits: u32, table_bits: u32) -> Layout {
    Layout { format: &TABLES, cluster_bits, table_bits }
}

impl Header {
    /// Reads the header. If the size of the disk is not a multiple of a sector, it is rounded up or,
    /// as in QEMU, `down`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if a value is invalid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for another version or an unknown encryption,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn read(source: &dyn Source, down: bool) -> Result<Self> {
        let raw = read_raw(source)?;
        let corrupt = |at: u64, message: String| Error::corrupt(HEADER, message).at(at);
        let unsupported =
            |at: u64, message: String| Error::unsupported(message).in_structure(HEADER).at(at);
        if raw.magic != MAGIC {
            return Err(corrupt(0, "the file does not start with \"QFI\\xfb\"".into()));
        }
        let version = raw.version.get();
        if version != VERSION {
            return Err(unsupported(4, format!("version {version} of QCOW; expected {VERSION}")));
        }
        let (cluster_bits, l2_bits) = (u32::from(raw.cluster_bits), u32::from(raw.l2_bits));
        if !CLUSTER_BITS.contains(&cluster_bits) {
            let message = format!("cluster_bits is {cluster_bits}; expected {CLUSTER_BITS:?}");
            return Err(corrupt(32, message));
        }
        if !L2_BITS.contains(&l2_bits) {
            return Err(corrupt(33, format!("l2_bits is {l2_bits}; expected {L2_BITS:?}")));
        }
        let crypt_method = raw.crypt_method.get();
        if crypt_method > AES {
            return Err(unsupported(36, format!("encryption method {crypt_method} is unknown")));
        }
        let (layout, stored_size) = (layout(cluster_bits, l2_bits), raw.size.get());
        // As in QEMU, a byte is no disk.
        let max = u64::MAX >> 1;
        if !(2..=max - SECTOR).contains(&stored_size) {
            return Err(corrupt(24, format!("a disk of {stored_size} bytes; expected 2 to {max}")));
        }
        let size = match down {
            true => stored_size / SECTOR * SECTOR,
            false => stored_size.next_multiple_of(SECTOR),
        };
        let l1_at = raw.l1_table_offset.get();
        let backing = match raw.backing_file_offset.get() {
            0 => None,
            offset => backing_name(offset, raw.backing_file_size.get(), source)?,
        };
        // The name usually is between the header and the L1 table.
        let name_end =
            raw.backing_file_offset.get().saturating_add(raw.backing_file_size.get().into());
        let header = to_u64(RawHeader::BYTES);
        let header_end = if name_end <= l1_at { name_end.max(header) } else { header };
        let l1_bytes = layout.l1_entries(size) * 8;
        let location = Location { layout, size, header_end, l1_at, l1_bytes };
        Ok(Self { location, stored_size, is_encrypted: crypt_method == AES, backing })
    }

    /// Returns the bytes of the header of a new image.
    pub(super) fn encode(&self) -> Vec<u8> {
        let name = self.backing.as_deref().unwrap_or_default();
        let layout = self.location.layout;
        let raw = RawHeader {
            magic: MAGIC,
            version: VERSION.into(),
            backing_file_offset: if name.is_empty() { 0 } else { to_u64(RawHeader::BYTES) }.into(),
            backing_file_size: to_u32(name.len()).into(),
            mtime: 0.into(),
            size: self.stored_size.into(),
            cluster_bits: to_u8(layout.cluster_bits),
            l2_bits: to_u8(layout.table_bits),
            padding: 0.into(),
            crypt_method: 0.into(),
            l1_table_offset: self.location.l1_at.into(),
        };
        [raw.as_bytes(), name.as_bytes()].concat()
    }
}

fn read_raw(source: &dyn Source) -> Result<RawHeader> {
    let mut bytes = [0; RawHeader::BYTES];
    if source.len() < to_u64(bytes.len()) {
        return Err(Error::corrupt(HEADER, "the file ends within it"));
    }
    source
        .read_exact_at(&mut bytes, 0)
        .map_err(|e| Error::io("cannot read it", e).in_structure(HEADER))?;
    Ok(zerocopy::transmute!(bytes))
}

fn backing_name(offset: u64, len: u32, source: &dyn Source) -> Result<Option<String>> {
    let end = offset.checked_add(len.into()).filter(|&end| end <= source.len());
    if end.is_none() || len > MAX_BACKING_NAME {
        let message = format!(
            "the backing file name has {len} bytes at {offset:#x}, but must have at most \
             {MAX_BACKING_NAME} and be in the file"
        );
        return Err(Error::corrupt(HEADER, message).at(8));
    }
    let mut bytes = vec![0; to_usize(len.into())];
    source
        .read_exact_at(&mut bytes, offset)
        .map_err(|e| Error::io("cannot read it", e).in_structure("backing file name").at(offset))?;
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let name = String::from_utf8_lossy(&bytes[..end]).into_owned();
    Ok(Some(name).filter(|name| !name.is_empty()))
}
