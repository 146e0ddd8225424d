//! The master boot record: 512 bytes with four partition entries.
//!
//! ```text
//!    0   boot code          440 disk signature(4)   444 zeros(2)
//!  446   four entries: status, first CHS(3), type, last CHS(3), first sector(4), sectors(4)
//!  510   55 aa
//! ```
//!
//! Specification: UEFI, "Legacy Master Boot Record".

use super::{Oddity, le16, le32, note};
use crate::storage::number::{to_u8, to_u32, to_u64, to_usize};
use serde::{Serialize, Serializer};

/// Sector size in bytes.
pub(crate) const SECTOR: u64 = 512;

/// Offset of the disk signature.
const DISK_ID: usize = 440;

/// Offset of the partition entries.
pub(crate) const TABLE: usize = 446;

/// Length of a partition entry in bytes.
const ENTRY: usize = 16;

/// Type of the partition that protects a GPT from tools that do not support GPT.
pub(crate) const PROTECTIVE: u8 = 0xee;

/// Number of cylinders that a partition entry can address.
const CYLINDERS: u64 = 1024;

/// The geometry that the CHS addresses of partition entries refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Heads per cylinder: 1 to 255.
    pub(crate) heads: u8,
    /// Sectors per track: 1 to 63.
    pub(crate) track: u8,
}

impl Default for Geometry {
    /// Returns the geometry of isohybrid, whose cylinders have 1 MiB.
    fn default() -> Self {
        Self { heads: 64, track: 32 }
    }
}

impl Geometry {
    /// The geometries that programs use.
    const KNOWN: [Self; 7] = [
        Self { heads: 64, track: 32 },
        Self { heads: 255, track: 63 },
        Self { heads: 16, track: 63 },
        Self { heads: 128, track: 32 },
        Self { heads: 240, track: 63 },
        Self { heads: 128, track: 63 },
        Self { heads: 255, track: 32 },
    ];

    /// Returns the size of a cylinder in sectors.
    pub(crate) fn cylinder(self) -> u64 {
        u64::from(self.heads) * u64::from(self.track)
    }

    /// Returns the geometry that the CHS addresses in an MBR refer to: one of the known ones with
    /// which all of them agree with the sector numbers. Partitions beyond the cylinders that can be
    /// addressed agree with every geometry. Returns the default if none of them fits.
    pub(crate) fn of(sector: &[u8; to_usize(SECTOR)]) -> Self {
        let fits = |geometry: &Self| {
            entries(sector).filter(|entry| le32(entry, 12) > 0).all(|entry| {
                let first = u64::from(le32(entry, 8));
                let last = first + u64::from(le32(entry, 12)) - 1;
                [(first, &entry[1..4]), (last, &entry[5..8])].iter().all(|(sector, chs)| {
                    *sector >= geometry.cylinder() * CYLINDERS || geometry.encode(*sector) == *chs
                })
            })
        };
        Self::KNOWN.into_iter().find(fits).unwrap_or_default()
    }

    /// Encodes a sector number as CHS: head, sector (with the upper two bits of the cylinder) and
    /// cylinder. A sector beyond the cylinders that can be addressed becomes the last sector of the
    /// last cylinder, as isohybrid does, because a BIOS may derive the geometry from it.
    fn encode(self, sector: u64) -> [u8; 3] {
        let sector = sector.min(CYLINDERS * self.cylinder() - 1);
        let (cylinder, within) = (sector / self.cylinder(), sector % self.cylinder());
        let (head, sector) = (within / u64::from(self.track), within % u64::from(self.track) + 1);
        [to_u8(head), to_u8(sector | ((cylinder >> 8) << 6)), to_u8(cylinder & 0xff)]
    }
}

/// Returns the four partition entries.
fn entries(sector: &[u8; to_usize(SECTOR)]) -> impl Iterator<Item = &[u8]> {
    sector[TABLE..TABLE + 4 * ENTRY].chunks_exact(ENTRY)
}

/// Makes the partition that protects a GPT end with sector `last`, the last one of the disk, or where
/// an MBR can say it. Returns false if there is none, or it does so already.
pub(crate) fn resize_protective(sector: &mut [u8; to_usize(SECTOR)], last: u64) -> bool {
    let geometry = Geometry::of(sector);
    if sector[510..] != [0x55, 0xaa] {
        return false;
    }
    let protects = |entry: &&mut [u8]| entry[4] == PROTECTIVE && le32(entry, 8) == 1;
    let mut entries = sector[TABLE..TABLE + 4 * ENTRY].chunks_exact_mut(ENTRY);
    let Some(entry) = entries.find(protects) else { return false };
    let old = entry.to_vec();
    let chs = match last < CYLINDERS * geometry.cylinder() {
        true => geometry.encode(last),
        false => [0xff; 3],
    };
    entry[5..8].copy_from_slice(&chs);
    entry[12..16].copy_from_slice(&to_u32(last.min(u32::MAX.into())).to_le_bytes());
    entry != old
}

/// A partition of an MBR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct MbrPartition {
    /// Number, from 1 to 4.
    pub number: u8,
    /// True if it is the active (bootable) partition.
    pub active: bool,
    /// Type. 0xEF is an EFI system partition, 0xEE protects a GPT.
    pub kind: u8,
    /// First sector, in sectors of 512 bytes.
    pub first_sector: u32,
    /// Length in sectors of 512 bytes.
    pub sectors: u32,
}

/// A master boot record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Mbr {
    /// Disk signature.
    #[serde(serialize_with = "as_hex")]
    pub disk_id: u32,
    /// True if the boot code is not all zeros.
    pub has_code: bool,
    /// Partition entries that are not all zeros.
    pub partitions: Vec<MbrPartition>,
    /// The geometry that the CHS addresses refer to.
    #[serde(skip)]
    pub(crate) geometry: Geometry,
}

fn as_hex<S: Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:#010x}"))
}

impl Mbr {
    /// Returns the heads per cylinder and the sectors per track with which the CHS addresses of all
    /// partitions agree: those of a geometry that programs use, or 64 and 32 if none of these does.
    pub fn geometry(&self) -> (u8, u8) {
        (self.geometry.heads, self.geometry.track)
    }

    /// Returns true if the only partition is one that protects a GPT (UEFI, "Protective MBR").
    pub fn is_protective(&self) -> bool {
        matches!(*self.partitions, [MbrPartition { kind: PROTECTIVE, .. }])
    }

    /// Parses the first sector of a disk of `disk_bytes` bytes. Returns `None` if the signature at
    /// the end of the sector is missing.
    pub(crate) fn parse(
        sector: &[u8; to_usize(SECTOR)],
        disk_bytes: u64,
        oddities: &mut Vec<Oddity>,
    ) -> Option<Self> {
        if sector[510..] != [0x55, 0xaa] {
            return None;
        }
        let mut partitions: Vec<MbrPartition> = Vec::new();
        for (entry, number) in entries(sector).zip(1u8..) {
            if entry.iter().all(|&byte| byte == 0) {
                continue;
            }
            let partition = MbrPartition {
                number,
                active: entry[0] & 0x80 != 0,
                kind: entry[4],
                first_sector: le32(entry, 8),
                sectors: le32(entry, 12),
            };
            let at = to_u64(TABLE + ENTRY * (usize::from(number) - 1));
            if entry[0] & 0x7f != 0 {
                let message =
                    format!("MBR partition {number}: status {:#04x}, not 0x00 or 0x80", entry[0]);
                note(oddities, at, message);
            }
            let end = u64::from(partition.first_sector) + u64::from(partition.sectors);
            // A protective partition may have the largest possible size.
            if partition.kind != PROTECTIVE && end * SECTOR > disk_bytes {
                let message = format!(
                    "MBR partition {number} ends at byte {}, past the image's end at {disk_bytes}",
                    end * SECTOR
                );
                note(oddities, at, message);
            }
            partitions.push(partition);
        }
        let has_code = sector[..DISK_ID].iter().any(|&byte| byte != 0);
        let geometry = Geometry::of(sector);
        Some(Self { disk_id: le32(sector, DISK_ID), has_code, partitions, geometry })
    }

    /// Writes the partition entries, the disk signature and the MBR's signature. Keeps the boot
    /// code.
    pub(crate) fn encode(&self, sector: &mut [u8; to_usize(SECTOR)]) {
        sector[DISK_ID..DISK_ID + 4].copy_from_slice(&self.disk_id.to_le_bytes());
        sector[TABLE..510].fill(0);
        for partition in &self.partitions {
            let at = TABLE + ENTRY * (usize::from(partition.number).clamp(1, 4) - 1);
            sector[at..at + ENTRY].copy_from_slice(&partition.encode(self.geometry));
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
    }
}

impl MbrPartition {
    fn encode(&self, geometry: Geometry) -> [u8; ENTRY] {
        let first = u64::from(self.first_sector);
        let last = first + u64::from(self.sectors).max(1) - 1;
        let mut entry = [0; ENTRY];
        entry[0] = if self.active { 0x80 } else { 0 };
        entry[1..4].copy_from_slice(&geometry.encode(first));
        entry[4] = self.kind;
        entry[5..8].copy_from_slice(&geometry.encode(last));
        entry[8..12].copy_from_slice(&self.first_sector.to_le_bytes());
        entry[12..].copy_from_slice(&self.sectors.to_le_bytes());
        entry
    }
}

/// Returns the type of the only partition of an emulated hard disk that starts with `sector`, which
/// El Torito records as system type. Returns `None` unless there is exactly one partition.
pub(crate) fn only_partition_kind(sector: &[u8]) -> Option<u8> {
    if sector.len() < to_usize(SECTOR) || le16(sector, 510) != 0xaa55 {
        return None;
    }
    let mut kinds =
        sector[TABLE..510].chunks_exact(ENTRY).map(|entry| entry[4]).filter(|&kind| kind != 0);
    match (kinds.next(), kinds.next()) {
        (Some(kind), None) => Some(kind),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(
        number: u8,
        active: bool,
        kind: u8,
        first_sector: u32,
        sectors: u32,
    ) -> MbrPartition {
        MbrPartition { number, active, kind, first_sector, sectors }
    }

    /// Entries from images created by xorriso 1.5.4.
    #[test]
    fn partitions_are_encoded_like_xorriso_encodes_them() {
        for (partition, bytes) in [
            (
                partition(1, true, 0x17, 0, 14336),
                [0x80, 0, 1, 0, 0x17, 0x3f, 0x20, 6, 0, 0, 0, 0, 0, 0x38, 0, 0],
            ),
            (
                partition(2, false, 0xef, 12872, 2880),
                [0, 0x12, 9, 6, 0xef, 0x2c, 8, 7, 0x48, 0x32, 0, 0, 0x40, 0x0b, 0, 0],
            ),
            (
                partition(1, false, PROTECTIVE, 1, 16479),
                [0, 0, 2, 0, 0xee, 2, 0x20, 8, 1, 0, 0, 0, 0x5f, 0x40, 0, 0],
            ),
        ] {
            assert_eq!(partition.encode(Geometry::default()), bytes);
        }
        assert_eq!(Geometry::default().encode(u64::MAX), [63, 0xe0, 0xff]);
    }

    #[test]
    fn an_encoded_mbr_is_parsed_correctly() {
        let partitions = vec![partition(1, true, 0, 0, 4096), partition(4, false, 0xef, 4096, 100)];
        let geometry = Geometry::default();
        let mbr = Mbr { disk_id: 0x1234_5678, has_code: true, partitions, geometry };
        let mut sector = [7; 512];
        mbr.encode(&mut sector);
        assert_eq!(sector[..440], [7; 440]);
        let mut oddities = Vec::new();
        assert_eq!(Mbr::parse(&sector, 4196 * 512, &mut oddities), Some(mbr.clone()));
        assert_eq!(oddities, []);
        assert_eq!(Mbr::parse(&sector, 4195 * 512, &mut oddities), Some(mbr));
        assert_eq!(oddities.len(), 1);
        sector[510] = 0;
        assert_eq!(Mbr::parse(&sector, 0, &mut oddities), None);
    }

    #[test]
    fn the_geometry_is_found_from_the_entries() {
        for geometry in Geometry::KNOWN {
            let partitions =
                vec![partition(1, true, 0x17, 0, 99_000), partition(2, false, 0xef, 70_000, 2880)];
            let mut sector = [0; 512];
            Mbr { disk_id: 1, has_code: false, partitions, geometry }.encode(&mut sector);
            assert_eq!(Geometry::of(&sector), geometry);
        }
        assert_eq!(Geometry::of(&[0xff; 512]), Geometry::default());
    }

    #[test]
    fn the_type_of_the_only_partition_is_returned() {
        let mut sector = [0; 512];
        assert_eq!(only_partition_kind(&sector), None);
        let one = Mbr {
            disk_id: 0,
            has_code: false,
            partitions: vec![partition(2, true, 6, 1, 9)],
            geometry: Geometry::default(),
        };
        one.encode(&mut sector);
        assert_eq!(only_partition_kind(&sector), Some(6));
        sector[TABLE + 4] = 1;
        assert_eq!(only_partition_kind(&sector), None);
        assert_eq!(only_partition_kind(&sector[..100]), None);
    }
}
