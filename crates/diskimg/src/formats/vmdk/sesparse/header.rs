//! The two headers of an seSparse extent: the one that never changes, and the
//! one that every transaction touches.
//!
//! ```text
//!   0 ┌───────────────────┬─────────┬──────────┬───────────┬────────────────┬───────┐
//!     │ magic 0xcafebabe  │ version │ capacity │ grainSize │ grainTableSize │ flags │
//!  48 ├───────────────────┴─────────┴──────────┴───────────┴────────────────┴───────┤
//!     │ reserved: 4 × 0                                                             │
//!  80 ├─────────────────────────────────────────────────────────────────────────────┤
//!     │ 8 regions, <offset : size> each:  volatile header · journal header ·        │
//!     │ journal · grain directory · grain tables · free bitmap · back map · grains  │
//! 208 └─────────────────────────────────────────────────────────────────────────────┘ zeros up to 512
//!
//!   volatile header: magic 0xcafecafe · free grain table · next transaction · replay journal
//! ```
//!
//! All numbers are `u64`, all offsets and sizes in sectors. VMware has not
//! published the format; the names are those that `hostd.log` of an ESXi host
//! lists when it makes such an extent. What has no known meaning must be zero.

use super::super::header::{MAX_GRAIN_SECTORS, require_grain};
use super::super::{SECTOR, SESPARSE_MAGIC, read_sector, sectors_to_bytes};
use crate::error::{Error, Result};
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version 2.1, the only one seen.
const VERSION: u64 = 0x2_0000_0001;

/// The first bytes of the volatile header (`0xcafecafe`, little endian).
const VOLATILE_MAGIC: [u8; 8] = [0xfe, 0xca, 0xfe, 0xca, 0, 0, 0, 0];

/// The largest grain table, in sectors: 1 MiB. All known ones have 64.
const MAX_TABLE_SECTORS: u64 = 2048;

/// The constant header as it is on disk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ConstHeader {
    magic: [u8; 8],
    version: U64,
    capacity: U64,
    grain_size: U64,
    grain_table_size: U64,
    flags: U64,
    reserved: [U64; 4],
    /// In the order of [`REGIONS`].
    regions: [RawRegion; 8],
    padding: [u8; 304],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRegion {
    offset: U64,
    size: U64,
}

/// The volatile header as it is on disk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct VolatileHeader {
    magic: [u8; 8],
    free_gt_number: U64,
    next_txn_seq_number: U64,
    replay_journal: U64,
    padding: [u8; 480],
}

const _: () = assert!(size_of::<ConstHeader>() == to_usize(SECTOR));
const _: () = assert!(size_of::<VolatileHeader>() == to_usize(SECTOR));

/// What the regions hold, in the header's order.
pub(super) const REGIONS: [&str; 8] = [
    "volatile header",
    "journal header",
    "journal",
    "grain directory",
    "grain tables",
    "free bitmap",
    "back map",
    "grains",
];

/// Sectors set aside for something. Offset, size and end, in bytes, fit in 63
/// bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// A constant header whose every field was looked at. Sizes and offsets are in
/// sectors, as on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeSparseHeader {
    /// Sectors of the guest's disk that this extent covers; in bytes, they fit
    /// in 63 bits.
    pub(super) capacity: u64,
    /// Sectors of a grain; a power of two.
    pub(super) grain_sectors: u64,
    /// Sectors of a grain table; at least 1.
    pub(super) table_sectors: u64,
    /// In the order of [`REGIONS`].
    pub(super) regions: [Region; 8],
}

impl SeSparseHeader {
    /// Reads both headers.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), [`Unsupported`](crate::ErrorKind::Unsupported)
    /// and [`Limit`](crate::ErrorKind::Limit), each naming the field;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the journal holds what
    /// the tables do not.
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        let sector = read_sector(source, 0, "seSparse header")?;
        let raw: ConstHeader = zerocopy::transmute!(sector);
        let header = raw.validate().map_err(|e| e.in_structure("seSparse header").at(0))?;
        let [region, ..] = header.regions;
        let at = region.offset * SECTOR;
        let sector = read_sector(source, at, "seSparse volatile header")?;
        let raw: VolatileHeader = zerocopy::transmute!(sector);
        raw.validate().map_err(|e| e.in_structure("seSparse volatile header").at(at))?;
        Ok(header)
    }

    /// Bytes of a grain.
    pub(super) fn grain_bytes(&self) -> u64 {
        self.grain_sectors * SECTOR
    }

    /// Bytes of a grain table.
    pub(super) fn table_bytes(&self) -> u64 {
        self.table_sectors * SECTOR
    }

    /// Entries of a grain table.
    pub(super) fn entries(&self) -> u64 {
        self.table_bytes() / 8
    }

    /// Guest bytes that one grain table speaks for.
    pub(super) fn table_cover(&self) -> u64 {
        self.grain_bytes() * self.entries()
    }

    /// Grain tables, and so entries of the grain directory.
    pub(super) fn tables(&self) -> u64 {
        (self.capacity * SECTOR).div_ceil(self.table_cover())
    }

    /// Where the grain directory is.
    pub(super) fn grain_directory(&self) -> Region {
        self.regions[3]
    }

    /// Where the grain tables are.
    pub(super) fn grain_tables(&self) -> Region {
        self.regions[4]
    }

    /// Where the grains are.
    pub(super) fn grains(&self) -> Region {
        self.regions[7]
    }
}

impl ConstHeader {
    fn validate(&self) -> Result<SeSparseHeader> {
        if self.magic != SESPARSE_MAGIC {
            return Err(corrupt(format!("magic {:02x?}, 0xcafebabe wanted", self.magic)));
        }
        if self.version != VERSION {
            let version = self.version.get();
            return Err(Error::unsupported(format!(
                "version {}.{}; 2.1 is known",
                version >> 32,
                version & 0xffff_ffff
            )));
        }
        if self.flags != 0 {
            return Err(Error::unsupported(format!("unknown flags {:#x}", self.flags)));
        }
        if self.reserved != [U64::ZERO; 4] || self.padding != [0; 304] {
            return Err(Error::unsupported("fields that are not known, and not zero"));
        }
        let capacity = self.capacity.get();
        let mut regions = [Region { offset: 0, size: 0 }; 8];
        for ((region, raw), name) in regions.iter_mut().zip(&self.regions).zip(REGIONS) {
            *region = raw.validate(name)?;
        }
        let header = SeSparseHeader {
            capacity: sectors_to_bytes(capacity)
                .map(|_| capacity)
                .ok_or_else(|| corrupt(format!("capacity {capacity:#x} is beyond any disk")))?,
            grain_sectors: self.grain()?,
            table_sectors: self.table()?,
            regions,
        };
        let (tables, directory) = (header.tables(), header.grain_directory());
        if tables > directory.size * (SECTOR / 8) {
            return Err(corrupt(format!(
                "{capacity} sectors take {tables} grain tables, a directory of {} sectors has no \
                 budget for them",
                directory.size
            )));
        }
        Ok(header)
    }

    fn grain(&self) -> Result<u64> {
        require_grain(self.grain_size.get(), MAX_GRAIN_SECTORS)
    }

    fn table(&self) -> Result<u64> {
        match self.grain_table_size.get() {
            0 => Err(corrupt("grainTableSize 0".into())),
            sectors @ 1..=MAX_TABLE_SECTORS => Ok(sectors),
            sectors => Err(Error::limit(format!(
                "grainTableSize {sectors} sectors; at most {MAX_TABLE_SECTORS}"
            ))),
        }
    }
}

impl RawRegion {
    fn validate(&self, name: &str) -> Result<Region> {
        let (offset, size) = (self.offset.get(), self.size.get());
        let end = offset.checked_add(size).and_then(sectors_to_bytes);
        end.map(|_| Region { offset, size })
            .ok_or_else(|| corrupt(format!("{name} <{offset:#x} : {size:#x}> is beyond any file")))
    }
}

impl VolatileHeader {
    fn validate(&self) -> Result<()> {
        if self.magic != VOLATILE_MAGIC {
            return Err(Error::corrupt(
                "seSparse volatile header",
                format!("magic {:02x?}, 0xcafecafe wanted", self.magic),
            ));
        }
        if self.replay_journal != 0 {
            return Err(Error::unsupported(
                "its journal holds changes that its tables do not: the host did not close it",
            )
            .hint(
                "the ESXi host replays the journal when the virtual machine is powered on; or \
                 clone the disk there with vmkfstools -i",
            ));
        }
        if self.padding != [0; 480] {
            return Err(Error::unsupported("fields that are not known, and not zero"));
        }
        Ok(())
    }
}

fn corrupt(message: String) -> Error {
    Error::corrupt("seSparse header", message)
}
