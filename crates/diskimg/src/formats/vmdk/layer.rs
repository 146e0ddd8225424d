//! Reading VMDK: the descriptor lists the extents, and the extents locate the guest bytes.

use super::descriptor::{Descriptor, NO_PARENT};
use super::descriptor_source::DescriptorSource;
use super::extent::{Layout, OpenExtents, VmdkExtent};
use super::header::MAGIC;
use super::parent::{self, Parent};
use super::sparse::read_header;
use super::{SECTOR, read, write};
use crate::error::{Error, Result};
use crate::formats::findings::Findings;
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer, ParentReference};
use crate::model::options::Options;
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::report::check::{CheckReport, Finding};
use crate::report::info::{Details, Value};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// A VMDK image.
#[derive(Debug)]
pub(crate) struct Vmdk {
    descriptor: Descriptor,
    extents: OpenExtents,
    parent: Parent,
    /// Whether a contradiction about the parent's content ID is accepted.
    ignore_content_id: bool,
    disk_layout: DiskLayout,
    /// Whether any extent is flat.
    has_flat_extent: bool,
}

impl Vmdk {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let DescriptorSource { source, header, descriptor } =
            DescriptorSource::read(source, context.limits)?;
        let parent = parent::parent_of(&descriptor, &*source, context)?;
        let extents = OpenExtents::open(source, header, &descriptor.extents, context)?;
        let size = extents.list.last().map_or(0, |extent| extent.guest.end);
        let grain_sizes = extents.list.iter().filter_map(VmdkExtent::grain_bytes);
        let disk_layout = DiskLayout { size, cluster_size: grain_sizes.min().unwrap_or(1) };
        let has_flat_extent = extents.list.iter().any(VmdkExtent::is_flat);
        let ignore_content_id = context.ignore_content_id;
        Ok(Self { descriptor, extents, parent, ignore_content_id, disk_layout, has_flat_extent })
    }

    pub(super) fn extents(&self) -> &[VmdkExtent] {
        &self.extents.list
    }

    pub(super) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Returns true if descriptor and extents are in the same file.
    pub(super) fn is_in_one_file(&self) -> bool {
        self.extents.list.iter().all(|extent| extent.file == 0)
    }

    /// Returns true if the descriptor is in a sparse extent's file.
    pub(super) fn has_embedded_descriptor(&self) -> Result<bool> {
        let mut magic = [0; 4];
        read(&*self.extents.files[0], &mut magic, 0, "VMDK header")?;
        Ok(magic == MAGIC)
    }

    pub(super) fn content_id(&self) -> Option<u32> {
        self.descriptor.cid
    }

    /// Returns true if unallocated grains are read from another disk.
    pub(super) fn has_parent(&self) -> bool {
        !matches!(self.parent, Parent::None)
    }

    /// Returns where the descriptor is in the first file, which has `len` bytes.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if the header cannot be read, and
    /// [`Limit`](crate::ErrorKind::Limit) if the descriptor is too large.
    pub(super) fn descriptor_range(&self, len: u64) -> Result<Range<u64>> {
        /// The largest descriptor that is modified in bytes.
        const MAX: u64 = 16 << 20;
        let range = match self.has_embedded_descriptor()? {
            true => {
                let header = read_header(&*self.extents.files[0])?;
                let start = header.descriptor_offset.saturating_mul(SECTOR);
                start..start.saturating_add(header.descriptor_sectors.saturating_mul(SECTOR))
            }
            false => 0..len,
        };
        if range.end > len || range.end - range.start > MAX {
            let message = "the descriptor is too large to be modified";
            return Err(Error::limit(message).in_structure("VMDK descriptor"));
        }
        Ok(range)
    }

    /// Returns `createType` as QEMU reports it: a single compressed extent is a stream.
    fn create_type(&self) -> &str {
        match (self.descriptor.create_type.as_str(), self.extents.list.as_slice()) {
            (_, [one]) if one.is_compressed() => "streamOptimized",
            ("", [_]) => "monolithicSparse",
            (create_type, _) => create_type,
        }
    }

    /// Returns the grain size in bytes, if all extents have grains of the same size.
    fn grain_bytes(&self) -> Option<u64> {
        let mut sizes = self.extents.list.iter().map(VmdkExtent::grain_bytes);
        let first = sizes.next()??;
        sizes.all(|size| size == Some(first)).then_some(first)
    }

    /// Returns what `info` lists for one extent.
    fn extent_info(&self, extent: &VmdkExtent) -> Value {
        let is_own_file = extent.file == 0 && extent.grain_bytes().is_some();
        let path = self.extents.files[extent.file].path();
        let path = path.filter(|_| is_own_file || extent.file != 0);
        let name = path.map(|p| p.display().to_string()).or_else(|| extent.line.name.clone());
        let kind = if is_own_file { "" } else { extent.line.kind.name() };
        let mut info = Vec::new();
        if extent.is_compressed() {
            info.push(("compressed", Value::from(true)));
        }
        info.push(("virtual-size", Value::from(extent.guest.end - extent.guest.start)));
        info.push(("filename", Value::Text(name.unwrap_or_default())));
        if let Some(bytes) = extent.grain_bytes() {
            info.push(("cluster-size", Value::from(bytes)));
        }
        info.push(("format", Value::from(kind)));
        Value::Map(info)
    }

    /// Returns the files under the names that QEMU gives them, in QEMU's order.
    fn children(&self) -> Vec<(String, usize)> {
        let in_files = self.extents.list.iter().enumerate().filter(|(_, e)| e.file != 0);
        let extents = in_files.map(|(number, e)| (format!("extents.{number}"), e.file));
        let mut children: Vec<_> = extents.collect();
        children.reverse();
        children.push(("file".into(), 0));
        children
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.warnings();
        for extent in &self.extents.list {
            notes.extend(extent.notes(&self.extents.files));
        }
        notes.extend(parent::contradiction(&self.descriptor));
        if let Parent::Uuid(uuid) = &self.parent {
            notes.push(format!(
                "a VirtualBox differencing image: it contains only the changes relative to its \
                 parent, whose UUID is {uuid}"
            ));
        }
        notes
    }
}

impl Sealed for Vmdk {}

impl Layer for Vmdk {
    fn format(&self) -> Format {
        Format::Vmdk
    }

    fn disk_layout(&self) -> DiskLayout {
        self.disk_layout
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.extents.files
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        let extents = &self.extents.list;
        let first = extents.partition_point(|extent| extent.guest.end <= range.start);
        match extents.get(first) {
            Some(extent) if extent.guest.start <= range.start => extent.next_allocated_hint(range),
            _ => range.start,
        }
    }

    fn prefetch_tables(&self, range: Range<u64>) {
        let list = &self.extents.list;
        let first = list.partition_point(|extent| extent.guest.end <= range.start);
        let inside = list[first..].iter().take_while(|extent| extent.guest.start < range.end);
        inside.for_each(|extent| extent.prefetch_tables(&range));
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let OpenExtents { files, list } = &self.extents;
        let first = list.partition_point(|extent| extent.guest.end <= range.start);
        for extent in list[first..].iter().take_while(|e| e.guest.start < range.end) {
            let start = range.start.max(extent.guest.start);
            let end = range.end.min(extent.guest.end);
            extent.map(start..end, files, out)?;
        }
        Ok(())
    }

    fn is_preallocated(&self) -> bool {
        self.has_flat_extent
    }

    fn parent(&self) -> Option<&ParentReference> {
        match &self.parent {
            Parent::Known { reference, .. } => Some(reference),
            Parent::None | Parent::Uuid(_) => None,
        }
    }

    fn content_ids(&self) -> Vec<String> {
        parent::content_ids(&self.descriptor)
    }

    fn parent_content_id(&self) -> Option<String> {
        match &self.parent {
            Parent::Known { content_id, .. } => content_id.clone(),
            Parent::None | Parent::Uuid(_) => None,
        }
    }

    fn details(&self) -> Details {
        let cid = self.descriptor.cid.unwrap_or(NO_PARENT);
        let extents = self.extents.list.iter().map(|extent| self.extent_info(extent));
        Details {
            cluster_size: self.grain_bytes(),
            specific: vec![
                ("cid", Value::from(u64::from(cid))),
                ("parent-cid", Value::from(u64::from(self.descriptor.parent_cid))),
                ("create-type", Value::from(self.create_type())),
                ("extents", Value::List(extents.collect())),
            ],
            children: self.children(),
            notes: self.notes(),
            ..Details::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        let OpenExtents { files, list } = &self.extents;
        list.iter().flat_map(|extent| extent.warnings(files)).collect()
    }

    fn create_options(&self) -> Options {
        let mut options = Options::default();
        let in_other_file = |e: &VmdkExtent| e.file != 0 || matches!(e.layout, Layout::Unopened(_));
        let in_one_file = !self.extents.list.iter().any(in_other_file);
        if let Some(layout) = write::closest_layout(self.create_type(), in_one_file) {
            options.set("subformat", layout);
        }
        let ddb = |key| self.descriptor.ddb(key).filter(|value| !value.is_empty());
        if let Some(adapter) = ddb("ddb.adapterType") {
            options.set("adapter_type", adapter);
        }
        for (name, key) in
            [("hwversion", "ddb.virtualHWVersion"), ("toolsversion", "ddb.toolsVersion")]
        {
            if let Some(version) = ddb(key).filter(|version| write::is_version(version)) {
                options.set(name, version);
            }
        }
        if self.extents.list.iter().any(VmdkExtent::has_zeroed_grains) {
            options.set("zeroed_grain", "on");
        }
        options
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        let mut counts = CheckReport::default();
        let contradiction = parent::contradiction(&self.descriptor);
        if let Some(message) = contradiction.filter(|_| !self.ignore_content_id) {
            Findings { report, counts: &mut counts }.corruption(message);
        }
        for extent in &self.extents.list {
            extent.check(&self.extents.files, report, &mut counts)?;
        }
        Ok(Some(counts))
    }
}
