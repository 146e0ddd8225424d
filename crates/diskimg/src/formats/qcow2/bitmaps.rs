//! Persistent dirty bitmaps: the bitmap directory.
//!
//! ```text
//!    0 table_offset   8 table_size  12 flags
//!   16 type  17 granularity_bits  18 name_size  20 extra_size
//!   24 extra │ name │ padding to a multiple of 8 │ the next entry …
//! ```
//!
//! Specification: "Bitmaps". [`bitmap_bits`](super::bitmap_bits) reads and writes the bits.

use super::extensions::{BitmapDirectory, MAX_BITMAP_NAME};
use super::header::{Table, text};
use crate::error::{Error, Result};
use crate::report::info::{self, Value};
use crate::storage::number::{to_u8, to_u16, to_u32, to_u64, to_usize};
use crate::storage::source::Source;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Granularities that QEMU supports: 512 bytes to 2 GiB.
const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;

/// Maximum number of bitmaps of an image (QEMU's limit).
pub(super) const MAX_BITMAPS: usize = 65_535;

/// Maximum length in bytes of a bitmap directory (QEMU's limit).
pub(super) const MAX_DIRECTORY_BYTES: u64 = 1024 * 65_535;

/// Maximum length in bytes of the bits of a bitmap (QEMU's limit).
pub(super) const MAX_BITS_BYTES: u64 = 512 << 20;

/// Maximum number of entries of a bitmap table (QEMU's limit).
pub(super) const MAX_TABLE_ENTRIES: u32 = 1 << 27;

/// The only defined bitmap type.
const DIRTY_TRACKING: u8 = 1;

/// Offset of the flags in a directory entry.
pub(super) const FLAGS_OFFSET: u64 = 12;

/// Bits of a bitmap table entry that hold the host offset.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// Bit of a bitmap table entry without offset: the cluster reads as all ones.
pub(super) const ALL_ONES: u64 = 1;

/// Bits of a bitmap table entry that must be zero.
const RESERVED: u64 = 0xff00_0000_0000_01fe;

bitflags::bitflags! {
    /// Flags of a bitmap.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Flags: u32 {
        /// The bitmap was not saved properly and is inconsistent.
        const IN_USE = 1 << 0;
        /// The bitmap tracks all writes.
        const AUTO = 1 << 1;
        /// The bitmap can be used without knowledge of its extra data.
        const EXTRA_DATA_COMPATIBLE = 1 << 2;
    }
}

/// The fixed part of a directory entry.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBitmap {
    table_offset: U64,
    table_size: U32,
    flags: U32,
    kind: u8,
    granularity_bits: u8,
    name_size: U16,
    extra_size: U32,
}

/// An entry of the bitmap directory.
#[derive(Debug, Clone)]
pub(crate) struct Bitmap {
    /// The name as it is stored.
    pub(super) raw_name: Vec<u8>,
    /// Guest bytes per bit.
    pub(super) granularity: u64,
    pub(super) flags: Flags,
    /// Host offset of the flags.
    pub(super) flags_at: u64,
    /// The bitmap table, not yet validated against the file.
    pub(crate) table: Table,
}

impl Bitmap {
    /// Returns a bitmap for tests.
    #[cfg(test)]
    pub(super) fn of_granularity(granularity: u64) -> Self {
        let table = Table { offset: 0, entries: 0 };
        Self { raw_name: Vec::new(), granularity, flags: Flags::AUTO, flags_at: 0, table }
    }

    pub(super) fn name(&self) -> String {
        text(&self.raw_name)
    }

    /// Returns the bitmap as a library user sees it.
    pub(super) fn info(&self) -> info::Bitmap {
        info::Bitmap {
            name: self.name(),
            granularity: self.granularity,
            enabled: self.flags.contains(Flags::AUTO),
            inconsistent: self.flags.contains(Flags::IN_USE),
        }
    }

    /// Appends the directory entry, except that the table is `table`.
    pub(super) fn encode(&self, table: Table, directory: &mut Vec<u8>) {
        let raw = RawBitmap {
            table_offset: table.offset.into(),
            table_size: to_u32(table.entries).into(),
            flags: self.flags.bits().into(),
            kind: DIRTY_TRACKING,
            granularity_bits: to_u8(self.granularity.trailing_zeros()),
            name_size: to_u16(self.raw_name.len()).into(),
            extra_size: U32::ZERO,
        };
        directory.extend_from_slice(raw.as_bytes());
        directory.extend_from_slice(&self.raw_name);
        directory.resize(directory.len().next_multiple_of(8), 0);
    }

    /// Returns the length in bytes of the directory entry.
    pub(super) fn encoded_len(&self) -> u64 {
        to_u64((size_of::<RawBitmap>() + self.raw_name.len()).next_multiple_of(8))
    }

    /// Returns the bitmap as `info` shows it.
    pub(crate) fn to_value(&self) -> Value {
        let flags = [(Flags::IN_USE, "in-use"), (Flags::AUTO, "auto")]
            .into_iter()
            .filter(|(flag, _)| self.flags.contains(*flag))
            .map(|(_, name)| name.into())
            .collect();
        Value::Map(vec![
            ("flags", Value::List(flags)),
            ("name", Value::Text(self.name())),
            ("granularity", self.granularity.into()),
        ])
    }

    /// Reads the bitmap directory.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the directory is not aligned, not within
    /// the file, or has an invalid entry.
    pub(crate) fn read_directory(
        file: &dyn Source,
        directory: BitmapDirectory,
        cluster_size: u64,
    ) -> Result<Vec<Self>> {
        let corrupt =
            |what: &str| Error::corrupt("bitmap directory", what.to_owned()).at(directory.offset);
        if !directory.offset.is_multiple_of(cluster_size) {
            return Err(corrupt("it does not start at a multiple of the cluster size"));
        }
        if directory.bytes > file.len() {
            return Err(corrupt("it is larger than the file"));
        }
        let mut bytes = vec![0; to_usize(directory.bytes)];
        file.read_exact_at(&mut bytes, directory.offset)
            .map_err(|e| Error::io("cannot read", e).in_structure("bitmap directory"))?;
        let mut bitmaps = Vec::new();
        let mut rest = bytes.as_slice();
        for _ in 0..directory.count {
            let at = directory.offset + directory.bytes - to_u64(rest.len());
            let (bitmap, len) =
                Self::parse(rest, cluster_size).map_err(|e| e.at(directory.offset))?;
            bitmaps.push(Self { flags_at: at + FLAGS_OFFSET, ..bitmap });
            rest =
                rest.get(len..).ok_or_else(|| corrupt("the last entry extends beyond its end"))?;
        }
        if !rest.is_empty() {
            return Err(corrupt("it is longer than its entries"));
        }
        Ok(bitmaps)
    }

    fn parse(bytes: &[u8], cluster_size: u64) -> Result<(Self, usize)> {
        let corrupt = |what: String| Error::corrupt("bitmap directory", what);
        let Ok((raw, rest)) = RawBitmap::read_from_prefix(bytes) else {
            return Err(corrupt("it ends within an entry".into()));
        };
        if raw.extra_size.get() != 0 {
            return Err(corrupt("an entry has extra data, which is not supported".into()));
        }
        let name_size = usize::from(raw.name_size.get());
        let Some(name) = rest.get(..name_size) else {
            return Err(corrupt("it ends within a name".into()));
        };
        let table = Table { offset: raw.table_offset.get(), entries: raw.table_size.get().into() };
        let is_valid = (1..=MAX_BITMAP_NAME).contains(&to_u64(name_size))
            && raw.kind == DIRTY_TRACKING
            && GRANULARITY_BITS.contains(&raw.granularity_bits)
            && (1..=MAX_TABLE_ENTRIES).contains(&raw.table_size.get())
            && table.offset != 0
            && table.offset.is_multiple_of(cluster_size);
        let Some(flags) = Flags::from_bits(raw.flags.get()).filter(|_| is_valid) else {
            let name = text(name);
            return Err(corrupt(format!("the entry of bitmap '{name}' is invalid: {raw:?}")));
        };
        let granularity = 1 << raw.granularity_bits;
        let bitmap = Self { raw_name: name.to_owned(), granularity, flags, flags_at: 0, table };
        Ok((bitmap, (size_of::<RawBitmap>() + name_size).next_multiple_of(8)))
    }
}

/// Returns the number of entries of the table of a bitmap of a disk of `disk_size` bytes.
pub(super) fn table_entries(granularity: u64, disk_size: u64, cluster_size: u64) -> u64 {
    disk_size.div_ceil(cluster_size.saturating_mul(8).saturating_mul(granularity))
}

/// Returns the host offset in a bitmap table entry, if any.
///
/// # Errors
/// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if reserved bits are set or the offset is not
/// aligned to a cluster.
pub(crate) fn decode_table_entry(entry: u64, cluster_size: u64) -> Result<Option<u64>> {
    let offset = entry & OFFSET_MASK;
    let reserved_bits_set = entry & RESERVED != 0 || (offset != 0 && entry & ALL_ONES != 0);
    if reserved_bits_set || !offset.is_multiple_of(cluster_size) {
        return Err(Error::corrupt("bitmap table", format!("entry {entry:#x} is invalid")));
    }
    Ok((offset != 0).then_some(offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    fn entry(granularity_bits: u8, name: &str) -> Vec<u8> {
        let raw = RawBitmap {
            table_offset: 0x50000.into(),
            table_size: 1.into(),
            flags: 2.into(),
            kind: 1,
            granularity_bits,
            name_size: (name.len() as u16).into(),
            extra_size: U32::ZERO,
        };
        let mut bytes = [raw.as_bytes(), name.as_bytes()].concat();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn read(bytes: Vec<u8>, count: u32) -> Result<Vec<Bitmap>> {
        let directory = BitmapDirectory { count, bytes: bytes.len() as u64, offset: 0 };
        Bitmap::read_directory(&MemorySource::new(bytes), directory, 65536)
    }

    #[test]
    fn the_length_of_a_directory_is_that_of_its_entries() {
        let two = [entry(16, "b0"), entry(9, "another")].concat();
        let bitmaps = read(two.clone(), 2).expect("reads");
        let mut encoded = Vec::new();
        bitmaps.iter().for_each(|bitmap| bitmap.encode(bitmap.table, &mut encoded));
        assert_eq!(encoded, two);
        assert_eq!(bitmaps[1].encoded_len(), 32);
        assert_eq!(bitmaps[1].name(), "another");
        assert_eq!(bitmaps[0].granularity, 65536);
        for count in [1, 3] {
            read(two.clone(), count).expect_err("wrong number of entries");
        }
        read(entry(8, "b"), 1).expect_err("granularity");
        read(entry(16, ""), 1).expect_err("no name");
        read(entry(16, &"x".repeat(1024)), 1).expect_err("long name");
    }

    #[test]
    fn table_entries_have_an_aligned_offset_or_none() {
        for (entry, want) in [(0, None), (1, None), (0x50000, Some(0x50000))] {
            assert_eq!(decode_table_entry(entry, 65536).expect("valid"), want);
        }
        for entry in [2, 0x50001, 0x50200, 1 << 56] {
            decode_table_entry(entry, 65536).expect_err("invalid");
        }
    }
}
