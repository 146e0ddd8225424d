//! Reading VHDX.

use super::header::{Header, Headers};
use super::metadata::Metadata;
use super::region::Regions;
use crate::error::{Error, Result};
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer};
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::report::info::Details;
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// A VHDX image.
#[derive(Debug)]
pub(crate) struct Vhdx {
    files: [Arc<dyn Source>; 1],
    header: Header,
    regions: Regions,
    metadata: Metadata,
}

impl Vhdx {
    pub(super) fn open(source: Arc<dyn Source>, _: &OpenContext<'_>) -> Result<Self> {
        let headers = Headers::read(&*source)?;
        let (_, header) = headers.choose()?;
        let (regions, _) = Regions::read(&*source, &header.log_range)?;
        let metadata = Metadata::read(&*source, &regions.metadata)?;
        Ok(Self { files: [source], header, regions, metadata })
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

    fn map(&self, _: Range<u64>, _: &mut Vec<Extent>) -> Result<()> {
        Err(Error::unsupported("VHDX"))
    }

    fn details(&self) -> Details {
        Details { cluster_size: Some(self.metadata.block_bytes), ..Details::default() }
    }
}
