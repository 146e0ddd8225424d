//! Writing the flat layouts: monolithicFlat, twoGbMaxExtentFlat and ESXi's
//! vmfs. The descriptor is the main file; every guest byte is at its own offset
//! in one of the others.

use super::descriptor::NewDescriptor;
use super::extents::Cut;
use super::{empty, write_descriptor};
use crate::error::{Error, Result};
use crate::formats::vmdk::SECTOR;
use crate::model::flat::{FlatFile, Preallocation};
use crate::model::layer::DiskLayout;
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// A flat image being written.
#[derive(Debug)]
pub(super) struct FlatTarget {
    main: Arc<dyn Sink>,
    /// Of the extents, in order.
    files: Vec<Arc<dyn Sink>>,
    extents: Vec<FlatFile>,
    cut: Cut,
    descriptor: NewDescriptor,
    /// Of the guest's bytes.
    digest: u64,
}

impl FlatTarget {
    /// Starts an image whose descriptor goes to `main`.
    ///
    /// # Errors
    /// As [`FlatFile::start`].
    pub(super) fn start(
        main: Arc<dyn Sink>,
        files: Vec<Arc<dyn Sink>>,
        cut: Cut,
        descriptor: NewDescriptor,
        preallocation: Preallocation,
    ) -> Result<Self> {
        empty(&*main)?;
        let start = |(sink, sectors): (&Arc<dyn Sink>, u64)| {
            FlatFile::start(Arc::clone(sink), sectors * SECTOR, preallocation)
        };
        let extents = files.iter().zip(cut.extents()).map(start).collect::<Result<_>>()?;
        Ok(Self { main, files, extents, cut, descriptor, digest: 0 })
    }
}

impl Target for FlatTarget {
    fn disk_layout(&self) -> DiskLayout {
        DiskLayout { size: self.cut.size(), cluster_size: FlatFile::BLOCK }
    }

    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn alignment(&self) -> u64 {
        FlatFile::BLOCK
    }

    fn place(&mut self, at: u64, unit: Allocate<'_>) -> Result<Option<Slot>> {
        match unit {
            Allocate::Zero { len } => {
                for part in self.cut.parts(at, len)? {
                    self.extents[part.extent].write_zeros(part.at, part.len)?;
                }
                Ok(None)
            }
            Allocate::Data { len } => {
                let part = self.cut.first(at, len)?;
                Ok(Some(Slot { file: part.extent, offset: part.at, len: part.len }))
            }
            Allocate::Compressed(_) => Err(Error::invalid("a flat extent stores nothing encoded")),
        }
    }

    fn wants_digest(&self) -> bool {
        true
    }

    fn take_digest(&mut self, digest: u64) {
        self.digest = digest;
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.extents.iter().try_for_each(FlatFile::finish)?;
        write_descriptor(&*self.main, &self.descriptor.text(self.digest))
    }
}
