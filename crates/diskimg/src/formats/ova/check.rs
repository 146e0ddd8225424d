//! Checking an appliance: lengths, digests, and the disks' own images.

use super::disk_image::DiskImage;
use super::envelope::Disk;
use super::layer::Ova;
use super::manifest::Manifest;
use crate::vocabulary::check::{CheckReport, Finding, Severity};
use crate::vocabulary::error::{ErrorKind, Result};

/// Checks the package, and the chosen disk or, if none is, all of them.
pub(super) fn check(ova: &Ova, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let mut check = Check { ova, report, counts: CheckReport::default() };
    check.manifest()?;
    let disks = ova.package.disks();
    let range = ova.chosen.map_or(0..disks.len(), |index| index..index + 1);
    for index in range {
        check.disk(index, &disks[index])?;
    }
    Ok(check.counts)
}

struct Check<'a> {
    ova: &'a Ova,
    report: &'a mut dyn FnMut(Finding),
    counts: CheckReport,
}

impl Check<'_> {
    fn found(&mut self, severity: Severity, message: String) {
        self.counts.count(severity);
        (self.report)(Finding { severity, message });
    }

    /// An error that the package is to blame for is a finding; others end the check.
    fn take<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                self.found(Severity::Corruption, e.to_string());
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Every file that the manifest lists; and it lists the descriptor.
    fn manifest(&mut self) -> Result<()> {
        let package = &self.ova.package;
        let Some(text) = package.manifest_text()? else { return Ok(()) };
        let Some(manifest) = self.take(Manifest::parse(&text))? else { return Ok(()) };
        for entry in manifest.entries() {
            let descriptor = package.descriptor();
            let part = match entry.is_of(&descriptor.name) {
                true => Ok(descriptor.clone()),
                false => package.open_part(entry.name.clone()),
            };
            if let Some(part) = self.take(part)? {
                let outcome = entry.verify(&*part.source, &mut || Ok(()));
                self.take(outcome)?;
            }
        }
        Ok(())
    }

    fn disk(&mut self, index: usize, disk: &Disk) -> Result<()> {
        if let Some(message) = self.ova.wrong_size(disk) {
            self.found(Severity::Corruption, message);
        }
        let Some(file) = self.ova.package.file_of(disk) else { return Ok(()) };
        let opened = DiskImage::open(&self.ova.package, disk, file, None, true);
        let Some(image) = self.take(opened)? else { return Ok(()) };
        let number = index + 1;
        let mut severities = Vec::new();
        let counts = image.layer.check(&mut |Finding { severity, message }| {
            severities.push(severity);
            (self.report)(Finding { severity, message: format!("disk {number}: {message}") });
        });
        match self.take(counts)? {
            Some(Some(counts)) => self.add(&counts),
            Some(None) => {}
            // It broke off, and what it found is not counted yet.
            None => severities.into_iter().for_each(|severity| self.counts.count(severity)),
        }
        Ok(())
    }

    /// Offsets of one image say nothing in the sum.
    fn add(&mut self, more: &CheckReport) {
        let counts = &mut self.counts;
        counts.check_errors += more.check_errors;
        counts.corruptions += more.corruptions;
        counts.leaks += more.leaks;
        counts.total_clusters += more.total_clusters;
        counts.allocated_clusters += more.allocated_clusters;
        counts.fragmented_clusters += more.fragmented_clusters;
        counts.compressed_clusters += more.compressed_clusters;
    }
}
