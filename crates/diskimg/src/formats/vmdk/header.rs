//! The header of a hosted sparse extent, which locates its tables and describes its grains.
//!
//! ```text
//!    0 ┌──────────────┬─────────┬─────────┬──────────────────┐
//!      │ "KDMV"       │ version │ flags   │ capacity         │  sizes, offsets: in sectors
//!   20 ├──────────────┴───┬─────┴─────────┼──────────────────┤
//!      │ grainSize        │ descriptorOfs.│ descriptorSize   │
//!   44 ├──────────────┬───┴───────┬───────┴───┬──────────────┤
//!      │ numGTEsPerGT │ rgdOffset │ gdOffset  │ overHead     │  gdOffset -1: see the footer
//!   72 ├──────────────┴┬──────────┴───┬───────┴──────────────┤
//!      │ uncleanShut.  │ \n ' ' \r \n │ compressAlgorithm    │  zeros up to 512
//!   79 └───────────────┴──────────────┴──────────────────────┘
//! ```
//!
//! Specification: *Virtual Disk Format 5.0*, "Hosted Sparse Extent Header" (`SparseExtentHeader`).
//! The footer of a streamOptimized file is the same structure.

use super::{SECTOR, sectors_to_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::number::to_usize;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes of a hosted sparse extent.
pub(super) const MAGIC: [u8; 4] = *b"KDMV";

/// The `gdOffset` of a header whose grain directory offset is only in the footer (`GD_AT_END`).
pub(super) const GD_AT_END: u64 = u64::MAX;

/// The largest supported grain size, in sectors: 1 GiB, as in QEMU.
pub(super) const MAX_GRAIN_SECTORS: u64 = 0x20_0000;

/// Maximum number of entries of a grain table (the specification: 512 in all known versions).
const MAX_GTES: u32 = 512;

/// `singleEndLineChar`, `nonEndLineChar`, `doubleEndLineChar1`, `doubleEndLineChar2`.
const NEWLINE_TEST: [u8; 4] = *b"\n \r\n";

/// Values of `compressAlgorithm`: none, and deflate (RFC 1951) in zlib format (RFC 1950).
const COMPRESSION_NONE: u16 = 0;
const COMPRESSION_DEFLATE: u16 = 1;

bitflags::bitflags! {
    /// `flags`. Bits 16 and above change how grains are read; unknown ones are not supported.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Flags: u32 {
        /// The four newline bytes are valid.
        const NEWLINE_TEST = 1;
        /// The redundant grain directory is valid.
        const REDUNDANT = 1 << 1;
        /// A grain table entry of 1 is a zeroed grain.
        const ZEROED_GRAIN = 1 << 2;
        /// Grains are compressed.
        const COMPRESSED = 1 << 16;
        /// Grains and tables are preceded by markers.
        const MARKERS = 1 << 17;
    }
}

/// The on-disk `SparseExtentHeader`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SparseExtentHeader {
    magic: [u8; 4],
    version: U32,
    flags: U32,
    capacity: U64,
    grain_size: U64,
    descriptor_offset: U64,
    descriptor_size: U64,
    num_gtes_per_gt: U32,
    rgd_offset: U64,
    gd_offset: U64,
    over_head: U64,
    unclean_shutdown: u8,
    newline_test: [u8; 4],
    compress_algorithm: U16,
    pad: [u8; 433],
}

const _: () = assert!(size_of::<SparseExtentHeader>() == to_usize(SECTOR));

/// A validated header. Offsets and sizes are in sectors, as on disk; in bytes, each
/// except `GD_AT_END` fits in 63
/// bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// 1, 2 or 3.
    pub(super) version: u32,
    /// No unknown bits from bit 16 on.
    pub(super) flags: Flags,
    /// Number of guest sectors that the extent covers.
    pub(super) capacity: u64,
    /// Number of sectors per grain; a power of two.
    pub(super) grain_sectors: u64,
    /// Offset of the embedded descriptor; 0 if there is none.
    pub(super) descriptor_offset: u64,
    /// Number of sectors reserved for the embedded descriptor.
    pub(super) descriptor_sectors: u64,
    /// Number of entries per grain table.
    pub(super) gtes: u32,
    /// Offset of the redundant grain directory; 0 if there is none.
    pub(super) rgd_offset: u64,
    /// Offset of the grain directory, or [`GD_AT_END`].
    pub(super) gd_offset: u64,
    /// Number of sectors before the first grain.
    pub(super) over_head: u64,
    /// Whether the last writer failed to close the extent.
    pub(super) unclean: bool,
    /// Whether grains are stored as zlib streams.
    pub(super) compressed: bool,
}

impl Header {
    /// Parses and validates the structure that was read at host offset `at`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), [`Unsupported`](crate::ErrorKind::Unsupported) or
    /// [`Limit`](crate::ErrorKind::Limit); the message names the field.
    pub(super) fn parse(bytes: &[u8; to_usize(SECTOR)], at: u64) -> Result<Self> {
        let raw: SparseExtentHeader = zerocopy::transmute!(*bytes);
        raw.validate().map_err(|e| e.in_structure("VMDK header").at(at))
    }

    /// Returns the on-disk structure.
    pub(super) fn encode(&self) -> [u8; to_usize(SECTOR)] {
        let newline = self.flags.contains(Flags::NEWLINE_TEST);
        zerocopy::transmute!(SparseExtentHeader {
            magic: MAGIC,
            version: self.version.into(),
            flags: self.flags.bits().into(),
            capacity: self.capacity.into(),
            grain_size: self.grain_sectors.into(),
            descriptor_offset: self.descriptor_offset.into(),
            descriptor_size: self.descriptor_sectors.into(),
            num_gtes_per_gt: self.gtes.into(),
            rgd_offset: self.rgd_offset.into(),
            gd_offset: self.gd_offset.into(),
            over_head: self.over_head.into(),
            unclean_shutdown: self.unclean.into(),
            newline_test: if newline { NEWLINE_TEST } else { [0; 4] },
            compress_algorithm: if self.compressed {
                COMPRESSION_DEFLATE
            } else {
                COMPRESSION_NONE
            }
            .into(),
            pad: [0; 433],
        })
    }

    /// Grain size in bytes.
    pub(super) fn grain_bytes(&self) -> u64 {
        self.grain_sectors * SECTOR
    }

    /// Number of guest bytes that one grain table covers.
    pub(super) fn table_cover(&self) -> u64 {
        self.grain_bytes() * u64::from(self.gtes)
    }

    /// Number of grain tables, that is, of grain directory entries.
    pub(super) fn tables(&self) -> u64 {
        (self.capacity * SECTOR).div_ceil(self.table_cover())
    }

    /// Number of grains; the last one may be short.
    pub(super) fn grains(&self) -> u64 {
        (self.capacity * SECTOR).div_ceil(self.grain_bytes())
    }

    /// Number of sectors per grain table.
    pub(super) fn table_sectors(&self) -> u64 {
        (u64::from(self.gtes) * 4).div_ceil(SECTOR)
    }

    /// Number of sectors of the grain directory.
    pub(super) fn directory_sectors(&self) -> u64 {
        (self.tables() * 4).div_ceil(SECTOR)
    }

    /// Sector of the redundant directory, if there is one.
    pub(super) fn redundant(&self) -> Option<u64> {
        let exists = self.flags.contains(Flags::REDUNDANT) && self.rgd_offset != 0;
        exists.then_some(self.rgd_offset)
    }

    /// True if a table entry of 1 marks a zeroed grain. Always allowed in version 2,
    /// which introduced such entries; otherwise only with the flag.
    pub(super) fn zeroed_grains(&self) -> bool {
        self.version == 2 || self.flags.contains(Flags::ZEROED_GRAIN)
    }
}

impl SparseExtentHeader {
    fn validate(&self) -> Result<Header> {
        if self.magic != MAGIC {
            return Err(corrupt(format!("magic {:02x?}; expected \"KDMV\"", self.magic)));
        }
        let version = self.version.get();
        if !(1..=3).contains(&version) {
            return Err(Error::unsupported(format!(
                "version {version}; versions 1 to 3 are supported"
            )));
        }
        let flags = Flags::from_bits_retain(self.flags.get());
        let unknown = flags.bits() & !Flags::all().bits() & 0xffff_0000;
        if unknown != 0 {
            return Err(Error::unsupported(format!("unknown flags {unknown:#x}")));
        }
        if flags.contains(Flags::NEWLINE_TEST) && self.newline_test != NEWLINE_TEST {
            return Err(corrupt(format!(
                "the newline test bytes are {:02x?} instead of {NEWLINE_TEST:02x?}: \
                 the file was damaged by a text-mode transfer",
                self.newline_test
            )));
        }
        let compressed = self.compression(flags)?;
        Ok(Header {
            version,
            flags,
            capacity: in_range("capacity", self.capacity.get())?,
            grain_sectors: self.grain()?,
            descriptor_offset: in_range("descriptorOffset", self.descriptor_offset.get())?,
            descriptor_sectors: in_range("descriptorSize", self.descriptor_size.get())?,
            gtes: self.gtes()?,
            rgd_offset: match self.rgd_offset.get() {
                // Some writers leave both directories' offsets to the footer.
                GD_AT_END => 0,
                sector => in_range("rgdOffset", sector)?,
            },
            gd_offset: match self.gd_offset.get() {
                GD_AT_END => GD_AT_END,
                sector => in_range("gdOffset", sector)?,
            },
            over_head: in_range("overHead", self.over_head.get())?,
            unclean: self.unclean_shutdown != 0,
            compressed,
        })
    }

    fn compression(&self, flags: Flags) -> Result<bool> {
        match self.compress_algorithm.get() {
            COMPRESSION_NONE if flags.contains(Flags::COMPRESSED) => {
                Err(corrupt("flagged as compressed, but compressAlgorithm is 0".into()))
            }
            COMPRESSION_NONE => Ok(false),
            // QEMU and VirtualBox use this field and ignore the flag.
            COMPRESSION_DEFLATE => Ok(true),
            other => Err(Error::unsupported(format!(
                "compressAlgorithm {other}; 0 (none) and 1 (deflate) are supported"
            ))),
        }
    }

    fn grain(&self) -> Result<u64> {
        require_grain(self.grain_size.get(), MAX_GRAIN_SECTORS)
    }

    fn gtes(&self) -> Result<u32> {
        match self.num_gtes_per_gt.get() {
            gtes @ 1..=MAX_GTES => Ok(gtes),
            other => Err(corrupt(format!("numGTEsPerGT {other}; expected 1 to {MAX_GTES}"))),
        }
    }
}

/// Validates a grain size in sectors, for extents of every kind.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not a power of two,
/// [`Limit`](crate::ErrorKind::Limit) if it exceeds `max`. The caller adds the structure.
pub(super) fn require_grain(sectors: u64, max: u64) -> Result<u64> {
    if !sectors.is_power_of_two() {
        let message = format!("grainSize {sectors} is not a power of two");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    if sectors > max {
        return Err(Error::limit(format!(
            "grainSize {sectors} sectors; at most {max} are supported"
        )));
    }
    Ok(sectors)
}

fn in_range(field: &str, sectors: u64) -> Result<u64> {
    sectors_to_bytes(sectors)
        .map(|_| sectors)
        .ok_or_else(|| corrupt(format!("{field} is {sectors:#x} sectors, which exceeds 8 EiB")))
}

fn corrupt(message: String) -> Error {
    Error::corrupt("VMDK header", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            version: 1,
            flags: Flags::NEWLINE_TEST | Flags::REDUNDANT,
            capacity: 204_800,
            grain_sectors: 128,
            descriptor_offset: 1,
            descriptor_sectors: 20,
            gtes: 512,
            rgd_offset: 21,
            gd_offset: 38,
            over_head: 128,
            unclean: false,
            compressed: false,
        }
    }

    #[test]
    fn a_parsed_header_equals_the_encoded_one() {
        let stream = Header {
            version: 3,
            flags: Flags::NEWLINE_TEST | Flags::COMPRESSED | Flags::MARKERS,
            gd_offset: GD_AT_END,
            rgd_offset: 0,
            compressed: true,
            ..sample()
        };
        for header in [sample(), stream] {
            assert_eq!(Header::parse(&header.encode(), 0).expect("parses"), header);
        }
    }

    #[test]
    fn fields_are_encoded_at_the_offsets_of_the_specification() {
        let bytes = sample().encode();
        assert_eq!(bytes[..16], *b"KDMV\x01\0\0\0\x03\0\0\0\x00\x20\x03\0");
        assert_eq!(bytes[44..48], [0, 2, 0, 0]);
        assert_eq!(bytes[72..80], *b"\0\n \r\n\0\0\0");
        assert_eq!((sample().tables(), sample().directory_sectors()), (4, 1));
    }

    #[test]
    fn invalid_fields_are_errors() {
        let cases: [(usize, &[u8], ErrorKind, &str); 12] = [
            (0, b"VMDK", ErrorKind::Corrupt, "magic"),
            (4, &[4], ErrorKind::Unsupported, "version 4"),
            (4, &[0], ErrorKind::Unsupported, "version 0"),
            (10, &[4], ErrorKind::Unsupported, "0x40000"),
            (19, &[0x80], ErrorKind::Corrupt, "capacity"),
            (20, &[127], ErrorKind::Corrupt, "power of two"),
            (20, &[0], ErrorKind::Corrupt, "power of two"),
            (20, &[0, 0, 0x40], ErrorKind::Limit, "grainSize"),
            (44, &[0, 0], ErrorKind::Corrupt, "numGTEsPerGT 0"),
            (44, &[1, 2], ErrorKind::Corrupt, "numGTEsPerGT 513"),
            (73, b"\r\n", ErrorKind::Corrupt, "text-mode transfer"),
            (77, &[2], ErrorKind::Unsupported, "compressAlgorithm 2"),
        ];
        for (at, patch, kind, text) in cases {
            let mut bytes = sample().encode();
            bytes[at..at + patch.len()].copy_from_slice(patch);
            let error = Header::parse(&bytes, 0).expect_err(text);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn the_newline_bytes_are_tested_only_if_the_flag_is_set() {
        let mut bytes = sample().encode();
        bytes[8] = 2;
        bytes[73..77].fill(0);
        Header::parse(&bytes, 0).expect("the newline test is off");
    }
}
