//! Reading VHDX.

use super::blocks::Blocks;
use super::guid::Guid;
use super::header::{self, Header, Headers};
use super::metadata::Metadata;
use super::region::Regions;
use super::{check, log, parent};
use crate::error::{ErrorKind, Result};
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer, ParentReference};
use crate::model::options::Options;
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::report::check::{CheckReport, Finding};
use crate::report::info::{Details, Value};
use crate::storage::number::to_u64;
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// A VHDX image.
#[derive(Debug)]
pub(crate) struct Vhdx {
    /// The file, with the changes of its log.
    files: [Arc<dyn Source>; 1],
    header: Header,
    metadata: Metadata,
    blocks: Blocks,
    /// Name of the program that created the file.
    creator: String,
    /// Number of entries of the log that are not in their places.
    log_entries: usize,
    /// Why the log cannot be applied. What is read may be inconsistent.
    log_damage: Option<String>,
    /// What is wrong with a structure that has a valid copy.
    damage: Vec<String>,
    parent: Option<ParentReference>,
    /// The identifier that the parent must have.
    linkage: Option<Guid>,
}

impl Vhdx {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let headers = Headers::read(&*source)?;
        let mut damage: Vec<_> = headers.damage().into_iter().collect();
        let (_, header) = headers.choose()?;
        let tolerates_damage = context.tolerates_damage() || context.salvage;
        let (mut source, mut log_entries, mut log_damage) = (source, 0, None);
        match log::replay(&source, &header) {
            Ok(None) => {}
            Ok(Some(overlay)) => {
                log_entries = overlay.entries();
                source = Arc::new(overlay);
            }
            Err(error) if tolerates_damage && error.kind() == ErrorKind::Corrupt => {
                log_damage = Some(error.without_remedy());
            }
            Err(error) => return Err(error),
        }
        let (regions, regions_damage) = Regions::read(&*source, &header.log_range)?;
        damage.extend(regions_damage);
        let metadata = Metadata::read(&*source, &regions.metadata)?;
        let creator = header::creator(&*source);
        let is_of_qemu = creator.starts_with("QEMU");
        let blocks =
            Blocks::new(Arc::clone(&source), &metadata, &regions, &header.log_range, is_of_qemu)?;
        let (parent, linkage) = match &metadata.parent {
            Some(locator) => {
                let (parent, linkage) = parent::locate(locator, context)?;
                (Some(parent), linkage)
            }
            None => (None, None),
        };
        Ok(Self {
            files: [source],
            header,
            metadata,
            blocks,
            creator,
            log_entries,
            log_damage,
            damage,
            parent,
            linkage,
        })
    }

    pub(super) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(super) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Returns the file, with the changes of its log.
    pub(super) fn source(&self) -> &Arc<dyn Source> {
        &self.files[0]
    }

    /// Returns the number of entries of the log that are not in their places.
    pub(super) fn log_entries(&self) -> usize {
        self.log_entries
    }

    /// Returns why the log cannot be applied.
    pub(super) fn log_damage(&self) -> Option<&str> {
        self.log_damage.as_deref()
    }

    /// Returns what is wrong with structures that have a valid copy.
    pub(super) fn damage(&self) -> &[String] {
        &self.damage
    }

    fn subformat(&self) -> &'static str {
        match (&self.metadata.parent, self.metadata.leaves_blocks_allocated) {
            (Some(_), _) => "differencing",
            (None, true) => "fixed",
            (None, false) => "dynamic",
        }
    }
}

impl Sealed for Vhdx {}

impl Layer for Vhdx {
    fn format(&self) -> Format {
        Format::Vhdx
    }

    fn disk_layout(&self) -> DiskLayout {
        DiskLayout { size: self.metadata.size, cluster_size: self.metadata.block_bytes }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        self.blocks.next_allocated_hint(range)
    }

    fn prefetch_tables(&self, range: Range<u64>) {
        self.blocks.prefetch_tables(range);
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        self.blocks.map(range, out)
    }

    fn is_preallocated(&self) -> bool {
        self.metadata.leaves_blocks_allocated
    }

    fn parent(&self) -> Option<&ParentReference> {
        self.parent.as_ref()
    }

    fn content_ids(&self) -> Vec<String> {
        vec![self.header.data_write.to_string()]
    }

    fn parent_content_id(&self) -> Option<String> {
        self.linkage.map(|guid| guid.to_string())
    }

    fn disk_id(&self) -> Option<String> {
        Some(self.metadata.disk_id.to_string())
    }

    fn sector_sizes(&self) -> Option<[u64; 2]> {
        Some([self.metadata.logical, self.metadata.physical])
    }

    fn details(&self) -> Details {
        let mut specific = vec![
            ("subformat", Value::from(self.subformat())),
            ("creator", Value::Text(self.creator.clone())),
            ("disk-id", Value::Text(self.metadata.disk_id.to_string())),
            ("data-write-guid", Value::Text(self.header.data_write.to_string())),
            ("logical-sector-size", Value::Number(self.metadata.logical)),
            ("physical-sector-size", Value::Number(self.metadata.physical)),
        ];
        if let Some(id) = self.parent_content_id() {
            specific.push(("parent-data-write-guid", Value::Text(id)));
        }
        if self.log_entries > 0 {
            specific.push(("log-entries", Value::Number(to_u64(self.log_entries))));
        }
        let mut notes = self.warnings();
        if self.log_entries > 0 {
            notes.push(format!(
                "the log has {} entries with changes that are not in their places yet: the image is \
                 read as if they were",
                self.log_entries
            ));
        }
        Details {
            cluster_size: Some(self.metadata.block_bytes),
            dirty: self.log_entries > 0 || self.log_damage.is_some(),
            specific,
            children: vec![("file".into(), 0)],
            notes,
            ..Details::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.log_damage.iter().chain(&self.damage).cloned().collect()
    }

    fn create_options(&self) -> Options {
        let mut options = Options::default();
        let fixed = self.metadata.leaves_blocks_allocated;
        options.set("subformat", if fixed { "fixed" } else { "dynamic" });
        options.set("block_size", self.metadata.block_bytes.to_string());
        options
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        check::check(self, report).map(Some)
    }
}
