//! Checking the consistency of a sparse image.

use super::header::FLAGS;
use super::layer::SparseImage;
use crate::error::Result;
use crate::formats::findings::Findings;
use crate::report::check::{CheckReport, Code, Finding};

/// Checks `image` and passes its findings to `report`.
///
/// # Errors
/// None at present: what cannot be read is a finding.
pub(super) fn check(image: &SparseImage, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let mut counts = CheckReport::default();
    let mut findings = Findings { report, counts: &mut counts };
    let (header, bands) = (image.header(), image.bands());
    if header.flags != FLAGS {
        findings.warning(format!("the header has the flags {:#x}, not {FLAGS:#x}", header.flags));
    }
    findings.counts.total_clusters = header.bands();
    let mut next = None;
    for (number, band) in bands.stored().iter().enumerate() {
        let end = band.host.saturating_add(bands.band_bytes);
        let last = findings.counts.image_end_offset.unwrap_or(0);
        findings.counts.image_end_offset = Some(last.max(end));
        if band.index >= header.bands() {
            let message = format!(
                "the slot at {:#x} holds band {}, but the disk has only {} bands",
                band.host,
                band.index,
                header.bands()
            );
            findings.found(Code::Leak, message);
            continue;
        }
        findings.counts.allocated_clusters += 1;
        let is_apart = next.is_some_and(|next| next != band.host);
        findings.counts.fragmented_clusters += u64::from(is_apart);
        next = Some(end);
        if let Err(error) = bands.require_valid(number) {
            findings.unreadable(&format!("band {}", band.index), &error);
        }
    }
    Ok(counts)
}
