//! The system area: the first sixteen sectors, whose contents ISO 9660 does not define (ECMA-119,
//! 6.2.1).

use super::{BootCatalog, Media, Platform};
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::partition::{Apm, Gpt, Mbr, Oddity, le64};
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use serde::Serialize;

/// Length of the system area in bytes.
pub(crate) const SYSTEM_AREA: u64 = 16 * SECTOR;

/// Offset in the MBR of the 8-byte address from which isohybrid and GRUB load, counted in sectors of
/// 512 bytes: the start of the boot image, for GRUB plus [`GRUB2_MBR_SKIPS`].
pub(crate) const LOADER_ADDRESS: usize = 432;

/// Number of 512-byte sectors at the start of the boot image that GRUB's MBR does not load.
pub(crate) const GRUB2_MBR_SKIPS: u64 = 4;

/// The boot loader that the code in the MBR loads. Recognized by the address in the MBR, which
/// refers to a boot image in the boot catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum Loader {
    /// ISOLINUX, loaded by an isohybrid MBR.
    Isohybrid {
        /// First sector of the boot image, in sectors of 2048 bytes.
        start_sector: u32,
    },
    /// GRUB, loaded by its MBR (boot_hybrid.img).
    Grub2 {
        /// First sector of the boot image, in sectors of 2048 bytes.
        start_sector: u32,
    },
}

/// Boot code and partition tables, for booting the image from a disk. All of them are optional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct SystemArea {
    /// True if the system area is not all zeros.
    pub used: bool,
    /// The master boot record.
    pub mbr: Option<Mbr>,
    /// The GUID partition table.
    pub gpt: Option<Gpt>,
    /// The Apple partition map.
    pub apm: Option<Apm>,
    /// Boot loader that the code in the MBR loads.
    pub loader: Option<Loader>,
    /// Violations of the specifications.
    pub oddities: Vec<Oddity>,
}

impl SystemArea {
    /// Reads the system area of an image, and the backup GPT at its end. The boot catalog is
    /// required to recognize the loader.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Io`](crate::ErrorKind::Io) if reading fails.
    pub fn read(source: &dyn Source, catalog: Option<&BootCatalog>) -> Result<Self> {
        let mut start = vec![0; to_usize(source.len().min(SYSTEM_AREA))];
        source
            .read_exact_at(&mut start, 0)
            .map_err(|e| Error::io("cannot read", e).in_structure("system area").at(0))?;
        let mut oddities = Vec::new();
        let mbr =
            start.first_chunk().and_then(|sector| Mbr::parse(sector, source.len(), &mut oddities));
        let gpt = Gpt::read(source, &mut oddities)?;
        let apm = Apm::parse(&start, &mut oddities);
        let loader = mbr.as_ref().and_then(|_| Loader::find(&start, catalog?));
        let used = start.iter().any(|&byte| byte != 0);
        Ok(Self { used, mbr, gpt, apm, loader, oddities })
    }
}

impl Loader {
    fn find(start: &[u8], catalog: &BootCatalog) -> Option<Self> {
        let address = le64(start.get(..512)?, LOADER_ADDRESS);
        let images = catalog
            .entries
            .iter()
            .filter(|entry| entry.media == Media::NoEmulation && entry.platform == Platform::Bios);
        images.map(|entry| entry.start_sector).find_map(|start_sector| {
            let image = u64::from(start_sector) * 4;
            match address.checked_sub(image)? {
                0 if image > 0 => Some(Self::Isohybrid { start_sector }),
                GRUB2_MBR_SKIPS => Some(Self::Grub2 { start_sector }),
                _ => None,
            }
        })
    }
}
