//! Checking the consistency of an image, or of the images of a bundle.

use super::bundle::{Expandable, ImageData, Storage, StoredImage};
use super::clusters::Clusters;
use super::layer::Parallels;
use crate::error::Result;
use crate::formats::findings::Findings;
use crate::report::check::{CheckReport, Code, Finding};
use std::collections::BTreeSet;

/// Checks `image` and passes its findings to `report`.
///
/// # Errors
/// None at present: what cannot be read is a finding.
pub(super) fn check(image: &Parallels, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let mut counts = CheckReport::default();
    let mut findings = Findings { report, counts: &mut counts };
    for (storage, image) in
        image.storages().iter().flat_map(|s| s.images.iter().map(move |image| (s, image)))
    {
        check_image(storage, image, &mut findings);
    }
    if image.single().is_none() {
        // Each image has its own.
        counts.image_end_offset = None;
    }
    Ok(counts)
}

fn check_image(storage: &Storage, image: &StoredImage, findings: &mut Findings<'_>) {
    let name = image.entry.as_ref().map(|entry| format!("image '{}': ", entry.file));
    let name = name.unwrap_or_default();
    match &image.data {
        ImageData::Plain { .. } => {}
        ImageData::Unopened(why) => {
            let why = why.as_deref().unwrap_or("it was not requested");
            findings.found(Code::CheckError, format!("{name}it is not open: {why}"));
        }
        ImageData::Expandable(image) => {
            let mut check = Check { name: &name, image, findings };
            check.header();
            let recorded = image.clusters.header.cluster_bytes / super::SECTOR;
            let descriptor = storage.cluster_sectors.filter(|&sectors| sectors != recorded);
            if let Some(sectors) = descriptor {
                check.findings.warning(format!(
                    "{name}clusters of {recorded} sectors, but {sectors} in the descriptor"
                ));
            }
            check.clusters();
            let used = check.extension();
            check.leaks(used);
        }
    }
}

/// The check of an expandable image.
struct Check<'a, 'b> {
    /// Starts messages about an image of a bundle.
    name: &'a str,
    image: &'a Expandable,
    findings: &'a mut Findings<'b>,
}

impl Check<'_, '_> {
    fn own(&self) -> &Clusters {
        &self.image.clusters
    }

    fn header(&mut self) {
        let (name, header) = (self.name, &self.image.clusters.header);
        if header.is_dirty() {
            self.findings.corruption(format!("{name}the image was not closed correctly"));
        }
        if let Some(problem) = header.data_off_problem(self.own().source.len()) {
            let message = format!("{name}the start of the data area is wrong: {problem}");
            self.findings.corruption(message);
        }
    }

    /// Checks the table, and counts the clusters.
    fn clusters(&mut self) {
        let own = &self.image.clusters;
        let (cluster, len) = (own.header.cluster_bytes, own.source.len());
        self.findings.counts.total_clusters += u64::from(own.header.entries);
        let (mut end, mut misaligned, mut seen) = (None, 0, BTreeSet::new());
        for (index, &entry) in (0..).zip(&own.table) {
            let Some(start) = own.host_of(entry) else { continue };
            let counts = &mut self.findings.counts;
            counts.allocated_clusters += 1;
            counts.fragmented_clusters += u64::from(end.is_some_and(|end| end != start));
            end = Some(start + cluster);
            let overlaps = |seen: &BTreeSet<u64>| {
                seen.range(start.saturating_sub(cluster - 1)..start + cluster).next().is_some()
            };
            if start + cluster > len {
                let name = self.name;
                let message = format!("{name}cluster {index} at {start:#x} is outside the file");
                self.findings.corruption(message);
            } else if own.shared().contains(start) {
                // The first of them is where it should be.
                if overlaps(&seen) {
                    let error = own.shared().error(super::clusters::TABLE, "cluster");
                    self.findings.unreadable(&format!("{}cluster {index}", self.name), &error);
                }
                seen.insert(start);
            } else if let Err(error) = own.require_valid(index, start) {
                self.findings.unreadable(&format!("{}cluster {index}", self.name), &error);
            }
            misaligned += u64::from(own.is_misaligned(start));
        }
        if misaligned > 0 {
            self.findings.warning(format!(
                "{}{misaligned} clusters are not aligned to the start of the data area",
                self.name
            ));
        }
    }

    /// Checks the extension. Returns the end of its last cluster.
    fn extension(&mut self) -> u64 {
        let (own, name) = (&self.image.clusters, self.name);
        let lost = own.table.iter().filter_map(|&entry| own.host_of(entry));
        if lost.into_iter().any(|start| own.overlaps_extension(start)) {
            let message = "a cluster of the disk overlaps the format extension, which is lost";
            self.findings.corruption(format!("{name}{message}"));
            return 0;
        }
        let what = format!("{name}extension");
        match &self.image.extension {
            Ok(None) => 0,
            Ok(Some(extension)) => {
                let findings = &mut *self.findings;
                let mut report = |message: String| findings.corruption(format!("{name}{message}"));
                let checked = extension.check(own, &mut report);
                checked.unwrap_or_else(|error| {
                    self.findings.unreadable(&what, &error);
                    0
                })
            }
            Err(error) => {
                self.findings.unreadable(&what, error);
                0
            }
        }
    }

    /// Reports space after the last cluster. `used` is the end of what the extension uses.
    fn leaks(&mut self, used: u64) {
        let own = &self.image.clusters;
        let end = own.data_end().max(used);
        self.findings.counts.image_end_offset = Some(end);
        let leaked = own.source.len().saturating_sub(end);
        let clusters = leaked.div_ceil(own.header.cluster_bytes);
        if clusters > 0 {
            let message = format!(
                "{}{leaked} bytes at the end of the file are not used, from {end:#x} on",
                self.name
            );
            self.findings.found(Code::Leak, message);
            self.findings.counts.leaks += clusters - 1;
        }
    }
}
