//! Checking the consistency of a VHD.

use super::SECTOR;
use super::blocks::{Blocks, FREE};
use super::layer::Vhd;
use crate::error::Result;
use crate::formats::findings::Findings;
use crate::report::check::{CheckReport, Finding};
use crate::storage::number::to_u64;

/// Maximum length in bytes of the space between two blocks that follow each other.
const MAX_GAP: u64 = 4096;

/// Checks `image` and passes its findings to `report`.
///
/// # Errors
/// None at present: what cannot be read is a finding.
pub(super) fn check(image: &Vhd, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let mut counts = CheckReport::default();
    let mut findings = Findings { report, counts: &mut counts };
    if let Some(damage) = image.damage() {
        // The other copy suffices.
        findings.warning(damage.to_owned());
    }
    if let Some(damage) = image.header_damage() {
        findings.corruption(damage.to_owned());
    }
    if let Some(blocks) = image.blocks() {
        check_blocks(blocks, &mut findings);
    }
    Ok(counts)
}

/// Checks the table and the bitmaps, and counts the blocks.
fn check_blocks(blocks: &Blocks, findings: &mut Findings<'_>) {
    findings.counts.total_clusters = to_u64(blocks.table.len());
    let mut end = 0;
    for (index, &sector) in (0..).zip(&blocks.table) {
        if sector == FREE {
            continue;
        }
        findings.counts.allocated_clusters += 1;
        let start = u64::from(sector) * SECTOR;
        findings.counts.fragmented_clusters +=
            u64::from(end != 0 && !(end..end + MAX_GAP).contains(&start));
        end = blocks.data_at(sector).saturating_add(blocks.block_bytes);
        let last = findings.counts.image_end_offset.unwrap_or(0);
        findings.counts.image_end_offset = Some(last.max(end));
        if let Err(error) = blocks.check_block(index, sector) {
            findings.unreadable(&format!("block {index}"), &error);
        }
    }
}
