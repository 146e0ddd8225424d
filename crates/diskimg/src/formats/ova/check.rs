//! Checking an appliance: lengths, digests, and the images of its disks.

use super::archive::Archive;
use super::disk_image::{DiskImage, claim_of_uri};
use super::envelope::Disk;
use super::files::PackageFileName;
use super::layer::Ova;
use super::manifest::{self, Entry, Manifest};
use super::package::PackageFile;
use crate::error::{Error, ErrorKind, Result};
use crate::report::check::{CheckReport, Code, Finding};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Checks the package and the chosen disk; without a chosen disk, all disks.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) or [`Limit`](crate::ErrorKind::Limit) if a file cannot be read or
/// decompressed.
pub(super) fn check(ova: &Ova, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let manifest = ova.package.read_manifest()?;
    let (verified, used, counts) = (BTreeSet::new(), BTreeSet::new(), CheckReport::default());
    let (checked, unpacked) = (BTreeSet::new(), 0);
    let mut check = Check { ova, manifest, verified, checked, used, unpacked, report, counts };
    // Every file of the package is read, so a tar.gz is decompressed once for all of them.
    ova.package.files().unpack()?;
    check.descriptor()?;
    let disks = ova.package.disks();
    let range = ova.chosen.map_or(0..disks.len(), |index| index..index + 1);
    for index in range {
        check.disk(index, &disks[index])?;
    }
    check.other_entries()?;
    Ok(check.counts)
}

struct Check<'a> {
    ova: &'a Ova,
    manifest: Option<&'a Manifest>,
    /// Paths of the files that have been verified.
    verified: BTreeSet<String>,
    /// The images that have been checked, as the format that the descriptor claims and the paths
    /// of the chunks. Many disks may refer to one image.
    checked: BTreeSet<(Option<&'static str>, Vec<String>)>,
    /// Names of the manifest entries that have been verified.
    used: BTreeSet<&'a str>,
    /// Number of bytes to which the files of disks were decompressed.
    unpacked: u64,
    report: &'a mut dyn FnMut(Finding),
    counts: CheckReport,
}

impl Check<'_> {
    fn found(&mut self, code: Code, message: String) {
        self.counts.count(code);
        (self.report)(Finding::of_check(code, message));
    }

    /// Reports an error in the package as a finding and returns `None`; other errors end the check.
    fn report_error<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(e) if is_package_error(&e) => {
                self.found(Code::Corruption, e.without_remedy());
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn descriptor(&mut self) -> Result<()> {
        if let Some(cut) = self.ova.package.files().archive().and_then(Archive::cut) {
            self.found(Code::Corruption, cut);
        }
        self.ova.package.descriptor().map_or(Ok(()), |descriptor| self.file(descriptor))
    }

    /// Verifies a file of the package, once.
    fn file(&mut self, file: &PackageFile) -> Result<()> {
        if !self.verified.insert(file.path.clone()) {
            return Ok(());
        }
        let entries = self.manifest.and_then(|manifest| manifest.entries_for(file).ok());
        self.used.extend(entries.into_iter().flatten().map(|entry| entry.name.as_str()));
        let outcome = file.verify(self.manifest, &mut || Ok(()));
        self.report_error(outcome).map(drop)
    }

    /// Verifies the remaining files that the manifest lists.
    fn other_entries(&mut self) -> Result<()> {
        let Some(manifest) = self.manifest else { return Ok(()) };
        let mut listed = BTreeMap::<PackageFileName, Vec<&Entry>>::new();
        for entry in manifest.entries() {
            if self.used.contains(entry.name.as_str()) {
                continue;
            }
            let name = self.ova.package.files().manifest_name(&entry.name);
            if let Some(name) = self.report_error(name)? {
                listed.entry(name).or_default().push(entry);
            }
        }
        for (name, entries) in listed {
            let file = self.ova.package.files().open(&name);
            if let Some(file) = self.report_error(file)? {
                let outcome = manifest::verify(&entries, &*file.source, &mut || Ok(()));
                self.report_error(outcome)?;
            }
        }
        Ok(())
    }

    fn disk(&mut self, index: usize, disk: &Disk) -> Result<()> {
        let package = &self.ova.package;
        let Some(file) = package.file_of(disk) else { return Ok(()) };
        let chunks = package.chunks(file);
        let Some(chunks) = self.report_error(chunks)? else { return Ok(()) };
        let len = chunks.iter().map(|chunk| chunk.source.len()).sum();
        if let Some(message) = file.wrong_size(len) {
            self.found(Code::Corruption, message);
        }
        for chunk in &chunks {
            self.file(chunk)?;
        }
        let paths = chunks.iter().map(|chunk| chunk.path.clone()).collect();
        if !self.checked.insert((claim_of_uri(&disk.format), paths)) {
            return Ok(());
        }
        let opened = DiskImage::of_chunks(package, (disk, file), chunks, None, true);
        let Some(image) = self.report_error(opened)? else { return Ok(()) };
        if let Some(archive) = package.files().archive().filter(|_| file.gzip) {
            let unpacked = image.layer.files().iter().map(|file| file.len());
            self.unpacked = unpacked.fold(self.unpacked, u64::saturating_add);
            archive.budget().require(self.unpacked)?;
        }
        let number = index + 1;
        let mut codes = Vec::new();
        let counts = image.layer.check(&mut |mut finding| {
            codes.push(finding.code);
            finding.message = format!("disk {number}: {}", finding.message);
            (self.report)(finding);
        });
        match self.report_error(counts)? {
            Some(Some(counts)) => self.add(&counts),
            Some(None) => {}
            // The check failed without returning counts: count what it has reported.
            None => codes.into_iter().for_each(|code| self.counts.count(code)),
        }
        Ok(())
    }

    /// Adds the counts of an image's check. Its offsets are omitted: they have no meaning in a
    /// total.
    fn add(&mut self, more: &CheckReport) {
        let counts = &mut self.counts;
        counts.check_errors += more.check_errors;
        counts.corruptions += more.corruptions;
        counts.leaks += more.leaks;
        counts.warnings += more.warnings;
        counts.total_clusters += more.total_clusters;
        counts.allocated_clusters += more.allocated_clusters;
        counts.fragmented_clusters += more.fragmented_clusters;
        counts.compressed_clusters += more.compressed_clusters;
    }
}

/// True for an error in the package: damage, a missing file, or a name that leads out of the
/// package.
fn is_package_error(error: &Error) -> bool {
    let missing = || error.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound);
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Refused) || missing()
}
