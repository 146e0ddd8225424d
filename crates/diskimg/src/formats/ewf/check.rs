//! Checking the consistency of an EWF image.

use super::layer::Ewf;
use super::table::in_file;
use crate::error::Result;
use crate::formats::findings::Findings;
use crate::model::layer::Layer;
use crate::report::check::{CheckReport, Finding};
use crate::storage::codec::Codec;

/// Checks `image` and passes its findings to `report`.
///
/// # Errors
/// None at present: what cannot be read is a finding.
pub(super) fn check(image: &Ewf, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let mut counts = CheckReport::default();
    let mut findings = Findings { report, counts: &mut counts };
    check_tables(image, &mut findings);
    check_chunks(image, &mut findings);
    check_acquisition(image, &mut findings);
    Ok(counts)
}

/// Checks the checksums of the tables and of their copies.
fn check_tables(image: &Ewf, findings: &mut Findings<'_>) {
    for table in &image.chunks.tables {
        let what = format!("the table of chunks {} to {}", table.first_chunk, table.end_chunk());
        let source = &image.files()[table.file()];
        match table.verify(&**source) {
            (Ok(()), None | Some(Ok(()))) => {}
            (Ok(()), Some(Err(error))) => {
                let reason = in_file(error, image.files(), table.file()).without_remedy();
                findings.warning(format!("the copy of {what} is damaged: {reason}"));
            }
            (Err(error), Some(Ok(()))) => {
                let reason = in_file(error, image.files(), table.file()).without_remedy();
                findings.warning(format!("{what} is damaged, and its copy is used: {reason}"));
            }
            (Err(error), _) => {
                findings.unreadable(&what, &in_file(error, image.files(), table.file()));
            }
        }
    }
}

/// Checks that the chunks are in their segments.
fn check_chunks(image: &Ewf, findings: &mut Findings<'_>) {
    let chunks = &image.chunks;
    findings.counts.total_clusters = chunks.needed();
    let mut next = None;
    chunks.for_each(image.files(), |chunk, place| match place {
        Ok(place) => {
            let end = place.at + u64::from(place.stored);
            let counts = &mut *findings.counts;
            counts.allocated_clusters += 1;
            counts.compressed_clusters += u64::from(place.codec == Codec::Zlib);
            let is_next = |(file, at)| file != place.file || at == place.at;
            counts.fragmented_clusters += u64::from(!next.is_none_or(is_next));
            next = Some((place.file, end));
            if place.file == 0 {
                let last = counts.image_end_offset.unwrap_or(0);
                counts.image_end_offset = Some(last.max(end));
            }
        }
        Err(error) => findings.unreadable(&format!("chunk {chunk}"), &error),
    });
    if chunks.located() < chunks.needed() && !image.has_unopened {
        findings.unreadable("the image", &image.missing());
    }
    if chunks.located() > chunks.needed() {
        findings.warning(format!(
            "the tables have {} chunks, but the disk needs only {}",
            chunks.located(),
            chunks.needed()
        ));
    }
    let recorded = image.recorded_chunks();
    if recorded != chunks.needed() {
        findings.warning(format!(
            "the volume section records {recorded} chunks, but the disk has {}",
            chunks.needed()
        ));
    }
}

/// Reports what the program that acquired the disk noted.
fn check_acquisition(image: &Ewf, findings: &mut Findings<'_>) {
    if image.digests_differ {
        findings.corruption("the sections with digests of the disk contradict each other".into());
    }
    if image.is_incomplete {
        findings.warning("the acquisition was not finished".into());
    }
    for range in &image.errors {
        findings.warning(format!(
            "sectors {} to {} could not be read when the disk was acquired: they are zeros",
            range.start,
            range.end.saturating_sub(1)
        ));
    }
}
