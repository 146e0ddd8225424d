//! Reading QED.

use super::header::{Features, Header};
use crate::error::Result;
use crate::formats::two_level::{Tables, check};
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer, ParentLocator, ParentReference};
use crate::model::options::Options;
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::report::check::{CheckReport, Finding};
use crate::report::info::Details;
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// A QED image.
#[derive(Debug)]
pub(super) struct Qed {
    files: [Arc<dyn Source>; 1],
    pub(super) header: Header,
    pub(super) tables: Tables,
    parent: Option<ParentReference>,
    /// Memory that a check may use in bytes.
    check_bytes: u64,
}

impl Qed {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let header = Header::read(&*source)?;
        let location = header.location.clone();
        let tables = Tables::open(Arc::clone(&source), location, context.limits)?;
        let is_raw = header.features.contains(Features::BACKING_IS_RAW);
        let parent = header.backing.clone().map(|name| ParentReference {
            name,
            locator: ParentLocator::ByName,
            format: is_raw.then(|| Format::Raw.name().to_owned()),
        });
        let check_bytes = context.limits.check_bytes;
        Ok(Self { files: [source], header, tables, parent, check_bytes })
    }
}

impl Sealed for Qed {}

impl Layer for Qed {
    fn format(&self) -> Format {
        Format::Qed
    }

    fn disk_layout(&self) -> DiskLayout {
        let location = &self.header.location;
        DiskLayout { size: location.size, cluster_size: location.layout.cluster_size() }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        self.tables.map(range, out)
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        self.tables.next_allocated_hint(range)
    }

    fn prefetch_tables(&self, range: Range<u64>) {
        self.tables.prefetch_tables(range);
    }

    fn parent(&self) -> Option<&ParentReference> {
        self.parent.as_ref()
    }

    fn details(&self) -> Details {
        let dirty = self.header.features.contains(Features::NEED_CHECK);
        let note = "the image was not closed properly: it may have leaked clusters";
        Details {
            cluster_size: Some(self.header.location.layout.cluster_size()),
            dirty,
            children: vec![("file".into(), 0)],
            notes: dirty.then(|| note.to_owned()).into_iter().collect(),
            ..Details::default()
        }
    }

    fn create_options(&self) -> Options {
        let layout = self.header.location.layout;
        let mut options = Options::default();
        options
            .set("cluster_size", layout.cluster_size().to_string())
            .set("table_size", (layout.table_bytes() / layout.cluster_size()).to_string());
        options
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        let counts = check::check(&self.tables, self.check_bytes, report)?;
        // QEMU does not state it.
        Ok(Some(CheckReport { image_end_offset: None, ..counts }))
    }
}
