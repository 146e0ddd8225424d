//! Checking the consistency of a cloop image.

use super::layer::Cloop;
use crate::error::Result;
use crate::formats::findings::Findings;
use crate::model::layer::Layer;
use crate::report::check::{CheckReport, Finding};

/// Checks the table of `image` and passes its findings to `report`. Blocks are not decompressed.
///
/// # Errors
/// None at present: what cannot be read is a finding.
pub(super) fn check(image: &Cloop, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let mut counts = CheckReport::default();
    let findings = &mut Findings { report, counts: &mut counts };
    let (blocks, source) = (&image.blocks, &image.files()[0]);
    findings.counts.total_clusters = blocks.header.blocks.into();
    let mut next = None;
    for block in 0..u64::from(blocks.header.blocks) {
        match blocks.place(&**source, block) {
            Ok(place) => {
                let counts = &mut *findings.counts;
                counts.allocated_clusters += 1;
                counts.compressed_clusters += 1;
                counts.fragmented_clusters += u64::from(next.is_some_and(|at| at != place.start));
                next = Some(place.end);
                let last = counts.image_end_offset.unwrap_or(0);
                counts.image_end_offset = Some(last.max(place.end));
            }
            Err(error) => findings.unreadable(&format!("block {block}"), &error),
        }
    }
    Ok(counts)
}
