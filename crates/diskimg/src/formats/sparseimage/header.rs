//! The header, and the index nodes that continue its table of slots.
//!
//! ```text
//!   offset   header                        index node
//!   0        sprs                          sprs
//!   4        version: 3                    number
//!   8        sectors of a band             flags
//!   12       flags: 1                      offset of the next index node, 64 bits; 0 if it is last
//!   16       sectors of the disk, low      (20) zeros
//!   20       offset of the first index
//!            node, 64 bits; 0: none
//!   28       sectors of the disk, 64 bits
//!   36       zeros
//!   56                                     slots: 1010 numbers of 32 bits
//!   64       slots: 1008 numbers
//! ```

use super::{SECTOR, read};
use crate::error::{Error, Result};
use crate::storage::source::Source;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The signature of the header and of index nodes.
const SIGNATURE: [u8; 4] = *b"sprs";

/// The bytes by which an image is recognized: the signature, and the upper half of the version.
pub(super) const PROBED: &[u8] = b"sprs\0\0";

/// The only known version.
const VERSION: u32 = 3;

/// The only known value of the flags.
pub(super) const FLAGS: u32 = 1;

/// Length in bytes of the header and of an index node, with their slots. Bands follow.
pub(super) const NODE_BYTES: u64 = 4096;

/// Maximum number of sectors of a band: that of the option `sparse-band-size` of hdiutil.
const MAX_BAND_SECTORS: u32 = 16 << 20;

/// How messages call the header.
pub(super) const HEADER: &str = "sparse image header";

/// How messages call an index node.
pub(super) const INDEX_NODE: &str = "sparse image index node";

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 4],
    version: U32,
    band_sectors: U32,
    flags: U32,
    sectors_low: U32,
    next_node: U64,
    sectors: U64,
    padding: [u8; 28],
    slots: [U32; 1008],
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawIndexNode {
    signature: [u8; 4],
    number: U32,
    flags: U32,
    next_node: U64,
    padding: [u8; 36],
    slots: [U32; 1010],
}

const _: () = assert!(size_of::<RawHeader>() == 4096 && size_of::<RawIndexNode>() == 4096);

/// What the header says about the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Size of the disk in bytes.
    pub(super) size: u64,
    /// Size of a band in bytes.
    pub(super) band_bytes: u64,
    pub(super) flags: u32,
}

/// The slots that the header or an index node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slots {
    /// For each slot the number of its band, counted from 1; 0 if it has none.
    pub(super) bands: Vec<u32>,
    /// Host offset of the next index node; 0 if there is none.
    pub(super) next_node: u64,
}

impl Header {
    /// Reads and validates the header, and its slots.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is invalid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an unknown version,
    /// [`Io`](crate::ErrorKind::Io).
    pub(super) fn read(source: &dyn Source) -> Result<(Self, Slots)> {
        let mut bytes = [0; size_of::<RawHeader>()];
        read(source, &mut bytes, 0, HEADER)?;
        let raw: RawHeader = zerocopy::transmute!(bytes);
        let corrupt = |at: u64, message: String| Error::corrupt(HEADER, message).at(at);
        if raw.signature != SIGNATURE {
            return Err(corrupt(0, "it does not start with the signature 'sprs'".to_owned()));
        }
        let version = raw.version.get();
        if version != VERSION {
            let message = format!("version {version} of the format; only {VERSION} is known");
            return Err(Error::unsupported(message).in_structure(HEADER).at(4));
        }
        let band_sectors = raw.band_sectors.get();
        if !(1..=MAX_BAND_SECTORS).contains(&band_sectors) {
            let message =
                format!("bands of {band_sectors} sectors; expected 1 to {MAX_BAND_SECTORS}");
            return Err(corrupt(8, message));
        }
        let (low, sectors) = (raw.sectors_low.get(), raw.sectors.get());
        let sectors = match sectors {
            // A program that knows the field of 32 bits only.
            0 => u64::from(low),
            sectors if sectors & u64::from(u32::MAX) == u64::from(low) => sectors,
            sectors => {
                let message = format!(
                    "the disk has {sectors} sectors by the field at 28, but the one at 16 is {low}"
                );
                return Err(corrupt(16, message));
            }
        };
        let size = sectors.checked_mul(SECTOR).filter(|&size| size <= i64::MAX.cast_unsigned());
        let size = size.ok_or_else(|| {
            corrupt(28, format!("a disk of {sectors} sectors, which exceeds 8 EiB"))
        })?;
        let header =
            Self { size, band_bytes: u64::from(band_sectors) * SECTOR, flags: raw.flags.get() };
        Ok((header, Slots::new(&raw.slots, raw.next_node)))
    }

    /// Returns the number of bands of the disk.
    pub(super) fn bands(&self) -> u64 {
        self.size.div_ceil(self.band_bytes)
    }
}

impl Slots {
    /// Reads the index node at `at`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if there is none, [`Io`](crate::ErrorKind::Io).
    pub(super) fn read_index_node(source: &dyn Source, at: u64) -> Result<Self> {
        let mut bytes = [0; size_of::<RawIndexNode>()];
        read(source, &mut bytes, at, INDEX_NODE)?;
        let raw: RawIndexNode = zerocopy::transmute!(bytes);
        if raw.signature != SIGNATURE {
            let message = "it does not start with the signature 'sprs'";
            return Err(Error::corrupt(INDEX_NODE, message).at(at));
        }
        Ok(Self::new(&raw.slots, raw.next_node))
    }

    fn new(slots: &[U32], next_node: U64) -> Self {
        let bands = slots.iter().map(|band| band.get()).collect();
        Self { bands, next_node: next_node.get() }
    }
}
