//! Checking the consistency of a sparse bundle.

use super::bands::{Band, Bands};
use super::layer::SparseBundle;
use crate::error::Result;
use crate::formats::findings::Findings;
use crate::report::check::{CheckReport, Code, Finding};
use crate::storage::number::to_u64;

/// Checks `image` and passes its findings to `report`.
///
/// # Errors
/// None at present: what cannot be read is a finding.
pub(super) fn check(image: &SparseBundle, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let mut counts = CheckReport::default();
    let mut findings = Findings { report, counts: &mut counts };
    for warning in crate::Layer::warnings(image) {
        findings.warning(warning);
    }
    if let Some(difference) = &image.copy_differs {
        findings.warning(difference.clone());
    }
    findings.counts.total_clusters = image.plist().bands();
    let bands = match image.bands() {
        Ok(bands) => bands,
        Err(error) => {
            findings.found(Code::CheckError, error.without_remedy());
            return Ok(counts);
        }
    };
    findings.counts.allocated_clusters = to_u64(bands.stored().len());
    for band in bands.stored() {
        check_band(bands, band, image.plist().band_bytes, &mut findings);
    }
    for index in &bands.beyond {
        let message = format!(
            "the file of band {index:x} is beyond the end of the disk, which has {} bands",
            image.plist().bands()
        );
        findings.found(Code::Leak, message);
    }
    if let (count @ 1.., name) = &bands.others {
        findings.warning(format!(
            "{count} files in the directory of the bands are not bands, such as '{name}'"
        ));
    }
    Ok(counts)
}

/// Checks that a band can be opened and is not too long: if the size of a band in the property list
/// is wrong, so are the places of all bands.
fn check_band(bands: &Bands, band: &Band, band_bytes: u64, findings: &mut Findings<'_>) {
    match bands.file(band) {
        Ok(file) if file.len() > band_bytes => findings.corruption(format!(
            "the file of band {:x} has {} bytes, but a band has only {band_bytes}",
            band.index,
            file.len()
        )),
        Ok(_) => {}
        Err(error) => findings.unreadable(&format!("band {:x}", band.index), &error),
    }
}
