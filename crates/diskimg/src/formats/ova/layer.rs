//! Reading one disk of an appliance, through the layer of its image.

use super::archive::Archive;
use super::disk_image::DiskImage;
use super::envelope::{Capacity, Disk};
use super::manifest::Manifest;
use super::package::{Package, PackageFile};
use crate::error::{Error, ErrorKind, Result};
use crate::model::extent::{Extent, Kind, push};
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer};
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::remedy::Remedy;
use crate::report::check::{CheckReport, Finding};
use crate::report::info::{Details, Value};
use crate::storage::number::to_u64;
use crate::storage::source::{HostFileId, Source};
use std::ops::Range;
use std::sync::Arc;

/// An appliance, of which one disk is read.
#[derive(Debug)]
pub(crate) struct Ova {
    pub(super) package: Package,
    /// Index of the disk that is read; `None` if there are several and none was chosen.
    pub(super) chosen: Option<usize>,
    /// Whether contradictions are errors in a verification.
    strict: bool,
    content: Content,
    /// The image's files, to which host offsets refer, then the package's.
    files: Vec<Arc<dyn Source>>,
}

/// The contents of the chosen disk.
#[derive(Debug)]
enum Content {
    /// The disk has no file: it reads as zeros.
    Empty,
    Image(DiskImage),
    /// The image was not opened, for this reason: no disk was chosen, or only metadata was
    /// requested and the image's is not available.
    Unopened(String),
}

impl Ova {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let package = Package::open(source, context)?;
        let chosen = choose(&package, context.disk)?;
        if chosen.is_none() && !context.metadata_only {
            return Err(not_chosen(&package));
        }
        let content = match chosen.map(|index| &package.disks()[index]) {
            None => Content::Unopened(format!(
                "the appliance has {} disks, whose sizes in the descriptor are added up here; \
                 choose one: {}",
                package.disks().len(),
                choices(&package)
            )),
            // The appliance's metadata is reported even if its only disk cannot be opened.
            Some(disk) if context.metadata_only && context.disk.is_none() => {
                open_in_place(&package, disk, context).unwrap_or_else(|e| {
                    Content::Unopened(format!(
                        "the image's metadata is not available: {}",
                        e.without_remedy()
                    ))
                })
            }
            Some(disk) => open_content(&package, disk, context)?,
        };
        let mut files = Vec::new();
        if let Content::Image(image) = &content {
            files.extend(image.layer.files().iter().cloned());
            // A chunk that is the whole image is among the layer's files already.
            for chunk in &image.chunks {
                if !files.iter().any(|file| Arc::ptr_eq(file, &chunk.source)) {
                    files.push(Arc::clone(&chunk.source));
                }
            }
        }
        files.push(Arc::clone(package.main_source()));
        Ok(Self { package, chosen, strict: context.strict, content, files })
    }

    /// Returns the chosen disk, if any.
    pub(super) fn disk(&self) -> Option<&Disk> {
        self.chosen.map(|index| &self.package.disks()[index])
    }

    fn image(&self) -> Option<&DiskImage> {
        match &self.content {
            Content::Image(image) => Some(image),
            Content::Empty | Content::Unopened(_) => None,
        }
    }

    /// Remarks for `info` about the package and the chosen disk.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Content::Unopened(why) = &self.content {
            notes.push(why.clone());
        }
        for (index, disk) in self.package.disks().iter().enumerate() {
            let number = index + 1;
            match &disk.capacity {
                Capacity::Bytes(_) | Capacity::Unknown => {}
                Capacity::AtDeployment => {
                    notes.push(format!("the capacity of disk {number} is set at deployment"));
                }
                Capacity::Invalid(why) => notes.push(why.clone()),
            }
            notes.extend(self.wrong_size(disk));
        }
        notes.extend(self.package_warnings());
        if let (Some(image), Some(Some(capacity))) =
            (self.image(), self.disk().map(|d| d.capacity.bytes()))
            && capacity != image.layer.disk_layout().size
        {
            let size = image.layer.disk_layout().size;
            notes.push(format!(
                "the descriptor says that the disk has {capacity} bytes; the image has {size} \
                 bytes, which are used"
            ));
        }
        notes
    }

    /// Describes damage to the package itself that reading a disk tolerates.
    fn package_warnings(&self) -> Vec<String> {
        let cut = self.package.files().archive().and_then(Archive::cut);
        let unlisted = self.package.unlisted_descriptor();
        let unlisted = unlisted.map(|why| format!("the descriptor cannot be verified: {why}"));
        cut.into_iter().chain(unlisted).collect()
    }

    /// Describes a mismatch between the length of a disk's file and the descriptor.
    fn wrong_size(&self, disk: &Disk) -> Option<String> {
        let file = self.package.file_of(disk)?;
        let opened = self.disk().is_some_and(|d| d.id == disk.id).then(|| self.image()).flatten();
        file.wrong_size(match opened {
            Some(image) => image.chunks.iter().map(|chunk| chunk.source.len()).sum(),
            None => self.package.stored_size(disk)?,
        })
    }

    /// Returns the descriptor's data of each disk, for `info`.
    fn disk_list(&self) -> Vec<Value> {
        let entry = |(index, disk): (usize, &Disk)| {
            let mut entry = vec![
                ("number", Value::from(to_u64(index) + 1)),
                ("id", Value::from(disk.id.as_str())),
            ];
            let file = self.package.file_of(disk);
            entry.extend(file.map(|file| ("file", Value::from(file.href.as_str()))));
            entry.extend(
                (!disk.format.is_empty()).then(|| ("format", Value::from(disk.format.as_str()))),
            );
            entry.extend(disk.capacity.bytes().map(|bytes| ("capacity", Value::from(bytes))));
            entry.extend(disk.populated.map(|bytes| ("populated-size", Value::from(bytes))));
            if let Some(file) = file {
                let size = self.package.stored_size(disk).or(file.size);
                entry.extend(size.map(|bytes| ("file-size", Value::from(bytes))));
                entry.extend(file.gzip.then(|| ("compression", Value::from("gzip"))));
                entry.extend(file.chunk.map(|bytes| ("chunk-size", Value::from(bytes))));
            }
            let parent = disk.parent.as_deref();
            entry.extend(parent.map(|parent| ("parent", Value::from(parent))));
            Value::Map(entry)
        };
        self.package.disks().iter().enumerate().map(entry).collect()
    }
}

impl Sealed for Ova {}

impl Layer for Ova {
    fn format(&self) -> Format {
        Format::Ova
    }

    fn disk_layout(&self) -> DiskLayout {
        if let Some(image) = self.image() {
            return image.layer.disk_layout();
        }
        let disks: Vec<_> = match self.disk() {
            Some(disk) => vec![disk],
            None => self.package.disks().iter().collect(),
        };
        let capacities = disks.iter().filter_map(|disk| disk.capacity.bytes());
        DiskLayout {
            size: capacities.fold(0, u64::saturating_add).min(i64::MAX.cast_unsigned()),
            cluster_size: 1,
        }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn identities(&self) -> Vec<HostFileId> {
        let texts = [self.package.descriptor(), self.package.manifest()].into_iter().flatten();
        let sources = self.files.iter().chain(texts.map(|file| &file.source));
        sources.flat_map(|source| source.identities()).collect()
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        match &self.content {
            Content::Image(image) => image.layer.next_allocated_hint(range),
            Content::Empty => range.end,
            Content::Unopened(_) => range.start,
        }
    }

    fn prefetch_tables(&self, range: Range<u64>) {
        if let Content::Image(image) = &self.content {
            image.layer.prefetch_tables(range);
        }
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        match &self.content {
            Content::Image(image) => image.layer.map(range, out),
            Content::Empty => {
                push(out, range, Kind::Zero(None));
                Ok(())
            }
            Content::Unopened(_) if self.chosen.is_none() => Err(not_chosen(&self.package)),
            Content::Unopened(_) => {
                Err(Error::invalid("the image is not open: only metadata was requested"))
            }
        }
    }

    fn is_preallocated(&self) -> bool {
        self.image().is_some_and(|image| image.layer.is_preallocated())
    }

    fn details(&self) -> Details {
        let mut specific = Vec::new();
        let descriptor = self.package.descriptor();
        specific.extend(descriptor.map(|file| ("descriptor", Value::from(file.name.as_str()))));
        let manifest = self.package.manifest();
        specific.extend(manifest.map(|file| ("manifest", Value::from(file.name.as_str()))));
        specific.push(("disks", Value::List(self.disk_list())));
        specific.extend(self.chosen.map(|index| ("disk", Value::from(to_u64(index) + 1))));
        let mut details = Details {
            children: vec![("file".into(), self.files.len() - 1)],
            notes: self.notes(),
            ..Details::default()
        };
        if let Some(image) = self.image() {
            let inner = image.layer.details();
            specific.push(("disk-format", Value::from(image.layer.format().name())));
            if !inner.specific.is_empty() {
                specific.push(("disk-format-specific", Value::Map(inner.specific)));
            }
            details.cluster_size = inner.cluster_size;
            details.compressed = inner.compressed;
            details.encrypted = inner.encrypted;
            details.dirty = inner.dirty;
            details.snapshots = inner.snapshots;
            details.notes.extend(inner.notes);
        }
        details.specific = specific;
        details
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.package_warnings();
        warnings.extend(self.disk().and_then(|disk| self.wrong_size(disk)));
        if self.package.salvage && self.package.manifest().is_some() {
            warnings.push("the files were not verified against the manifest".into());
        }
        warnings.extend(self.image().map(|image| image.layer.warnings()).unwrap_or_default());
        warnings
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        super::check::check(self, report).map(Some)
    }

    fn verify_manifest(&self, tick: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        if self.package.salvage {
            return Ok(());
        }
        let advise = |error: Error| {
            error
                .hint("the appliance is damaged, or was modified after its manifest was written")
                .with_remedy(Remedy::SkipManifest)
        };
        if self.strict {
            let size = self.disk().and_then(|disk| self.wrong_size(disk));
            if let Some(message) = size.or_else(|| self.package.unlisted_descriptor()) {
                return Err(
                    Error::corrupt("package", message).with_remedy(Remedy::AcceptContradictions)
                );
            }
        }
        let manifest = self.package.read_manifest()?;
        let chunks = self.image().map(|image| image.chunks.as_slice()).unwrap_or_default();
        let mut verify = |file: &PackageFile, manifest: Option<&Manifest>| {
            file.verify(manifest, tick).map_err(|e| match e.kind() {
                ErrorKind::Corrupt => advise(e),
                _ => e,
            })
        };
        if let Some(descriptor) = self.package.descriptor() {
            // A manifest that does not list it is a warning.
            verify(descriptor, manifest.filter(|m| m.entries_for(descriptor).is_ok()))?;
        }
        for chunk in chunks {
            verify(chunk, manifest)?;
        }
        Ok(())
    }
}

/// Returns the index of the requested disk (by number, file name or ID) or of the only one.
fn choose(package: &Package, wanted: Option<&str>) -> Result<Option<usize>> {
    let disks = package.disks();
    let Some(wanted) = wanted else {
        return Ok((disks.len() == 1).then_some(0));
    };
    let name_of = |disk: &Disk| package.file_of(disk).map(|file| file.href.clone());
    let number = wanted.parse::<usize>().ok().filter(|n| (1..=disks.len()).contains(n));
    let found = number
        .map(|n| n - 1)
        .or_else(|| disks.iter().position(|disk| name_of(disk).as_deref() == Some(wanted)))
        .or_else(|| disks.iter().position(|disk| disk.id == wanted));
    match found {
        Some(index) => Ok(Some(index)),
        None => Err(Error::invalid(format!("the appliance has no disk '{wanted}'"))
            .hint(format!("one of {}", choices(package)))),
    }
}

/// As [`open_content`], but does not open an image that is compressed or not in the archive, unless
/// nothing else states the disk's size.
fn open_in_place(package: &Package, disk: &Disk, context: &OpenContext<'_>) -> Result<Content> {
    match package.file_of(disk) {
        Some(file) if !package.in_place(file) && disk.capacity != Capacity::Unknown => {
            Ok(Content::Unopened(format!(
                "the image's metadata is not shown, because '{}' is compressed or a separate file; \
             choose the disk (':1') to open it",
                file.href
            )))
        }
        _ => open_content(package, disk, context),
    }
}

fn open_content(package: &Package, disk: &Disk, context: &OpenContext<'_>) -> Result<Content> {
    if let Some(parent) = &disk.parent {
        return Err(Error::unsupported(format!(
            "disk '{}' has the parent disk '{parent}' (parentRef)",
            disk.id
        )));
    }
    let Some(file) = package.file_of(disk) else {
        if disk.capacity.bytes().is_none() && !context.metadata_only {
            return Err(Error::unsupported(format!(
                "disk '{}' has no file, and its capacity is set at deployment",
                disk.id
            )));
        }
        return Ok(Content::Empty);
    };
    DiskImage::open(package, disk, file, context.snapshot, context.metadata_only)
        .map(Content::Image)
}

fn not_chosen(package: &Package) -> Error {
    Error::invalid(format!("the appliance has {} disks", package.disks().len()))
        .hint(format!("its disks: {}", choices(package)))
        .with_remedy(Remedy::ChooseDisk)
}

/// Lists the disks for messages: `1 (disk1.vmdk), 2 (disk2.vmdk)`.
fn choices(package: &Package) -> String {
    const SHOWN: usize = 16;
    let disks = package.disks();
    let choice = |(index, disk): (usize, &Disk)| {
        let name = package.file_of(disk).map_or(&disk.id, |file| &file.href);
        format!("{} ({name})", index + 1)
    };
    let mut shown: Vec<_> = disks.iter().enumerate().take(SHOWN).map(choice).collect();
    if disks.len() > SHOWN {
        shown.push(format!("… {}", disks.len()));
    }
    shown.join(", ")
}
