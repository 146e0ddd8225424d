//! How an ISO image starts a machine: El Torito from a disc, MBR and GPT from a disk.
//!
//! ```text
//!   byte      0   MBR: boot code, the boot image's address at 432, four partitions
//!           512   GPT's header, its entries behind it; or, at 2048, an Apple partition map
//!        34,816   boot record: a volume descriptor that says where the boot catalog is
//!           ...   boot catalog, boot images: extents like any other
//!       the end   partitions behind the file system; GPT's second copy
//! ```
//!
//! * `catalog`: El Torito's boot catalog, read and written;
//! * `system_area`: what the first sixteen sectors hold, by way of `mbr`, `gpt` and `apm`, which
//!   know nothing of ISO 9660;
//! * `tables`: what is written into boot images;
//! * `hybrid`: a new image's system area, and what lies behind its file system.
//!
//! What is read may be wrong in any way. What can be made sense of is given, with what is odd
//! about it ([`Oddity`]); only what is not there at all is an error.

mod catalog;
pub(crate) mod hybrid;
mod system_area;
pub(crate) mod tables;

pub use catalog::{BootCatalog, CatalogEntry, Media, SelectionCriteria};
pub(crate) use catalog::{NewEntry, encode_catalog, encode_record};
pub use system_area::{Loader, SystemArea};

use serde::{Serialize, Serializer};
use std::fmt;

/// Which firmware a boot entry is for (El Torito, 2.1; UEFI, "ISO-9660 and El Torito").
/// Serialized as the text that it displays as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// 80x86 BIOS: 0x00.
    Bios,
    /// PowerPC: 0x01.
    PowerPc,
    /// Macintosh: 0x02.
    Mac,
    /// UEFI: 0xEF.
    Efi,
    /// Any other number.
    Other(u8),
}

impl Platform {
    /// By its number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            0x00 => Self::Bios,
            0x01 => Self::PowerPc,
            0x02 => Self::Mac,
            0xef => Self::Efi,
            other => Self::Other(other),
        }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Bios => 0x00,
            Self::PowerPc => 0x01,
            Self::Mac => 0x02,
            Self::Efi => 0xef,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bios => f.write_str("bios"),
            Self::PowerPc => f.write_str("powerpc"),
            Self::Mac => f.write_str("mac"),
            Self::Efi => f.write_str("efi"),
            Self::Other(number) => write!(f, "{number:#04x}"),
        }
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
