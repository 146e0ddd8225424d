//! Reading sparse images.

use super::bands::Bands;
use super::check;
use super::header::{FLAGS, Header};
use crate::error::Result;
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer};
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::report::check::{CheckReport, Finding};
use crate::report::info::{Details, Value};
use crate::storage::number::to_u64;
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// A sparse image.
#[derive(Debug)]
pub(crate) struct SparseImage {
    files: [Arc<dyn Source>; 1],
    header: Header,
    bands: Bands,
}

impl SparseImage {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let (header, slots) = Header::read(&*source)?;
        let bands = Bands::open(&*source, &header, slots, context.limits)?;
        Ok(Self { files: [source], header, bands })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn bands(&self) -> &Bands {
        &self.bands
    }
}

impl Sealed for SparseImage {}

impl Layer for SparseImage {
    fn format(&self) -> Format {
        Format::Sparseimage
    }

    fn disk_layout(&self) -> DiskLayout {
        // The size of a band need not be a power of two.
        let cluster_size = 1 << self.header.band_bytes.trailing_zeros();
        DiskLayout { size: self.header.size, cluster_size }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        self.bands.next_allocated_hint(range)
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        self.bands.map(range, out)
    }

    fn details(&self) -> Details {
        let stored = to_u64(self.bands.stored().len());
        Details {
            cluster_size: Some(self.header.band_bytes),
            specific: vec![("bands", Value::from(stored))],
            children: vec![("file".into(), 0)],
            notes: self.warnings(),
            ..Details::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        match self.header.flags {
            FLAGS => Vec::new(),
            flags => vec![format!("the header has unknown flags ({flags:#x}), which are ignored")],
        }
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        check::check(self, report).map(Some)
    }
}
