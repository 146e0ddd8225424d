//! Reading VDI.

use super::blocks::{Blocks, is_index};
use super::header::{Header, ImageType};
use super::{check, parent};
use crate::error::Result;
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

/// A VDI image.
#[derive(Debug)]
pub(crate) struct Vdi {
    files: [Arc<dyn Source>; 1],
    header: Header,
    blocks: Blocks,
    parent: Option<ParentReference>,
}

impl Vdi {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let header = Header::read(&*source)?;
        let parent = match header.image_type.has_parent() {
            true => Some(parent::locate(&header, &*source, context)?),
            false => None,
        };
        let blocks = Blocks::open(&*source, &header, context)?;
        Ok(Self { files: [source], header, blocks, parent })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn blocks(&self) -> &Blocks {
        &self.blocks
    }
}

impl Sealed for Vdi {}

impl Layer for Vdi {
    fn format(&self) -> Format {
        Format::Vdi
    }

    fn disk_layout(&self) -> DiskLayout {
        DiskLayout { size: self.header.disk_size(), cluster_size: self.header.block_bytes }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        self.blocks.next_allocated_hint(range)
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        self.blocks.map(range, out)
    }

    fn is_preallocated(&self) -> bool {
        self.header.image_type == ImageType::Static
    }

    fn parent(&self) -> Option<&ParentReference> {
        self.parent.as_ref()
    }

    fn content_ids(&self) -> Vec<String> {
        parent::content_ids(&self.header)
    }

    fn parent_content_id(&self) -> Option<String> {
        self.parent.as_ref().and_then(|_| parent::wanted_content_id(&self.header))
    }

    fn details(&self) -> Details {
        let header = &self.header;
        let mut specific = vec![
            ("subformat", Value::from(header.image_type.name())),
            ("uuid", Value::Text(header.uuid.to_string())),
            ("modification-uuid", Value::Text(header.modification.to_string())),
        ];
        if header.image_type.has_parent() {
            specific.push(("parent-uuid", Value::Text(header.parent.to_string())));
            if !header.parent_modification.is_nil() {
                let id = header.parent_modification.to_string();
                specific.push(("parent-modification-uuid", Value::Text(id)));
            }
        }
        Details {
            cluster_size: Some(header.block_bytes),
            specific,
            children: vec![("file".into(), 0)],
            notes: self.warnings(),
            ..Details::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let (recorded, size) = (self.header.size, self.header.disk_size());
        if recorded != size {
            warnings.push(format!(
                "the size of the disk is {recorded} bytes, not whole sectors: rounded up to {size}"
            ));
        }
        warnings
    }

    fn create_options(&self) -> Options {
        let mut options = Options::default();
        if self.header.image_type == ImageType::Static {
            options.set("static", "on");
        }
        options
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        check::check(self, report).map(Some)
    }
}

impl Vdi {
    /// Returns the number of blocks that are allocated.
    pub(super) fn allocated(&self) -> u64 {
        let is_allocated = |&&entry: &&u32| is_index(entry);
        crate::storage::number::to_u64(self.blocks.map.iter().filter(is_allocated).count())
    }
}
