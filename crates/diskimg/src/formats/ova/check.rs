//! Checking an appliance: lengths, digests, and the disks' own images.

use super::disk_image::DiskImage;
use super::envelope::Disk;
use super::files::PartName;
use super::layer::Ova;
use super::manifest::{self, Entry, Manifest};
use super::package::PackageFile;
use crate::error::{Error, ErrorKind, Result};
use crate::report::check::{CheckReport, Finding, Severity};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Checks the package, and the chosen disk or, if none is, all of them.
pub(super) fn check(ova: &Ova, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let manifest = ova.package.read_manifest()?;
    let manifest = manifest.as_ref();
    let (verified, used, counts) = (BTreeSet::new(), BTreeSet::new(), CheckReport::default());
    let mut check = Check { ova, manifest, verified, used, report, counts };
    // Every file of the package is read: a tar.gz is not inflated for each.
    ova.package.files().unpack()?;
    check.descriptor()?;
    let disks = ova.package.disks();
    let range = ova.chosen.map_or(0..disks.len(), |index| index..index + 1);
    for index in range {
        check.disk(index, &disks[index])?;
    }
    check.others()?;
    Ok(check.counts)
}

struct Check<'a> {
    ova: &'a Ova,
    manifest: Option<&'a Manifest>,
    /// Files that were held against it.
    verified: BTreeSet<String>,
    /// Names by which it lists them.
    used: BTreeSet<&'a str>,
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
            Err(e) if is_the_packages(&e) => {
                self.found(Severity::Corruption, e.to_string());
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn descriptor(&mut self) -> Result<()> {
        let part = self.ova.package.descriptor();
        self.part(part)
    }

    fn part(&mut self, part: &PackageFile) -> Result<()> {
        if !self.verified.insert(part.path.clone()) {
            return Ok(());
        }
        let entries = self.manifest.and_then(|manifest| manifest.of(part).ok());
        self.used.extend(entries.into_iter().flatten().map(|entry| entry.name.as_str()));
        let outcome = part.verify(self.manifest, &mut || Ok(()));
        self.take(outcome).map(drop)
    }

    /// What else the manifest lists.
    fn others(&mut self) -> Result<()> {
        let Some(manifest) = self.manifest else { return Ok(()) };
        let mut listed = BTreeMap::<PartName, Vec<&Entry>>::new();
        for entry in manifest.entries() {
            if self.used.contains(entry.name.as_str()) {
                continue;
            }
            let name = self.ova.package.files().listed(&entry.name);
            if let Some(name) = self.take(name)? {
                listed.entry(name).or_default().push(entry);
            }
        }
        for (name, entries) in listed {
            let part = self.ova.package.files().open(&name);
            if let Some(part) = self.take(part)? {
                let outcome = manifest::verify(&entries, &*part.source, &mut || Ok(()));
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
        for part in &image.parts {
            self.part(part)?;
        }
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

/// True if the package is to blame: it is damaged, lacks a file, or names one
/// that is not its own.
fn is_the_packages(error: &Error) -> bool {
    let missing = || error.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound);
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Refused) || missing()
}
