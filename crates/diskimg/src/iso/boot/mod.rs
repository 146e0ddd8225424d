//! How an ISO image starts a machine: El Torito from a disc, MBR and GPT from a disk.

/// Which firmware a boot entry is for (El Torito, 2.1; UEFI, "ISO-9660 and El Torito").
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

use crate::host::source::Source;
use crate::vocabulary::error::Result;
use serde::Serialize;

/// Catalog.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct BootCatalog {
    /// Offset.
    pub offset: u64,
    /// Warnings.
    pub warnings: Vec<String>,
}
impl BootCatalog {
    pub(crate) fn read(_: &dyn Source, sector: u32) -> Result<Self> {
        Ok(Self { offset: u64::from(sector) * 2048, warnings: Vec::new() })
    }
}
/// System area.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct SystemArea {
    /// Warnings.
    pub warnings: Vec<String>,
}
impl SystemArea {
    pub(crate) fn read(_: &dyn Source) -> Result<Self> {
        Ok(Self { warnings: Vec::new() })
    }
}
