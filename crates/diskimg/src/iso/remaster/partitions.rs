//! The partitions of all tables of an image, in one form.

use crate::iso::boot::SystemArea;
use crate::iso::boot::hybrid::kept::Span;
use crate::partition::{Apm, ApmPartition, GptPartition, Guid, MbrPartition, mbr};
use crate::report::printable::printable;
use std::ops::Range;

/// Types of MBR partitions that contain further partition tables.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// The table of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Mbr(u8),
    Gpt(Guid),
    Apm,
}

/// A partition of one of the tables. Sectors have 512 bytes.
#[derive(Debug, Clone)]
pub(super) struct Partition {
    table: Table,
    pub(super) number: u32,
    pub(super) first: u64,
    /// First sector after the partition.
    pub(super) end: u64,
    /// True if it only fills a gap between others.
    pub(super) gap: bool,
    /// True if it contains the Apple partition map itself.
    pub(super) is_map: bool,
    /// For messages.
    pub(super) description: String,
}

impl Partition {
    fn of_mbr(old: &MbrPartition) -> Self {
        let first = u64::from(old.first_sector);
        Self {
            table: Table::Mbr(old.kind),
            number: old.number.into(),
            first,
            end: first + u64::from(old.sectors),
            gap: false,
            is_map: false,
            description: format!("MBR partition {} (type {:#04x})", old.number, old.kind),
        }
    }

    pub(super) fn of_gpt(old: &GptPartition) -> Self {
        let name = printable(&old.name);
        Self {
            table: Table::Gpt(old.kind),
            number: old.number,
            first: old.first_sector,
            end: old.last_sector.saturating_add(1).max(old.first_sector),
            gap: is_gap(&old.name) && old.kind == Guid::BASIC_DATA,
            is_map: false,
            description: format!("GPT partition {} (\"{name}\")", old.number),
        }
    }

    /// `unit` is the length in bytes of the blocks in which addresses are counted.
    pub(super) fn of_apm(old: &ApmPartition, unit: u64) -> Self {
        let per_unit = (unit / mbr::SECTOR).max(1);
        let first = u64::from(old.first_block) * per_unit;
        let is_map = old.kind == ApmPartition::MAP;
        let name = printable(&old.name);
        Self {
            table: Table::Apm,
            number: old.number,
            first,
            end: first + u64::from(old.blocks) * per_unit,
            gap: is_map || is_gap(&old.name) && old.kind == "ISO9660_data",
            is_map,
            description: format!("Apple partition {} (\"{name}\")", old.number),
        }
    }

    /// Returns the range in bytes.
    pub(super) fn bytes(&self) -> Range<u64> {
        self.first.saturating_mul(mbr::SECTOR)..self.end.saturating_mul(mbr::SECTOR)
    }

    pub(super) fn is_gpt(&self) -> bool {
        matches!(self.table, Table::Gpt(_))
    }

    pub(super) fn is_protective(&self) -> bool {
        self.table == Table::Mbr(mbr::PROTECTIVE)
    }

    /// Returns the types in an MBR and in a GPT.
    pub(super) fn kinds(&self) -> (u8, Option<Guid>) {
        match self.table {
            Table::Mbr(kind) => (kind, None),
            Table::Gpt(Guid::EFI_SYSTEM) => (0xef, Some(Guid::EFI_SYSTEM)),
            Table::Gpt(kind) => (0x83, Some(kind)),
            Table::Apm => (0x83, None),
        }
    }

    /// Returns the span of this partition of the MBR.
    pub(super) fn find_mbr(spans: &[(Self, Span)], old: &MbrPartition) -> Option<Span> {
        Self::find(spans, |p| matches!(p.table, Table::Mbr(_)) && p.number == u32::from(old.number))
    }

    /// Returns the span of this partition of the GPT.
    pub(super) fn find_gpt(spans: &[(Self, Span)], old: &GptPartition) -> Option<Span> {
        Self::find(spans, |p| p.is_gpt() && p.number == old.number)
    }

    /// Returns the span of this partition of the Apple partition map.
    pub(super) fn find_apm(spans: &[(Self, Span)], old: &ApmPartition) -> Option<Span> {
        Self::find(spans, |p| p.table == Table::Apm && p.number == old.number)
    }

    fn find(spans: &[(Self, Span)], is_it: impl Fn(&Self) -> bool) -> Option<Span> {
        spans.iter().find(|(partition, _)| is_it(partition)).map(|(_, span)| *span)
    }
}

/// Returns true for the names that xorriso and this library give to partitions that fill gaps.
fn is_gap(name: &str) -> bool {
    let number = name.strip_prefix("Gap").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Functions on all tables of an image.
pub(super) struct Partitions;

impl Partitions {
    /// Returns the partitions of all tables, those of the GPT first, because it describes them
    /// best. `is_object` returns true if a boot image or file begins at a sector.
    pub(super) fn of(area: &SystemArea, is_object: impl Fn(u64) -> bool) -> Vec<Partition> {
        let gpt = area.gpt.iter().flat_map(|gpt| &gpt.partitions).map(Partition::of_gpt);
        let mbr = area.mbr.iter().flat_map(|mbr| &mbr.partitions).map(Partition::of_mbr);
        let apm = area.apm.iter().flat_map(|apm| {
            let unit = Self::apm_unit(apm, &is_object);
            apm.partitions.iter().map(move |old| Partition::of_apm(old, unit))
        });
        gpt.chain(mbr).chain(apm).collect()
    }

    /// Returns the length in bytes of the blocks in which an Apple partition map counts: its block
    /// size, or 512 as in the maps of some versions of isohybrid.
    pub(super) fn apm_unit(apm: &Apm, is_object: impl Fn(u64) -> bool) -> u64 {
        let block = u64::from(apm.block_bytes);
        let per_block = (block / mbr::SECTOR).max(1);
        let finds = |per_unit: u64| {
            let firsts = apm.partitions.iter().filter(|old| old.kind != ApmPartition::MAP);
            firsts.into_iter().any(|old| is_object(u64::from(old.first_block) * per_unit))
        };
        if !finds(per_block) && finds(1) { mbr::SECTOR } else { block }
    }
}

impl Partition {
    /// Returns true if the partition contains further partition tables.
    pub(super) fn is_extended(&self) -> bool {
        matches!(self.table, Table::Mbr(kind) if EXTENDED.contains(&kind))
    }
}
