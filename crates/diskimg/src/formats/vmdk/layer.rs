//! Reading VMDK: the descriptor's word on what the disk is, the extents' on
//! where its bytes are.

use super::descriptor::{Descriptor, NO_PARENT};
use super::descriptor_source::Home;
use super::extent::{Layout, Parts, VmdkExtent};
use super::parent::{self, Parent};
use super::write;
use crate::error::Result;
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer, ParentReference};
use crate::model::options::Options;
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
    parts: Parts,
    parent: Parent,
    geometry: DiskLayout,
    /// Some of it is flat.
    flat: bool,
}

impl Vmdk {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let Home { source, header, descriptor } = Home::read(source, context.limits)?;
        let parent = parent::parent_of(&descriptor, &*source, context)?;
        let parts = Parts::open(source, header, &descriptor.extents, context)?;
        let size = parts.parts.last().map_or(0, |part| part.guest.end);
        let unit = parts.parts.iter().filter_map(VmdkExtent::grain_bytes).min().unwrap_or(1);
        let flat = parts.parts.iter().any(VmdkExtent::is_flat);
        Ok(Self {
            descriptor,
            parts,
            parent,
            geometry: DiskLayout { size, cluster_size: unit },
            flat,
        })
    }

    /// `createType` as QEMU tells it: what is compressed is a stream.
    fn create_type(&self) -> &str {
        match (self.descriptor.create_type.as_str(), self.parts.parts.as_slice()) {
            (_, [one]) if one.is_compressed() => "streamOptimized",
            ("", [_]) => "monolithicSparse",
            (create_type, _) => create_type,
        }
    }

    /// Bytes of a grain, if all parts have grains of one size.
    fn grain_bytes(&self) -> Option<u64> {
        let mut sizes = self.parts.parts.iter().map(VmdkExtent::grain_bytes);
        let first = sizes.next()??;
        sizes.all(|size| size == Some(first)).then_some(first)
    }

    /// What `info` lists of one part.
    fn part_facts(&self, part: &VmdkExtent) -> Value {
        let itself = part.file == 0 && part.grain_bytes().is_some();
        let path = self.parts.files[part.file].path().filter(|_| itself || part.file != 0);
        let name = path.map(|p| p.display().to_string()).or_else(|| part.line.name.clone());
        let kind = if itself { "" } else { part.line.kind.name() };
        let mut facts = Vec::new();
        if part.is_compressed() {
            facts.push(("compressed", Value::from(true)));
        }
        facts.push(("virtual-size", Value::from(part.guest.end - part.guest.start)));
        facts.push(("filename", Value::Text(name.unwrap_or_default())));
        if let Some(bytes) = part.grain_bytes() {
            facts.push(("cluster-size", Value::from(bytes)));
        }
        facts.push(("format", Value::from(kind)));
        Value::Map(facts)
    }

    /// The names that QEMU gives the files, in its order.
    fn children(&self) -> Vec<(String, usize)> {
        let named = self.parts.parts.iter().enumerate().filter(|(_, part)| part.file != 0);
        let extents = named.map(|(number, part)| (format!("extents.{number}"), part.file));
        let mut children: Vec<_> = extents.collect();
        children.reverse();
        children.push(("file".into(), 0));
        children
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.warnings();
        for part in &self.parts.parts {
            notes.extend(part.notes(&self.parts.files));
        }
        if let Parent::Uuid(uuid) = &self.parent {
            notes.push(format!(
                "a VirtualBox differencing image: alone it holds only what changed since its \
                 parent, whose UUID is {uuid}"
            ));
        }
        notes
    }
}

impl Layer for Vmdk {
    fn format(&self) -> Format {
        Format::Vmdk
    }

    fn disk_layout(&self) -> DiskLayout {
        self.geometry
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.parts.files
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        let parts = &self.parts.parts;
        let first = parts.partition_point(|part| part.guest.end <= range.start);
        match parts.get(first) {
            Some(part) if part.guest.start <= range.start => part.next_allocated_hint(range),
            _ => range.start,
        }
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let Parts { files, parts } = &self.parts;
        let first = parts.partition_point(|part| part.guest.end <= range.start);
        for part in parts[first..].iter().take_while(|p| p.guest.start < range.end) {
            let (start, end) = (range.start.max(part.guest.start), range.end.min(part.guest.end));
            part.map(start..end, files, out)?;
        }
        Ok(())
    }

    fn is_preallocated(&self) -> bool {
        self.flat
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
        let extents = self.parts.parts.iter().map(|part| self.part_facts(part));
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
        let Parts { files, parts } = &self.parts;
        parts.iter().flat_map(|part| part.warnings(files)).collect()
    }

    fn create_options(&self) -> Options {
        let mut options = Options::default();
        let beside =
            |part: &VmdkExtent| part.file != 0 || matches!(part.layout, Layout::Unopened(_));
        let in_one_file = !self.parts.parts.iter().any(beside);
        if let Some(layout) = write::closest_layout(self.create_type(), in_one_file) {
            options.set("subformat", layout);
        }
        let known = |key| self.descriptor.ddb(key).filter(|value| !value.is_empty());
        if let Some(adapter) = known("ddb.adapterType") {
            options.set("adapter_type", adapter);
        }
        for (name, key) in
            [("hwversion", "ddb.virtualHWVersion"), ("toolsversion", "ddb.toolsVersion")]
        {
            if let Some(version) = known(key).filter(|version| write::is_version(version)) {
                options.set(name, version);
            }
        }
        if self.parts.parts.iter().any(VmdkExtent::has_zeroed_grains) {
            options.set("zeroed_grain", "on");
        }
        options
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        let mut counts = CheckReport::default();
        for part in &self.parts.parts {
            part.check(&self.parts.files, report, &mut counts)?;
        }
        Ok(Some(counts))
    }
}
