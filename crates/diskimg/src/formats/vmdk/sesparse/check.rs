//! Checking the consistency of an seSparse extent.
//!
//! ```text
//!   directory ──► tables ──► grains        every pointer stays in its region and in the file,
//!                                          no two point to the same place
//!   headers, journal, tables, maps, grains no two overlap
//! ```
//!
//! The free bitmap and the back map are not checked: their contents are not documented.

use super::super::SECTOR;
use super::super::check::Occupied;
use super::header::REGIONS;
use super::{Gte, SeSparseExtent};
use crate::formats::findings::Findings;
use crate::report::check::{CheckReport, Finding};
use crate::storage::number::to_u64;

/// Checks `extent`, reports the findings and adds them to `counts`.
pub(super) fn check(
    extent: &SeSparseExtent,
    report: &mut dyn FnMut(Finding),
    counts: &mut CheckReport,
) {
    let mut findings = Findings { report, counts };
    regions(extent, &mut findings);
    let tables = tables(extent, &mut findings);
    grains(extent, &tables, &mut findings);
}

/// Reports regions that overlap.
fn regions(extent: &SeSparseExtent, findings: &mut Findings<'_>) {
    let mut regions = vec![(0, 1, "header")];
    for (region, name) in extent.header.regions.iter().zip(REGIONS) {
        if region.size > 0 {
            regions.push((region.offset, region.offset + region.size, name));
        }
    }
    regions.sort_unstable();
    for pair in regions.windows(2) {
        let [(_, end, first), (start, _, second)] = pair else { continue };
        if start < end {
            let at = start * SECTOR;
            findings.corruption(format!("{first} and {second} overlap at offset {at:#x}"));
        }
    }
}

/// Returns the tables that the directory points to, as (number, directory index). A table that
/// several entries point to is reported, and returned with the first of them only.
fn tables(extent: &SeSparseExtent, findings: &mut Findings<'_>) -> Vec<(u64, u64)> {
    let mut tables = Vec::new();
    for index in 0..to_u64(extent.directory.len()) {
        match extent.table_number(index) {
            Ok(None) => {}
            Ok(Some(number)) => tables.push((number, index)),
            Err(error) => findings.unreadable(&format!("grain table {index}"), &error),
        }
    }
    tables.sort_unstable();
    tables.dedup_by(|(number, index), (first, _)| {
        let shared = number == first;
        if shared {
            findings.corruption(format!(
                "grain table {number} is used by several directory entries, among them the one \
                 for guest offset {:#x}",
                *index * extent.header.table_cover()
            ));
        }
        shared
    });
    tables
}

/// Checks every entry of every table.
fn grains(extent: &SeSparseExtent, tables: &[(u64, u64)], findings: &mut Findings<'_>) {
    let header = &extent.header;
    let shift = (header.grain_sectors | header.grains().offset).trailing_zeros();
    let Some(mut occupied) =
        findings.within_limits(Occupied::new(extent.source.len(), shift, extent.check_bytes))
    else {
        return;
    };
    let grains = extent.size().div_ceil(header.grain_bytes());
    for &(number, index) in tables {
        let table = match extent.read_table(number) {
            Ok(table) => table,
            Err(error) => {
                findings.unreadable(&format!("grain table {number}"), &error);
                continue;
            }
        };
        let first = index * header.entries();
        for (grain, &entry) in (first..grains).zip(&table) {
            let guest = grain * header.grain_bytes();
            let range = guest..(guest + header.grain_bytes()).min(extent.size());
            // A grain that cannot be read is a corruption, with the same message.
            if let Err(error) = extent.grain(entry, &range, 0, 0) {
                findings.corruption(format!("guest offset {guest:#x}: {error:#}"));
                continue;
            }
            let Ok(Gte::Grain(number)) = Gte::parse(entry) else { continue };
            let Some(offset) = extent.grain_offset(number) else { continue };
            if !occupied.mark(offset / SECTOR, header.grain_sectors) {
                findings.corruption(format!(
                    "guest offset {guest:#x}: its grain at offset {offset:#x} overlaps another"
                ));
            }
        }
    }
}
