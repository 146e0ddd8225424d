//! What the first sixteen sectors hold, of which ISO 9660 says nothing (ECMA-119, 6.2.1).

use super::{BootCatalog, Media, Platform};
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::partition::{Apm, Gpt, Mbr, Oddity, le64};
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use serde::Serialize;

/// Bytes of the system area.
pub(crate) const SYSTEM_AREA: u64 = 16 * SECTOR;

/// Where isohybrid's MBR finds the boot image, and GRUB's: 8 bytes, in sectors of 512.
pub(crate) const LOADER_ADDRESS: usize = 432;

/// GRUB's MBR does not load the boot image's first sector of 2048 bytes.
pub(crate) const GRUB2_MBR_SKIPS: u64 = 4;

/// How the MBR's code finds its boot image. Told by the address that is written into it, which
/// is one of the boot catalog's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum Loader {
    /// As syslinux's isohybrid.
    Isohybrid {
        /// Where the boot image begins: a sector of 2048 bytes.
        start_sector: u32,
    },
    /// As GRUB's boot_hybrid.img.
    Grub2 {
        /// Where the boot image begins: a sector of 2048 bytes.
        start_sector: u32,
    },
}

/// What makes an image start from a disk, and how the disk is divided. All of it may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct SystemArea {
    /// Whether there is anything at all in it.
    pub used: bool,
    /// The master boot record.
    pub mbr: Option<Mbr>,
    /// The GUID partition table.
    pub gpt: Option<Gpt>,
    /// The Apple partition map.
    pub apm: Option<Apm>,
    /// Which boot image the MBR's code loads.
    pub loader: Option<Loader>,
    /// What is odd about them.
    pub oddities: Vec<Oddity>,
}

impl SystemArea {
    /// Reads the system area of an image, and what lies at the image's end. Which loader there is
    /// can be told only by the boot catalog.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if reading fails.
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
