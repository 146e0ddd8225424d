//! Checking the consistency of a VDI.

use super::blocks::{Blocks, is_index};
use super::layer::Vdi;
use crate::error::Result;
use crate::formats::findings::Findings;
use crate::report::check::{CheckReport, Code, Finding};
use crate::storage::number::to_u64;

/// Checks `image` and passes its findings to `report`.
///
/// # Errors
/// None at present: what cannot be read is a finding.
pub(super) fn check(image: &Vdi, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let mut counts = CheckReport::default();
    let mut findings = Findings { report, counts: &mut counts };
    check_blocks(image.blocks(), image.header().blocks, &mut findings);
    check_counter(image, &mut findings);
    Ok(counts)
}

/// Checks the block map, whose `entries` include those that the disk does not need.
fn check_blocks(blocks: &Blocks, entries: u32, findings: &mut Findings<'_>) {
    findings.counts.total_clusters = to_u64(blocks.map.len());
    let mut next = None;
    for (block, &index) in (0..).zip(&blocks.map) {
        if !is_index(index) {
            continue;
        }
        findings.counts.allocated_clusters += 1;
        findings.counts.fragmented_clusters += u64::from(next.is_some_and(|next| next != index));
        next = Some(index + 1);
        let end = blocks.data_of(index).saturating_add(blocks.block_bytes);
        let last = findings.counts.image_end_offset.unwrap_or(0);
        findings.counts.image_end_offset = Some(last.max(end));
        if let Err(error) = blocks.place(block, index) {
            findings.unreadable(&format!("block {block}"), &error);
        } else if index >= entries {
            // VirtualBox's repair keeps such a block, if it is in the file.
            findings.corruption(format!(
                "block {block} has the index {index}, but the image has only {entries} blocks"
            ));
        }
    }
}

/// Compares the number of allocated blocks with that in the header, at which QEMU and VirtualBox
/// append the next block. If it is too large, as after a crash, they do not use some space; if it is
/// too small, they overwrite blocks.
fn check_counter(image: &Vdi, findings: &mut Findings<'_>) {
    let (found, recorded) = (image.allocated(), image.header().allocated);
    if found != u64::from(recorded) {
        let code = if found < u64::from(recorded) { Code::Leak } else { Code::Corruption };
        let message = format!("{found} blocks are allocated, but the header counts {recorded}");
        findings.found(code, message);
    }
    let is_beyond = |&(_, &index): &(u64, &u32)| is_index(index) && index >= recorded;
    if let Some((block, index)) = (0..).zip(&image.blocks().map).find(is_beyond) {
        findings.warning(format!(
            "block {block} has the index {index}, but {recorded} blocks are allocated: QEMU and \
             VirtualBox append the next block at that index and will overwrite data"
        ));
    }
}
