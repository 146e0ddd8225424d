//! The disk layout of a new image: partition tables in the system area, and everything after the
//! file system.
//!
//! ```text
//!   system area   MBR with boot code; primary GPT header and entries; Apple partition map
//!   volume        the file system; with isohybrid, extended to whole cylinders
//!   appended      partitions, each in whole sectors of 2048 bytes
//!   padding       part of the volume if there are no appended partitions; with UDF, an anchor
//!   backup        GPT entries and backup header, up to the last byte
//! ```
//!
//! * `derived`: the tables that the options describe.
//! * `kept`: the tables of an image that is rebuilt, whose partitions refer to what they contain.
//! * `encode`: the bytes of either.

mod derived;
mod encode;
pub(crate) mod kept;

use super::system_area::{LOADER_ADDRESS, SYSTEM_AREA};
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::write::{CylinderAlignment, Hybrid};
use crate::partition::gpt::{Guid, Placement};
use crate::partition::mbr::{self, Geometry};
use crate::storage::number::to_u64;

/// Number of disk sectors (512 bytes) in a sector of 2048 bytes.
const DISK_SECTORS: u64 = SECTOR / mbr::SECTOR;

/// Distance of the last UDF anchor from the end of the image, in sectors: in the last sector or, if
/// that has the backup GPT, 256 sectors before it (ECMA-167, 3/8.4.2.1).
const ANCHOR: u64 = 1;
const ANCHOR_BEFORE_BACKUP: u64 = 257;

/// Length of the code in GRUB's MBR in bytes. The code of isohybrid ends at its address.
const GRUB2_CODE: usize = 440;

/// A range of sectors of the new image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SectorRange {
    /// First sector, in sectors of 2048 bytes.
    pub(crate) start: u64,
    /// Length in sectors of 2048 bytes.
    pub(crate) sectors: u64,
}

impl SectorRange {
    /// Returns start and end (exclusive) in sectors of 512 bytes.
    fn on_disk(self) -> (u64, u64) {
        (self.start * DISK_SECTORS, (self.start + self.sectors) * DISK_SECTORS)
    }
}

/// A boot image that is to be a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImagePartition {
    pub(crate) range: SectorRange,
    /// Type in the GPT, if it is to be listed there.
    pub(crate) gpt: Option<Guid>,
    /// List it in the Apple partition map.
    pub(crate) apm: bool,
}

/// What follows the file system or, if there are any, the appended partitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// Number of sectors of zeros.
    pub(crate) padding: u64,
    /// True if there is a UDF anchor.
    pub(crate) anchor: bool,
}

impl Trailer {
    /// Returns the distance of the anchor from the end of an image that ends with `backup` sectors
    /// of a GPT; 0 if there is none.
    fn anchor(self, backup: u64) -> u64 {
        match (self.anchor, backup) {
            (false, _) => 0,
            (true, 0) => ANCHOR,
            (true, backup) => ANCHOR_BEFORE_BACKUP.max(backup + 1),
        }
    }

    /// Returns the total length in sectors, with those of the backup GPT.
    fn sectors(self, backup: u64) -> u64 {
        (self.padding + u64::from(self.anchor) + backup).max(self.anchor(backup))
    }
}

/// Layout of everything after the file system, in sectors of 2048 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HybridLayout {
    /// Volume space size, as recorded in the volume descriptors.
    pub(crate) volume: u64,
    /// The appended partitions, in the order of [`Hybrid::appended`].
    pub(crate) appended: Vec<SectorRange>,
    /// Where the GPT is placed, if there is one.
    gpt: Option<Placement>,
    /// Sector of the last UDF anchor.
    pub(crate) anchor: Option<u64>,
    /// Length of the image.
    pub(crate) total: u64,
}

/// The encoded partition tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskAreas {
    /// Contents of the system area, up to the last byte used.
    pub(crate) system_area: Vec<u8>,
    /// Contents of the end of the image.
    pub(crate) backup: Vec<u8>,
}

/// What determines the layout, in addition to the options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayoutInput<'a> {
    /// Lengths of the appended partitions in bytes.
    pub(crate) appended: &'a [u64],
    /// The boot images that are to be partitions. Only their number and kind matter here.
    pub(crate) images: &'a [ImagePartition],
    /// First sector after the file system.
    pub(crate) end: u64,
    /// What follows the file system or the appended partitions.
    pub(crate) trailer: Trailer,
    /// Alignment of appended partitions in bytes.
    pub(crate) alignment: u64,
}

impl HybridLayout {
    /// Creates the layout.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for invalid or contradictory
    /// options.
    pub(crate) fn new(hybrid: &Hybrid, input: LayoutInput<'_>) -> Result<Self> {
        check_options(hybrid)?;
        let appends = !input.appended.is_empty();
        let gpt = match &hybrid.kept {
            Some(kept) => kept.gpt.as_ref().map(|gpt| gpt.placement),
            None => derived::gpt_placement(hybrid, &input),
        };
        let backup = gpt.map_or(0, |placement| placement.backup_sectors().div_ceil(DISK_SECTORS));
        let trailing = input.trailer.sectors(backup);
        let mut volume = if appends { input.end } else { input.end + trailing };
        let (cylinder, aligns_appended) = alignment(hybrid)?;
        volume = volume.next_multiple_of(cylinder);
        let mut total = volume;
        let mut appended = Vec::with_capacity(input.appended.len());
        for bytes in input.appended {
            let start = total.next_multiple_of((input.alignment / SECTOR).max(1));
            let mut sectors = bytes.div_ceil(SECTOR);
            if aligns_appended {
                sectors = (start + sectors).next_multiple_of(cylinder) - start;
            }
            appended.push(SectorRange { start, sectors });
            total = start + sectors;
        }
        if appends {
            total += trailing;
        }
        let anchor = input.trailer.anchor.then(|| total - input.trailer.anchor(backup));
        Ok(Self { volume, appended, gpt, anchor, total })
    }

    /// Encodes the partition tables that the options describe.
    ///
    /// `loader` is the first sector of the BIOS boot image (in sectors of 2048 bytes); `images` are
    /// the boot images that are to be partitions. All identifiers are derived from `seed`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if there is boot code without a
    /// boot image or there are too many partitions, [`ErrorKind::Limit`](crate::ErrorKind::Limit)
    /// if the disk is too large for an MBR.
    pub(crate) fn encode(
        &self,
        hybrid: &Hybrid,
        loader: Option<u32>,
        images: &[ImagePartition],
        seed: &[u8],
    ) -> Result<DiskAreas> {
        derived::tables(self, hybrid, loader, images, seed)?.encode(self.disk_sectors())
    }

    /// Returns the length of the image in sectors of 512 bytes.
    fn disk_sectors(&self) -> u64 {
        self.total * DISK_SECTORS
    }
}

/// Returns the size in sectors of 2048 bytes of the cylinders that the volume is a multiple of, and
/// whether appended partitions are, too.
fn alignment(hybrid: &Hybrid) -> Result<(u64, bool)> {
    if let Some(kept) = &hybrid.kept {
        let cylinder = kept.geometry.cylinder() / DISK_SECTORS;
        return Ok((if kept.aligned { cylinder.max(1) } else { 1 }, false));
    }
    let partitions = hybrid.isohybrid_mbr.is_some() || hybrid.protective_label;
    let aligned = match hybrid.cylinder_alignment {
        CylinderAlignment::Auto => hybrid.isohybrid_mbr.is_some(),
        CylinderAlignment::On | CylinderAlignment::All => partitions,
        CylinderAlignment::Off => false,
    };
    let cylinder = geometry(hybrid).cylinder();
    if !aligned {
        return Ok((1, false));
    }
    if !cylinder.is_multiple_of(DISK_SECTORS)
        && hybrid.cylinder_alignment != CylinderAlignment::Auto
    {
        let message = format!(
            "an image cannot be aligned to cylinders of {} bytes, which are not whole sectors of \
             {SECTOR} bytes",
            cylinder * mbr::SECTOR
        );
        return Err(Error::invalid(message));
    }
    let all = hybrid.cylinder_alignment == CylinderAlignment::All;
    // The image covers whole cylinders, even if cylinders are not whole sectors of 2048 bytes.
    let sectors = if cylinder.is_multiple_of(DISK_SECTORS) { cylinder / DISK_SECTORS } else { 1 };
    Ok((sectors, all))
}

/// Returns the geometry that the options describe.
fn geometry(hybrid: &Hybrid) -> Geometry {
    let default = Geometry::default();
    let or = |number: u8, default| if number == 0 { default } else { number };
    Geometry {
        heads: or(hybrid.heads, default.heads),
        track: or(hybrid.sectors_per_track, default.track).min(63),
    }
}

/// Checks the options.
fn check_options(hybrid: &Hybrid) -> Result<()> {
    match (&hybrid.isohybrid_mbr, &hybrid.grub2_mbr) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("isohybrid MBR and GRUB MBR cannot be combined"));
        }
        (Some(code), None) if code.len() < LOADER_ADDRESS => {
            let message = format!(
                "the isohybrid MBR has {} bytes; at least {LOADER_ADDRESS} are required",
                code.len()
            );
            return Err(Error::invalid(message).hint("use isohdpfx.bin from syslinux"));
        }
        (None, Some(code)) if code.len() < GRUB2_CODE => {
            let message = format!(
                "the GRUB MBR has {} bytes; at least {GRUB2_CODE} are required",
                code.len()
            );
            return Err(Error::invalid(message).hint("use boot_hybrid.img from GRUB"));
        }
        (Some(_), None) if hybrid.protective_label => {
            return Err(Error::invalid(
                "isohybrid MBR and protective partition table cannot be combined",
            ));
        }
        _ => {}
    }
    if let Some(area) = hybrid.system_area.as_ref().filter(|area| to_u64(area.len()) > SYSTEM_AREA)
    {
        let message =
            format!("the system area has {} bytes; the maximum is {SYSTEM_AREA}", area.len());
        return Err(Error::invalid(message));
    }
    if hybrid.sectors_per_track > 63 {
        let message = format!("{} sectors per track exceed 63", hybrid.sectors_per_track);
        return Err(Error::invalid(message));
    }
    let offset = u64::from(hybrid.partition_offset);
    if offset > 0 && offset < SYSTEM_AREA / SECTOR {
        let message = format!("the partition offset {offset} is neither 0 nor at least 16");
        return Err(Error::invalid(message));
    }
    let max = match &hybrid.kept {
        // The numbers only identify the partitions.
        Some(_) => u32::MAX,
        None if hybrid.appended_as_gpt => 128,
        None => 4,
    };
    for (index, appended) in hybrid.appended.iter().enumerate() {
        let number = appended.number;
        if !(1..=max).contains(&number) {
            let message = format!("partition number {number} is not between 1 and {max}");
            return Err(Error::invalid(message));
        }
        if hybrid.appended[..index].iter().any(|other| other.number == number) {
            return Err(Error::invalid(format!("two partitions have the number {number}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
