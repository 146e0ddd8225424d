//! Reading cloop.

use super::blocks::Blocks;
use super::check;
use super::header::Header;
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

/// A cloop image.
#[derive(Debug)]
pub(crate) struct Cloop {
    files: [Arc<dyn Source>; 1],
    pub(super) blocks: Blocks,
}

impl Cloop {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let header = Header::read(&*source, context.limits)?;
        let blocks = Blocks::new(header, source.len());
        Ok(Self { files: [source], blocks })
    }
}

impl Sealed for Cloop {}

impl Layer for Cloop {
    fn format(&self) -> Format {
        Format::Cloop
    }

    fn disk_layout(&self) -> DiskLayout {
        let header = self.blocks.header;
        // The largest power of two of which blocks are multiples.
        let cluster_size = 1 << header.block_bytes.trailing_zeros();
        DiskLayout { size: header.size(), cluster_size }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        self.blocks.map(&*self.files[0], range, out)
    }

    fn details(&self) -> Details {
        Details {
            specific: vec![("block-size", Value::from(self.blocks.header.block_bytes))],
            children: vec![("file".into(), 0)],
            ..Details::default()
        }
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        check::check(self, report).map(Some)
    }
}
