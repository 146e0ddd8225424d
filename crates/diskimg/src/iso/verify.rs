//! Consistency check of an image.

use crate::error::{Error, ErrorKind, Result};
use crate::iso::SECTOR;
use crate::iso::finding::{Finding, FindingCode, Findings};
use crate::iso::image::{IsoImage, Namespace};
use crate::iso::node::{Content, Entry, FileTree, FileType, Listing, Node, is_usable_name};
use crate::iso::read::descriptor::{self, VolumeKind};
use crate::iso::read::path_table::{self, ByteOrder, PathRecord};
use crate::iso::read::record::Record;
use crate::iso::read::sessions;
use crate::iso::udf;
use crate::iso::walk::Walk;
use crate::report::finding::Severity;
use crate::storage::number::{to_u64, to_usize};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// Maximum number of findings that are passed on. All of them are counted.
const MAX_FINDINGS: usize = 1000;

/// The result of [`IsoImage::verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Verified {
    /// Number of files, links and devices in the tree that has the most of them.
    pub files: u64,
    /// Number of directories in that tree, without the root.
    pub directories: u64,
    /// Total length of the files in bytes.
    pub bytes: u64,
    /// Number of findings of severity [`Note`](Severity::Note).
    pub notes: u64,
    /// Number of findings of severity [`Warning`](Severity::Warning).
    pub warnings: u64,
    /// Number of findings of severity [`Error`](Severity::Error).
    pub errors: u64,
}

impl IsoImage {
    /// Checks all structures of the selected session, in all its trees. The first 1000 findings are
    /// passed to `report` when they are made; the result counts all of them. File contents are read
    /// only if they are compressed with zisofs.
    ///
    /// # Errors
    /// Returns [`Io`](ErrorKind::Io) if reading fails. Damage to the image is not an error but a
    /// finding.
    pub fn verify(&self, report: &mut dyn FnMut(Finding)) -> Result<Verified> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let mut count = |finding: Finding| {
            let finding = crate::storage::lock(&tally).admit(finding);
            finding.into_iter().for_each(&mut *report);
        };
        check_descriptors(self, &mut count)?;
        let mut totals = Vec::new();
        for (namespace, tree) in &*self.trees {
            let total = TreeCheck::run(self, *namespace, (tree, &tally), &mut count)?;
            totals.push((*namespace, total));
        }
        compare_trees(&totals, &mut count);
        check_udf(self, &totals, &mut count)?;
        check_path_tables(self, &totals, &mut count)?;
        check_boot(self, &mut count)?;
        let mut verified = crate::storage::lock(&tally).verified.clone();
        let largest = totals.iter().map(|(_, total)| total).max_by_key(|total| total.files);
        if let Some(total) = largest {
            (verified.files, verified.directories, verified.bytes) =
                (total.files, to_u64(total.directories.len()), total.bytes);
        }
        Ok(verified)
    }
}

type Report<'a> = dyn FnMut(Finding) + 'a;

/// Counts findings, and admits the first ones.
#[derive(Debug, Default)]
struct Tally {
    verified: Verified,
    admitted: usize,
}

impl Tally {
    fn count(&mut self, finding: &Finding) {
        match finding.severity {
            Severity::Note => self.verified.notes += 1,
            Severity::Warning => self.verified.warnings += 1,
            Severity::Error => self.verified.errors += 1,
        }
    }

    /// Counts a finding, and returns it if it is to be reported.
    fn admit(&mut self, finding: Finding) -> Option<Finding> {
        self.count(&finding);
        self.admitted += 1;
        (self.admitted <= MAX_FINDINGS).then_some(finding)
    }
}

fn check_descriptors(image: &IsoImage, report: &mut Report<'_>) -> Result<()> {
    let first = image.first_descriptor;
    match descriptor::read(&*image.source, first, &mut Findings::Reported(report)) {
        Ok(_) => {}
        Err(error) if error.is_storage_failure() => return Err(error),
        Err(error) => report(finding_from_error(FindingCode::Descriptor, &error)),
    }
    image.truncations().map(|(_, finding)| finding).for_each(report);
    Ok(())
}

/// Returns the byte offset of the end of the volume. Writers record the size of a later session
/// without the sessions before it. When an image is grown, its first descriptors are replaced by a
/// copy of the newest session's, whose root directory is then beyond that size.
fn end_of_volume(image: &IsoImage) -> Result<u64> {
    let Some(volume) = image.descriptors.volumes.first() else { return Ok(u64::MAX) };
    let own = image.first_descriptor.saturating_sub(descriptor::FIRST);
    let end = |start: u64| start.saturating_mul(SECTOR).saturating_add(volume.bytes());
    let start = match Record::parse(&volume.root, 0) {
        Some(root) if root.offset >= end(own) => {
            sessions::start_of_root(&*image.source, root.offset / SECTOR)?
        }
        _ => None,
    };
    Ok(end(start.unwrap_or(own)))
}

/// Files and directories of one tree.
#[derive(Debug, Default)]
struct Total {
    files: u64,
    /// Number of regular files that are not empty, which is the same in all trees. Empty files are
    /// not counted, because a name space without symbolic links may show these as empty files.
    regular: u64,
    bytes: u64,
    /// Locations of all UDF file entries but those of directories, as byte offsets.
    entries: HashSet<u64>,
    /// Locations of all directories but the root, as byte offsets.
    directories: HashSet<u64>,
    root: u64,
}

/// The check of one tree.
struct TreeCheck<'a> {
    image: &'a IsoImage,
    namespace: Namespace,
    /// Byte offset of the end of the volume.
    volume_end: u64,
    total: Total,
    /// Zisofs files that were decompressed.
    decompressed: HashSet<(Content, u64)>,
    /// Number of bytes that may still be decompressed.
    decompress_budget: u64,
}

/// Maximum total length of all decompressed zisofs files, as a multiple of the image's length. Text
/// compresses less than this, decompression bombs more.
const MAX_DECOMPRESSED_RATIO: u64 = 32;

/// Number of bytes that are decompressed in addition, whatever the image's length.
const MIN_DECOMPRESSED: u64 = 16 << 20;

impl<'a> TreeCheck<'a> {
    fn run(
        image: &'a IsoImage,
        namespace: Namespace,
        (tree, tally): (&Arc<dyn FileTree>, &Arc<Mutex<Tally>>),
        report: &mut Report<'_>,
    ) -> Result<Total> {
        let mut this = Self {
            image,
            namespace,
            volume_end: end_of_volume(image)?,
            total: Total::default(),
            decompressed: HashSet::new(),
            decompress_budget: image
                .source
                .len()
                .saturating_mul(MAX_DECOMPRESSED_RATIO)
                .saturating_add(MIN_DECOMPRESSED),
        };
        let root = match tree.root() {
            Ok(root) => root,
            Err(error) => {
                report(this.finding_from_error(&error, b""));
                return Ok(this.total);
            }
        };
        this.total.root = root.location;
        let recording = Arc::new(RecordingTree {
            tree: Arc::clone(tree),
            namespace,
            tally: Arc::clone(tally),
            findings: Mutex::default(),
        });
        let walked: Arc<dyn FileTree> = recording.clone();
        let limits = image.options.limits.clone();
        let walk = Walk::new(walked, root, b"", image.source.len(), limits);
        for found in walk {
            recording.take().into_iter().for_each(&mut *report);
            match found {
                Ok(found) => this.check_node(&found.path, &found.node, report)?,
                Err(error) if error.is_storage_failure() => return Err(error),
                Err(error) => report(this.finding_from_error(&error, b"")),
            }
        }
        recording.take().into_iter().for_each(&mut *report);
        Ok(this.total)
    }

    fn finding_from_error(&self, error: &Error, path: &[u8]) -> Finding {
        let code = match error.kind() {
            ErrorKind::Limit => FindingCode::Limit,
            _ if self.namespace == Namespace::Udf => FindingCode::Udf,
            _ => FindingCode::Directory,
        };
        let finding = finding_from_error(code, error);
        if path.is_empty() { finding } else { finding.of(path) }
    }

    fn check_node(&mut self, path: &[u8], node: &Node, report: &mut Report<'_>) -> Result<()> {
        if node.is_dir() {
            self.total.directories.insert(node.location);
            return Ok(());
        }
        self.total.files += 1;
        if self.namespace == Namespace::Udf {
            self.total.entries.insert(node.location);
        }
        if node.file_type != FileType::Regular {
            return Ok(());
        }
        self.total.regular += u64::from(node.size > 0);
        self.total.bytes = self.total.bytes.saturating_add(node.size);
        let image_bytes = self.image.source.len();
        for extent in node.extents().iter().filter(|extent| extent.len > 0) {
            let Some(offset) = extent.offset else { continue };
            let end = offset.saturating_add(extent.len);
            if end > image_bytes {
                let message = format!(
                    "the extent of {} bytes at {offset:#x} is not within the image",
                    extent.len
                );
                report(
                    Finding::new(FindingCode::Extent, Severity::Error, message)
                        .at(node.location)
                        .of(path),
                );
            } else if end > self.volume_end && self.namespace != Namespace::Udf {
                let message = "the file extends beyond the end of the volume";
                report(
                    Finding::new(FindingCode::BeyondVolume, Severity::Warning, message)
                        .at(node.location)
                        .of(path),
                );
            }
        }
        match &node.content {
            Content::Zisofs { .. } => self.check_zisofs(path, node, report),
            Content::Unsupported(why) => {
                let message = format!("the file is recorded {why}");
                report(Finding::new(FindingCode::Extent, Severity::Warning, message).of(path));
                Ok(())
            }
            Content::Extents(_) => Ok(()),
        }
    }

    /// Decompresses a zisofs file.
    fn check_zisofs(&mut self, path: &[u8], node: &Node, report: &mut Report<'_>) -> Result<()> {
        if !self.decompressed.insert(node.contents_key().to_owned()) {
            return Ok(());
        }
        let Some(left) = self.decompress_budget.checked_sub(node.size) else {
            let message = "not checked: the zisofs files decompress to too many bytes in total";
            report(Finding::new(FindingCode::Limit, Severity::Warning, message).of(path));
            return Ok(());
        };
        self.decompress_budget = left;
        let outcome = self.image.contents(node).and_then(|contents| {
            let mut chunk = vec![0; 1 << 17];
            let mut at = 0;
            while at < contents.len() {
                let here = contents.len().saturating_sub(at).min(to_u64(chunk.len()));
                contents
                    .read_exact_at(&mut chunk[..to_usize(here)], at)
                    .map_err(|e| Error::io("cannot decompress the file", e))?;
                at += here;
            }
            Ok(())
        });
        match outcome {
            Err(error) if error.is_storage_failure() => Err(error),
            Err(error) => {
                report(finding_from_error(FindingCode::Zisofs, &error).of(path));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// A tree that records the findings made while its directories are read, and only counts those that
/// would not be reported.
#[derive(Debug)]
struct RecordingTree {
    tree: Arc<dyn FileTree>,
    namespace: Namespace,
    tally: Arc<Mutex<Tally>>,
    findings: Mutex<Vec<Finding>>,
}

impl RecordingTree {
    fn take(&self) -> Vec<Finding> {
        std::mem::take(&mut *crate::storage::lock(&self.findings))
    }
}

impl FileTree for RecordingTree {
    fn root(&self) -> Result<Node> {
        self.tree.root()
    }

    fn read_dir_reporting(&self, dir: &Node, _: &mut Findings<'_>) -> Result<Listing> {
        let mut findings = Vec::new();
        let mut record = |finding| {
            let mut tally = crate::storage::lock(&self.tally);
            match tally.admitted + findings.len() < MAX_FINDINGS {
                true => findings.push(finding),
                false => tally.count(&finding),
            }
        };
        let listing = self.tree.read_dir_reporting(dir, &mut Findings::Reported(&mut record));
        if let Ok(listing) = &listing {
            check_names(&listing.entries, dir, self.namespace, &mut record);
        }
        crate::storage::lock(&self.findings).append(&mut findings);
        listing
    }
}

/// Reports names that occur more than once in a directory.
fn check_names(entries: &[Entry], dir: &Node, namespace: Namespace, report: &mut Report<'_>) {
    let mut seen = HashSet::with_capacity(entries.len());
    for entry in entries {
        let shown = || String::from_utf8_lossy(&entry.name).into_owned();
        if is_usable_name(&entry.name) && !seen.insert(&entry.name) {
            let title = namespace.title();
            let message = format!("{title}: the name {:?} occurs twice in the directory", shown());
            report(
                Finding::new(FindingCode::DuplicateName, Severity::Error, message).at(dir.location),
            );
        }
    }
}

/// Compares the number of files in the trees. Rock Ridge uses the directory records of ISO 9660, so
/// only Joliet and UDF can differ.
fn compare_trees(totals: &[(Namespace, Total)], report: &mut Report<'_>) {
    let Some((first, total)) = totals.first() else { return };
    for (namespace, other) in &totals[1..] {
        if total.regular != other.regular {
            let message = format!(
                "the number of non-empty files differs: {} in {}, {} in {}",
                total.regular,
                first.title(),
                other.regular,
                namespace.title()
            );
            report(Finding::new(FindingCode::Namespaces, Severity::Note, message));
        }
    }
}

/// Checks the volume structures of UDF.
fn check_udf(
    image: &IsoImage,
    totals: &[(Namespace, Total)],
    report: &mut Report<'_>,
) -> Result<()> {
    let total = totals.iter().find(|(namespace, _)| *namespace == Namespace::Udf);
    let (Some(udf), Some((_, total))) = (&image.udf, total) else { return Ok(()) };
    let found = udf::Found {
        names: total.files,
        files: to_u64(total.entries.len()),
        directories: to_u64(total.directories.len()) + 1,
    };
    udf.check(found, report)
}

/// Checks that both path tables of each tree list all its directories.
fn check_path_tables(
    image: &IsoImage,
    totals: &[(Namespace, Total)],
    report: &mut Report<'_>,
) -> Result<()> {
    // Only the volumes whose trees are read: each of many descriptors may refer to the same long
    // table.
    for volume in [VolumeKind::Primary, VolumeKind::Joliet].map(|k| image.descriptors.of(k)) {
        let Some(volume) = volume else { continue };
        let wanted = match volume.kind {
            VolumeKind::Primary => [Namespace::RockRidge, Namespace::Iso],
            VolumeKind::Joliet => [Namespace::Joliet; 2],
            VolumeKind::Enhanced | VolumeKind::Other => continue,
        };
        let total = totals.iter().find(|(namespace, _)| wanted.contains(namespace));
        let Some((_, total)) = total else { continue };
        let tables = [
            (volume.path_table_l, ByteOrder::Little, 140),
            (volume.path_table_m, ByteOrder::Big, 148),
        ];
        for (sector, order, field) in tables {
            let offset = volume.sector * SECTOR + field;
            let (bytes, limit) = (volume.path_table_bytes, image.options.limits.directory_bytes);
            let fault = match path_table::read(&*image.source, sector, bytes, order, limit) {
                Ok(table) => path_table_fault(&table, total),
                Err(error) if error.is_storage_failure() => return Err(error),
                Err(error) => Some(error.without_remedy()),
            };
            if let Some(fault) = fault {
                let kind = if order == ByteOrder::Little { "L" } else { "M" };
                let message = format!("{:?}, path table {kind}: {fault}", volume.kind);
                report(Finding::new(FindingCode::PathTable, Severity::Warning, message).at(offset));
            }
        }
    }
    Ok(())
}

fn path_table_fault(table: &[PathRecord], total: &Total) -> Option<String> {
    let mut listed: HashMap<u64, &PathRecord> = HashMap::with_capacity(table.len());
    for (index, record) in table.iter().enumerate() {
        if usize::from(record.parent) > index + 1 || record.parent == 0 {
            return Some(format!("record {} does not follow its parent", index + 1));
        }
        listed.insert(u64::from(record.sector) * SECTOR, record);
    }
    if !listed.contains_key(&total.root) {
        return Some("the root directory is missing".to_owned());
    }
    let missing = total.directories.iter().filter(|at| !listed.contains_key(at)).count();
    (missing > 0).then(|| format!("{missing} directories are missing"))
}

fn check_boot(image: &IsoImage, report: &mut Report<'_>) -> Result<()> {
    match image.boot_catalog() {
        Ok(Some(catalog)) => {
            for oddity in catalog.oddities {
                let code = FindingCode::BootCatalog;
                report(Finding::new(code, Severity::Warning, oddity.message).at(oddity.offset));
            }
        }
        Ok(None) => {}
        Err(error) if error.is_storage_failure() => return Err(error),
        Err(error) => report(finding_from_error(FindingCode::BootCatalog, &error)),
    }
    for oddity in image.system_area()?.oddities {
        let code = FindingCode::Partitions;
        report(Finding::new(code, Severity::Warning, oddity.message).at(oddity.offset));
    }
    Ok(())
}

fn finding_from_error(code: FindingCode, error: &Error) -> Finding {
    let finding = Finding::new(code, Severity::Error, error.without_remedy());
    match error.offset() {
        Some(offset) => finding.at(offset),
        None => finding,
    }
}
