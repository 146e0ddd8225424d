//! The two headers of an seSparse extent: the constant header, and the volatile header, which every
//! transaction updates.
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
//! All fields are `u64`, all offsets and sizes in sectors. VMware has not published the format; the
//! names are those that an ESXi host logs to `hostd.log` when it creates such an extent. Fields
//! whose meaning is unknown must be zero.

use super::super::header::{MAX_GRAIN_SECTORS, require_grain};
use super::super::{SECTOR, SESPARSE_MAGIC, read_sector, sectors_to_bytes};
use crate::error::{Error, Result};
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version 2.1, the only known one.
const VERSION: u64 = 0x2_0000_0001;

/// The first bytes of the volatile header (`0xcafecafe`, little endian).
const VOLATILE_MAGIC: [u8; 8] = [0xfe, 0xca, 0xfe, 0xca, 0, 0, 0, 0];

/// The largest supported grain table, in sectors: 1 MiB. All known ones have 64 sectors.
const MAX_TABLE_SECTORS: u64 = 2048;

/// The on-disk constant header.
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

/// The on-disk volatile header.
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

/// Names of the regions, in the header's order.
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

/// A region of the file, in sectors. Offset, size and end, in bytes, fit in 63 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// A validated constant header. Sizes and offsets are in sectors, as on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeSparseHeader {
    /// Number of guest sectors that the extent covers. In bytes, it fits in 63 bits.
    pub(super) capacity: u64,
    /// Number of sectors per grain; a power of two.
    pub(super) grain_sectors: u64,
    /// Number of sectors per grain table; at least 1.
    pub(super) table_sectors: u64,
    /// In the order of [`REGIONS`].
    pub(super) regions: [Region; 8],
}

impl SeSparseHeader {
    /// Reads and validates both headers.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), [`Unsupported`](crate::ErrorKind::Unsupported) or
    /// [`Limit`](crate::ErrorKind::Limit), naming the field;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the journal must be replayed;
    /// [`Io`](crate::ErrorKind::Io).
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

    /// Grain size in bytes.
    pub(super) fn grain_bytes(&self) -> u64 {
        self.grain_sectors * SECTOR
    }

    /// Size of a grain table in bytes.
    pub(super) fn table_bytes(&self) -> u64 {
        self.table_sectors * SECTOR
    }

    /// Number of entries per grain table.
    pub(super) fn entries(&self) -> u64 {
        self.table_bytes() / 8
    }

    /// Number of guest bytes that one grain table covers.
    pub(super) fn table_cover(&self) -> u64 {
        self.grain_bytes() * self.entries()
    }

    /// Number of grain tables, that is, of grain directory entries.
    pub(super) fn tables(&self) -> u64 {
        (self.capacity * SECTOR).div_ceil(self.table_cover())
    }

    /// The region of the grain directory.
    pub(super) fn grain_directory(&self) -> Region {
        self.regions[3]
    }

    /// The region of the grain tables.
    pub(super) fn grain_tables(&self) -> Region {
        self.regions[4]
    }

    /// The region of the grains.
    pub(super) fn grains(&self) -> Region {
        self.regions[7]
    }
}

impl ConstHeader {
    fn validate(&self) -> Result<SeSparseHeader> {
        if self.magic != SESPARSE_MAGIC {
            return Err(corrupt(format!("magic {:02x?}; expected 0xcafebabe", self.magic)));
        }
        if self.version != VERSION {
            let version = self.version.get();
            return Err(Error::unsupported(format!(
                "version {}.{}; only version 2.1 is supported",
                version >> 32,
                version & 0xffff_ffff
            )));
        }
        if self.flags != 0 {
            return Err(Error::unsupported(format!("unknown flags {:#x}", self.flags)));
        }
        if self.reserved != [U64::ZERO; 4] || self.padding != [0; 304] {
            return Err(Error::unsupported("nonzero reserved fields"));
        }
        let capacity = self.capacity.get();
        let mut regions = [Region { offset: 0, size: 0 }; 8];
        for ((region, raw), name) in regions.iter_mut().zip(&self.regions).zip(REGIONS) {
            *region = raw.validate(name)?;
        }
        let header = SeSparseHeader {
            capacity: sectors_to_bytes(capacity).map(|_| capacity).ok_or_else(|| {
                corrupt(format!("capacity is {capacity:#x} sectors, which exceeds 8 EiB"))
            })?,
            grain_sectors: self.grain()?,
            table_sectors: self.table()?,
            regions,
        };
        let (tables, directory) = (header.tables(), header.grain_directory());
        if tables > directory.size * (SECTOR / 8) {
            return Err(corrupt(format!(
                "{capacity} sectors need {tables} grain tables, but the directory has only {} \
                 sectors",
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
                "grainTableSize {sectors} sectors; at most {MAX_TABLE_SECTORS} are supported"
            ))),
        }
    }
}

impl RawRegion {
    fn validate(&self, name: &str) -> Result<Region> {
        let (offset, size) = (self.offset.get(), self.size.get());
        let end = offset.checked_add(size).and_then(sectors_to_bytes);
        end.map(|_| Region { offset, size })
            .ok_or_else(|| corrupt(format!("{name} <{offset:#x} : {size:#x}> exceeds 8 EiB")))
    }
}

impl VolatileHeader {
    fn validate(&self) -> Result<()> {
        if self.magic != VOLATILE_MAGIC {
            return Err(Error::corrupt(
                "seSparse volatile header",
                format!("magic {:02x?}; expected 0xcafecafe", self.magic),
            ));
        }
        if self.replay_journal != 0 {
            return Err(Error::unsupported(
                "the journal has to be replayed: the host did not close the extent",
            )
            .hint(
                "the ESXi host replays the journal when the virtual machine is powered on; \
                 alternatively, clone the disk there with vmkfstools -i",
            ));
        }
        if self.padding != [0; 480] {
            return Err(Error::unsupported("nonzero reserved fields"));
        }
        Ok(())
    }
}

fn corrupt(message: String) -> Error {
    Error::corrupt("seSparse header", message)
}
