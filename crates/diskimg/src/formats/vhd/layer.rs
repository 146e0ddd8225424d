//! Reading VHD.

use super::blocks::Blocks;
use super::footer::{DiskType, Footer, Footers};
use super::header::Header;
use super::{check, parent};
use crate::error::{Error, Result};
use crate::model::extent::{Extent, HostOffset, Kind, push};
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

/// A VHD image.
#[derive(Debug)]
pub(crate) struct Vhd {
    files: [Arc<dyn Source>; 1],
    footer: Footer,
    /// Size of the disk in bytes.
    size: u64,
    /// `None` for a fixed disk.
    dynamic: Option<Dynamic>,
    parent: Option<ParentReference>,
    /// What is wrong with one of the copies of the footer.
    damage: Option<String>,
}

/// What a dynamic or differencing disk has in addition.
#[derive(Debug)]
struct Dynamic {
    header: Header,
    blocks: Blocks,
    /// What is wrong with the header, if it is used nevertheless.
    damage: Option<String>,
}

impl Vhd {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let footers = Footers::read(&*source)?;
        let data_end = footers.data_end(&*source);
        let damage = footers.damage();
        let footer =
            footers.choose(context.tolerates_damage() || context.salvage, context.like_qemu)?;
        let size = size(&footer, context);
        if footer.disk_type == DiskType::Fixed {
            if size > data_end {
                let message =
                    format!("the disk has {size} bytes, but only {data_end} precede the footer");
                return Err(Error::corrupt("VHD footer", message)
                    .at(data_end.saturating_add(48))
                    .hint("the file is probably truncated"));
            }
            return Ok(Self { files: [source], footer, size, dynamic: None, parent: None, damage });
        }
        let header_at = footer.header_at.unwrap_or(u64::MAX);
        let (header, header_damage) = match context.tolerates_damage() {
            true => Header::read_damaged(&*source, header_at)?,
            false => (Header::read(&*source, header_at)?, None),
        };
        let differencing = footer.disk_type == DiskType::Differencing;
        let parent = match differencing {
            true => Some(parent::locate(&header, &*source, context)?),
            false => None,
        };
        let blocks = Blocks::open(
            Arc::clone(&source),
            &header,
            header_at,
            data_end,
            size,
            differencing,
            context,
        )?;
        let dynamic = Some(Dynamic { header, blocks, damage: header_damage });
        Ok(Self { files: [source], footer, size, dynamic, parent, damage })
    }

    pub(super) fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Returns the blocks; `None` for a fixed disk.
    pub(super) fn blocks(&self) -> Option<&Blocks> {
        self.dynamic.as_ref().map(|dynamic| &dynamic.blocks)
    }

    /// Returns the dynamic header and the blocks; `None` for a fixed disk.
    pub(super) fn dynamic(&self) -> Option<(&Header, &Blocks)> {
        self.dynamic.as_ref().map(|dynamic| (&dynamic.header, &dynamic.blocks))
    }

    /// Returns what is wrong with one of the copies of the footer.
    pub(super) fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// Returns what is wrong with the dynamic header, if it is used nevertheless.
    pub(super) fn header_damage(&self) -> Option<&str> {
        self.dynamic.as_ref()?.damage.as_deref()
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.warnings();
        notes.extend(self.header_damage().map(str::to_owned));
        if self.footer.saved_state {
            notes.push("the virtual machine was suspended, not shut down".into());
        }
        notes
    }
}

/// Returns the size of the disk: the one in the footer. QEMU takes that of the geometry for disks of
/// some programs, which may be smaller.
fn size(footer: &Footer, context: &OpenContext<'_>) -> u64 {
    let by_geometry = context.like_qemu && footer.qemu_uses_geometry();
    if by_geometry { footer.geometry.bytes() } else { footer.current_size }
}

impl Sealed for Vhd {}

impl Layer for Vhd {
    fn format(&self) -> Format {
        Format::Vhd
    }

    fn disk_layout(&self) -> DiskLayout {
        let cluster_size = self.blocks().map_or(1, |blocks| blocks.block_bytes);
        DiskLayout { size: self.size, cluster_size }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        match self.blocks() {
            Some(blocks) => blocks.next_allocated_hint(range),
            None => range.start,
        }
    }

    fn prefetch_tables(&self, range: Range<u64>) {
        if let Some(blocks) = self.blocks() {
            blocks.prefetch_tables(range);
        }
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        match self.blocks() {
            Some(blocks) => blocks.map(range, out),
            None => {
                let host = HostOffset { file: 0, offset: range.start };
                push(out, range, Kind::Data(host));
                Ok(())
            }
        }
    }

    fn is_preallocated(&self) -> bool {
        self.dynamic.is_none()
    }

    fn parent(&self) -> Option<&ParentReference> {
        self.parent.as_ref()
    }

    fn content_ids(&self) -> Vec<String> {
        vec![self.footer.uuid.to_string()]
    }

    fn parent_content_id(&self) -> Option<String> {
        let dynamic = self.dynamic.as_ref().filter(|_| self.parent.is_some())?;
        Some(dynamic.header.parent_uuid.to_string())
    }

    fn details(&self) -> Details {
        let mut specific = vec![
            ("subformat", Value::from(self.footer.disk_type.name())),
            ("creator", Value::Text(self.footer.creator.escape_ascii().to_string())),
            ("uuid", Value::Text(self.footer.uuid.to_string())),
        ];
        if let Some(id) = self.parent_content_id() {
            specific.push(("parent-uuid", Value::Text(id)));
        }
        Details {
            cluster_size: self.blocks().map(|blocks| blocks.block_bytes),
            specific,
            children: vec![("file".into(), 0)],
            notes: self.notes(),
            ..Details::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<_> = self.damage.iter().cloned().collect();
        let (geometry, current) = (self.footer.geometry.bytes(), self.footer.current_size);
        if self.footer.qemu_uses_geometry() && geometry != current {
            let used =
                if self.size == current { "the latter is used" } else { "the former is used" };
            warnings.push(format!(
                "the size of the disk is {geometry} bytes by its geometry, which QEMU uses, and \
                 {current} by its footer: {used}"
            ));
        }
        warnings
    }

    fn create_options(&self) -> Options {
        let mut options = Options::default();
        options.set("subformat", if self.dynamic.is_some() { "dynamic" } else { "fixed" });
        options
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        check::check(self, report).map(Some)
    }
}
