//! Encoding of partition tables whose addresses are all known.

use super::super::system_area::{LOADER_ADDRESS, SYSTEM_AREA};
use super::DiskAreas;
use crate::error::{Error, Result};
use crate::partition::gpt::{self, GptPartition, Guid, Placement};
use crate::partition::mbr::{self, Geometry, Mbr, MbrPartition};
use crate::partition::{ApmPartition, apm};
use crate::storage::number::{to_u64, to_usize};

/// The system area of a new image, and its partition tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Contents of the system area before the tables are written: boot code.
    pub(super) template: Vec<u8>,
    /// Value for the address at [`LOADER_ADDRESS`], in sectors of 512 bytes.
    pub(super) loader_address: Option<u64>,
    pub(super) mbr: Option<NewMbr>,
    pub(super) gpt: Option<NewGpt>,
    pub(super) apm: Option<NewApm>,
}

/// A new MBR.
#[derive(Debug)]
pub(super) struct NewMbr {
    pub(super) disk_id: u32,
    pub(super) geometry: Geometry,
    pub(super) partitions: Vec<MbrPartition>,
}

/// A new GPT.
#[derive(Debug)]
pub(super) struct NewGpt {
    pub(super) disk_id: Guid,
    pub(super) placement: Placement,
    pub(super) partitions: Vec<GptPartition>,
}

/// A new Apple partition map.
#[derive(Debug)]
pub(super) struct NewApm {
    /// Block size in bytes.
    pub(super) block: u32,
    /// The partitions, the first of which is the map itself.
    pub(super) partitions: Vec<ApmPartition>,
}

impl Tables {
    /// Encodes the tables for a disk of `sectors` sectors of 512 bytes.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the tables do not fit in the
    /// system area.
    pub(super) fn encode(self, sectors: u64) -> Result<DiskAreas> {
        let mut area = self.template;
        let mut backup = Vec::new();
        let no_room = |what| {
            let message = format!("{what} does not fit in the system area of {SYSTEM_AREA} bytes");
            Error::invalid(message)
        };
        if to_u64(area.len()) > SYSTEM_AREA {
            return Err(no_room("the boot code"));
        }
        let used = area.len();
        area.resize(to_usize(SYSTEM_AREA), 0);
        let mut end = used;
        if let Some(address) = self.loader_address {
            area[LOADER_ADDRESS..][..8].copy_from_slice(&address.to_le_bytes());
            end = end.max(LOADER_ADDRESS + 8);
        }
        if let (Some(mbr), Some(sector)) = (self.mbr, area.first_chunk_mut()) {
            let NewMbr { disk_id, geometry, partitions } = mbr;
            Mbr { disk_id, has_code: true, partitions, geometry }.encode(sector);
            end = end.max(to_usize(mbr::SECTOR));
        }
        if let Some(gpt) = self.gpt {
            let encoded = gpt::encode(gpt.disk_id, &gpt.partitions, gpt.placement, sectors);
            let at = gpt.placement.entries_at.saturating_mul(gpt::SECTOR);
            let array_end = at.saturating_add(to_u64(encoded.entries.len()));
            if array_end > SYSTEM_AREA {
                return Err(no_room("the GPT"));
            }
            area[to_usize(gpt::SECTOR)..][..encoded.header.len()].copy_from_slice(&encoded.header);
            area[to_usize(at)..to_usize(array_end)].copy_from_slice(&encoded.entries);
            end = end.max(to_usize(array_end));
            backup = [encoded.entries, encoded.backup_header].concat();
        }
        if let Some(apm) = self.apm {
            if !apm::encode(&mut area, apm.block, &apm.partitions) {
                return Err(no_room("the Apple partition map"));
            }
            end = end.max(to_usize(apm.block.into()) * (apm.partitions.len() + 1));
        }
        area.truncate(end);
        Ok(DiskAreas { system_area: area, backup })
    }
}
