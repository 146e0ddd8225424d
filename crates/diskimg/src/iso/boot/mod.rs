//! Booting from an ISO image: El Torito for optical discs, MBR and GPT for disks.
//!
//! ```text
//!   byte      0   MBR: boot code, address of the boot image at 432, four partitions
//!           512   GPT header and entries; or, at 2048, an Apple partition map
//!        34,816   boot record: a volume descriptor with the location of the boot catalog
//!           ...   boot catalog, boot images: extents like any other
//!       the end   partitions after the file system; backup GPT
//! ```
//!
//! * `catalog`: the El Torito boot catalog, for reading and writing.
//! * `system_area`: the contents of the first sixteen sectors. The partition tables are parsed by
//!   `mbr`, `gpt` and `apm`, which are independent of ISO 9660.
//! * `tables`: the data that is patched into boot images.
//! * `hybrid`: the system area of a new image, and everything after its file system.
//!
//! Images are untrusted. Damaged structures are returned as far as they can be parsed, with a list
//! of what is wrong ([`Oddity`](crate::partition::Oddity)). A missing partition table is not an
//! error; a missing boot catalog at the recorded location is, and so is a failed read.

mod catalog;
pub(crate) mod hybrid;
pub(crate) mod system_area;
pub(crate) mod tables;

pub use catalog::{BootCatalog, CatalogEntry, Media, SelectionCriteria};
pub(crate) use catalog::{NewEntry, encode_catalog, encode_record};
pub use system_area::{Loader, SystemArea};

use serde::{Serialize, Serializer};
use std::fmt;

/// Platform ID: the firmware that a boot entry is for (El Torito, 2.1; UEFI, "ISO-9660 and El
/// Torito"). Serialized as its `Display` text.
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
    /// Any other platform ID.
    Other(u8),
}

impl Platform {
    /// Creates a platform from its ID.
    pub const fn from_number(number: u8) -> Self {
        match number {
            0x00 => Self::Bios,
            0x01 => Self::PowerPc,
            0x02 => Self::Mac,
            0xef => Self::Efi,
            other => Self::Other(other),
        }
    }

    /// Returns the platform ID.
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
