//! Checking the consistency of an image of Bochs.

use super::catalog::{ABSENT, Catalog};
use super::layer::Bochs;
use crate::error::Result;
use crate::formats::findings::Findings;
use crate::model::layer::Layer;
use crate::report::check::{CheckReport, Finding};
use crate::storage::number::to_u64;

/// Checks `image` and passes its findings to `report`.
///
/// # Errors
/// None at present: what cannot be read is a finding.
pub(super) fn check(image: &Bochs, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let mut counts = CheckReport::default();
    let findings = &mut Findings { report, counts: &mut counts };
    let Catalog { entries, header, .. } = &image.catalog;
    findings.counts.total_clusters = to_u64(entries.len());
    let (mut next, mut extents) = (None, Vec::new());
    for (index, &entry) in (0..).zip(entries).filter(|(_, entry)| **entry != ABSENT) {
        findings.counts.allocated_clusters += 1;
        findings.counts.fragmented_clusters += u64::from(next.is_some_and(|next| next != entry));
        next = Some(entry.wrapping_add(1));
        let end = image.catalog.data_of(entry).saturating_add(header.extent_bytes);
        let last = findings.counts.image_end_offset.unwrap_or(0);
        findings.counts.image_end_offset = Some(last.max(end));
        let start = index * header.extent_bytes;
        let range = start..(start + header.extent_bytes).min(header.size());
        extents.clear();
        if let Err(error) = image.map(range, &mut extents) {
            findings.unreadable(&format!("extent {index}"), &error);
        }
    }
    Ok(counts)
}
