//! Everything that can be wrong in an image, looked for.

use crate::error::{Error, ErrorKind, Result};
use crate::iso::SECTOR;
use crate::iso::finding::{Finding, FindingCode, Findings, Severity};
use crate::iso::image::{IsoImage, Namespace};
use crate::iso::node::{Content, Entry, FileExtent, FileTree, FileType, Node, is_usable_name};
use crate::iso::read::descriptor::{self, VolumeDescriptor, VolumeKind};
use crate::iso::read::path_table::{self, ByteOrder, PathRecord};
use crate::iso::walk::Walk;
use crate::storage::number::{to_u64, to_usize};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// What `verify` saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Verified {
    /// Files, links and devices, in the tree that has the most of them.
    pub files: u64,
    /// Directories, in that tree, without the root.
    pub directories: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Findings that are mere notes.
    pub notes: u64,
    /// Findings that some readers stumble over.
    pub warnings: u64,
    /// Findings that keep something from being read.
    pub errors: u64,
}

impl IsoImage {
    /// Looks for everything that can be wrong, in all trees of the session that is shown: each
    /// finding goes to `report` as it is made. Contents of files are looked at only where they
    /// are packed.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io). What is wrong with the image is a finding.
    pub fn verify(&self, report: &mut dyn FnMut(Finding)) -> Result<Verified> {
        let mut seen = Verified::default();
        let mut count = |finding: Finding| {
            match finding.severity {
                Severity::Note => seen.notes += 1,
                Severity::Warning => seen.warnings += 1,
                Severity::Error => seen.errors += 1,
            }
            report(finding);
        };
        descriptors(self, &mut count)?;
        let mut totals = Vec::new();
        for (namespace, tree) in &*self.trees {
            let verified = Verification::of(self, *namespace, tree, &mut count)?;
            totals.push((*namespace, verified));
        }
        same_files(&totals, &mut count);
        path_tables(self, &totals, &mut count)?;
        boot(self, &mut count)?;
        let largest = totals.iter().map(|(_, total)| total).max_by_key(|total| total.files);
        if let Some(total) = largest {
            (seen.files, seen.directories, seen.bytes) =
                (total.files, to_u64(total.directories.len()), total.bytes);
        }
        Ok(seen)
    }
}

type Report<'a> = dyn FnMut(Finding) + 'a;

fn descriptors(image: &IsoImage, report: &mut Report<'_>) -> Result<()> {
    let first = image.first_descriptor;
    match descriptor::read(&*image.source, first, &mut Findings::Told(report)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::Io => return Err(error),
        Err(error) => report(of_error(FindingCode::Descriptor, &error)),
    }
    let len = image.source.len();
    for volume in &image.descriptors.volumes {
        if volume.bytes() > len {
            let message = format!(
                "the volume has {} bytes, the image {len}: it was cut short",
                volume.bytes()
            );
            report(
                Finding::new(FindingCode::Truncated, Severity::Warning, message)
                    .at(volume.sector * SECTOR + 80),
            );
        }
    }
    Ok(())
}

/// What one tree holds.
#[derive(Debug, Default)]
struct Total {
    files: u64,
    /// Regular files that are not empty: what every tree can hold. Links may be empty files in one
    /// of them.
    regular: u64,
    bytes: u64,
    /// First sectors of all directories but the root.
    directories: HashSet<u64>,
    root: u64,
}

/// One tree, being looked through.
struct Verification<'a> {
    image: &'a IsoImage,
    namespace: Namespace,
    volume_bytes: u64,
    total: Total,
    /// Packed files that were unpacked, and how many bytes more may be.
    unpacked: HashSet<Vec<FileExtent>>,
    unpacking_left: u64,
}

/// Bytes that all packed files may come to, as a multiple of the image's: more than text packs
/// to, fewer than a bomb wants.
const UNPACKED_RATIO: u64 = 32;

/// Bytes that they may come to in any image.
const UNPACKED_ANYWAY: u64 = 16 << 20;

impl<'a> Verification<'a> {
    fn of(
        image: &'a IsoImage,
        namespace: Namespace,
        tree: &Arc<dyn FileTree>,
        report: &mut Report<'_>,
    ) -> Result<Total> {
        let volumes = &image.descriptors.volumes;
        let volume_bytes = volumes.first().map_or(u64::MAX, VolumeDescriptor::bytes);
        let mut this = Self {
            image,
            namespace,
            volume_bytes,
            total: Total::default(),
            unpacked: HashSet::new(),
            unpacking_left: image
                .source
                .len()
                .saturating_mul(UNPACKED_RATIO)
                .saturating_add(UNPACKED_ANYWAY),
        };
        let root = match tree.root() {
            Ok(root) => root,
            Err(error) => {
                report(this.of_error(&error, b""));
                return Ok(this.total);
            }
        };
        this.total.root = root.location;
        let listening = Arc::new(Listening::new(Arc::clone(tree), namespace));
        let walked: Arc<dyn FileTree> = listening.clone();
        let limits = image.options.limits.clone();
        let walk = Walk::new(walked, root, b"", image.source.len(), limits);
        for found in walk {
            listening.take().into_iter().for_each(&mut *report);
            match found {
                Ok(found) => this.node(&found.path, &found.node, report)?,
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                Err(error) => report(this.of_error(&error, b"")),
            }
        }
        listening.take().into_iter().for_each(&mut *report);
        Ok(this.total)
    }

    fn of_error(&self, error: &Error, path: &[u8]) -> Finding {
        let code = match error.kind() {
            ErrorKind::Limit => FindingCode::Limit,
            _ if self.namespace == Namespace::Udf => FindingCode::Udf,
            _ => FindingCode::Directory,
        };
        let finding = of_error(code, error);
        if path.is_empty() { finding } else { finding.of(path) }
    }

    fn node(&mut self, path: &[u8], node: &Node, report: &mut Report<'_>) -> Result<()> {
        if node.is_dir() {
            self.total.directories.insert(node.location);
            return Ok(());
        }
        self.total.files += 1;
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
                let message = format!("{} bytes at {offset:#x} leave the image", extent.len);
                report(
                    Finding::new(FindingCode::Extent, Severity::Error, message)
                        .at(node.location)
                        .of(path),
                );
            } else if end > self.volume_bytes && self.namespace != Namespace::Udf {
                let message = "its bytes lie behind the volume's end";
                report(
                    Finding::new(FindingCode::BehindVolume, Severity::Warning, message)
                        .at(node.location)
                        .of(path),
                );
            }
        }
        match &node.content {
            Content::Zisofs { .. } => self.packed(path, node, report),
            Content::Unread(why) => {
                let message = format!("a file that is recorded {why}");
                report(Finding::new(FindingCode::Extent, Severity::Warning, message).of(path));
                Ok(())
            }
            Content::Extents(_) => Ok(()),
        }
    }

    /// Unpacks a packed file, to see whether it does.
    fn packed(&mut self, path: &[u8], node: &Node, report: &mut Report<'_>) -> Result<()> {
        if !self.unpacked.insert(node.extents().to_vec()) {
            return Ok(());
        }
        let Some(left) = self.unpacking_left.checked_sub(node.size) else {
            let message = "packed files unpack to so much that this one was not looked at";
            report(Finding::new(FindingCode::Limit, Severity::Warning, message).of(path));
            return Ok(());
        };
        self.unpacking_left = left;
        let unpacked = self.image.contents(node).and_then(|contents| {
            let mut chunk = vec![0; 1 << 17];
            let mut at = 0;
            while at < contents.len() {
                let here = (contents.len() - at).min(to_u64(chunk.len()));
                contents
                    .read_exact_at(&mut chunk[..to_usize(here)], at)
                    .map_err(|e| Error::io("cannot unpack it", e))?;
                at += here;
            }
            Ok(())
        });
        match unpacked {
            Err(error) if error.kind() == ErrorKind::Io => Err(error),
            Err(error) => {
                report(of_error(FindingCode::Zisofs, &error).of(path));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// A tree whose directories tell what was made up for as they are read.
#[derive(Debug)]
struct Listening {
    tree: Arc<dyn FileTree>,
    namespace: Namespace,
    heard: Mutex<Vec<Finding>>,
}

impl Listening {
    fn new(tree: Arc<dyn FileTree>, namespace: Namespace) -> Self {
        Self { tree, namespace, heard: Mutex::default() }
    }

    fn take(&self) -> Vec<Finding> {
        std::mem::take(&mut *crate::storage::lock(&self.heard))
    }
}

impl FileTree for Listening {
    fn root(&self) -> Result<Node> {
        self.tree.root()
    }

    fn read_dir(&self, dir: &Node) -> Result<Vec<Entry>> {
        let mut heard = Vec::new();
        let mut listen = |finding| heard.push(finding);
        let entries = self.tree.read_dir_telling(dir, &mut Findings::Told(&mut listen));
        if let Ok(entries) = &entries {
            names(entries, dir, self.namespace, &mut listen);
        }
        crate::storage::lock(&self.heard).append(&mut heard);
        entries
    }
}

/// Names that occur twice, or that differ only in case where Windows would see them.
fn names(entries: &[Entry], dir: &Node, namespace: Namespace, report: &mut Report<'_>) {
    let mut seen = HashSet::with_capacity(entries.len());
    for entry in entries {
        let shown = || String::from_utf8_lossy(&entry.name).into_owned();
        if is_usable_name(&entry.name) && !seen.insert(&entry.name) {
            let message = format!("{namespace}: {:?} occurs twice in its directory", shown());
            report(
                Finding::new(FindingCode::DuplicateName, Severity::Error, message).at(dir.location),
            );
        }
    }
}

/// Rock Ridge shares its records with ISO 9660, so it is Joliet and UDF that can differ.
fn same_files(totals: &[(Namespace, Total)], report: &mut Report<'_>) {
    let Some((first, total)) = totals.first() else { return };
    for (namespace, other) in &totals[1..] {
        if total.regular != other.regular {
            let (here, there) = (total.regular, other.regular);
            let message =
                format!("{first} has {here} files that are not empty, {namespace} {there}");
            report(Finding::new(FindingCode::NameSpaces, Severity::Note, message));
        }
    }
}

/// Both path tables of each tree must name its directories.
fn path_tables(
    image: &IsoImage,
    totals: &[(Namespace, Total)],
    report: &mut Report<'_>,
) -> Result<()> {
    for volume in &image.descriptors.volumes {
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
            let (bytes, most) = (volume.path_table_bytes, image.options.limits.directory_bytes);
            let fault = match path_table::read(&*image.source, sector, bytes, order, most) {
                Ok(table) => path_table_fault(&table, total),
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                Err(error) => Some(error.to_string()),
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
            return Some(format!("record {} has a parent behind it", index + 1));
        }
        listed.insert(u64::from(record.sector) * SECTOR, record);
    }
    if !listed.contains_key(&total.root) {
        return Some("it does not list the root".to_owned());
    }
    let missing = total.directories.iter().filter(|at| !listed.contains_key(at)).count();
    (missing > 0).then(|| format!("it does not list {missing} of the directories"))
}

fn boot(image: &IsoImage, report: &mut Report<'_>) -> Result<()> {
    match image.boot_catalog() {
        Ok(Some(catalog)) => {
            for odd in catalog.oddities {
                let code = FindingCode::BootCatalog;
                report(Finding::new(code, Severity::Warning, odd.message).at(odd.offset));
            }
        }
        Ok(None) => {}
        Err(error) if error.kind() == ErrorKind::Io => return Err(error),
        Err(error) => report(of_error(FindingCode::BootCatalog, &error)),
    }
    for odd in image.system_area()?.oddities {
        let code = FindingCode::Partitions;
        report(Finding::new(code, Severity::Warning, odd.message).at(odd.offset));
    }
    Ok(())
}

fn of_error(code: FindingCode, error: &Error) -> Finding {
    let finding = Finding::new(code, Severity::Error, error.to_string());
    match error.offset() {
        Some(offset) => finding.at(offset),
        None => finding,
    }
}
