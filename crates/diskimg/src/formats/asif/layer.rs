//! Reading ASIF.

use super::check;
use super::chunks::Chunks;
use crate::error::Result;
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer};
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::report::check::{CheckReport, Finding};
use crate::report::info::{Details, Value};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// An ASIF image.
#[derive(Debug)]
pub(crate) struct Asif {
    files: [Arc<dyn Source>; 1],
    chunks: Chunks,
    /// Bytes of memory that the check may use.
    check_bytes: u64,
}

impl Asif {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let chunks = Chunks::open(Arc::clone(&source), context.limits)?;
        Ok(Self { files: [source], chunks, check_bytes: context.limits.check_bytes })
    }
}

impl Sealed for Asif {}

impl Layer for Asif {
    fn format(&self) -> Format {
        Format::Asif
    }

    fn disk_layout(&self) -> DiskLayout {
        let header = &self.chunks.header;
        DiskLayout { size: header.size, cluster_size: header.chunk_bytes }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        self.chunks.next_allocated_hint(range)
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        self.chunks.map(range, out)
    }

    fn sector_sizes(&self) -> Option<[u64; 2]> {
        Some([self.chunks.header.sector_bytes; 2])
    }

    fn details(&self) -> Details {
        let header = &self.chunks.header;
        Details {
            cluster_size: Some(header.chunk_bytes),
            specific: vec![
                ("uuid", Value::Text(header.uuid.to_string())),
                ("sector-size", Value::from(header.sector_bytes)),
                ("maximum-size", Value::from(header.max_size)),
                ("sequence-number", Value::from(self.chunks.directory.sequence)),
            ],
            children: vec![("file".into(), 0)],
            notes: self.warnings(),
            ..Details::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.chunks.header.flags != 0 {
            let flags = self.chunks.header.flags;
            warnings.push(format!("the header has unknown flags ({flags:#x}), which are ignored"));
        }
        if let Some(other) = &self.chunks.directory.other {
            warnings.push(format!(
                "one of the two directories cannot be used, so the disk may be in an older state: \
                 {other}"
            ));
        }
        warnings
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        check::check(&self.chunks, self.check_bytes, report).map(Some)
    }
}
