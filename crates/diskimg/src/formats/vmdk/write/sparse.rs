//! Writing monolithicSparse and twoGbMaxExtentSparse: one sparse extent with
//! the descriptor in it, or several beside their descriptor.

use super::descriptor::NewDescriptor;
use super::extents::Cut;
use super::sparse_extent::SparseExtentWriter;
use super::{GRAIN_SECTORS, empty, write_descriptor};
use crate::error::{Error, Result};
use crate::formats::vmdk::SECTOR;
use crate::model::layer::DiskLayout;
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// A sparse image being written.
#[derive(Debug)]
pub(super) struct SparseTarget {
    /// The main file, if the descriptor is not embedded in the one extent.
    main: Option<Arc<dyn Sink>>,
    /// Of the extents, in order.
    files: Vec<Arc<dyn Sink>>,
    extents: Vec<SparseExtentWriter>,
    cut: Cut,
    descriptor: NewDescriptor,
    /// Of the guest's bytes.
    digest: u64,
}

impl SparseTarget {
    /// Starts an image whose descriptor goes to `main`, or is embedded.
    ///
    /// # Errors
    /// As [`SparseExtentWriter::start`].
    pub(super) fn start(
        main: Option<Arc<dyn Sink>>,
        files: Vec<Arc<dyn Sink>>,
        cut: Cut,
        descriptor: NewDescriptor,
        zeroed_grains: bool,
    ) -> Result<Self> {
        if let Some(main) = &main {
            empty(&**main)?;
        }
        let embedded = main.is_none();
        let start = |(sink, sectors): (&Arc<dyn Sink>, u64)| {
            SparseExtentWriter::start(Arc::clone(sink), sectors, embedded, zeroed_grains)
        };
        let extents = files.iter().zip(cut.extents()).map(start).collect::<Result<_>>()?;
        Ok(Self { main, files, extents, cut, descriptor, digest: 0 })
    }
}

impl Target for SparseTarget {
    fn disk_layout(&self) -> DiskLayout {
        DiskLayout { size: self.cut.size(), cluster_size: GRAIN_SECTORS * SECTOR }
    }

    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn alignment(&self) -> u64 {
        GRAIN_SECTORS * SECTOR
    }

    fn place(&mut self, at: u64, unit: Allocate<'_>) -> Result<Option<Slot>> {
        match unit {
            // Nothing, unless there is a parent to be hidden.
            Allocate::Zero { .. } if self.descriptor.parent.is_none() => Ok(None),
            Allocate::Zero { len } => {
                for part in self.cut.parts(at, len)? {
                    self.extents[part.extent].store_zeros(part.at, part.len)?;
                }
                Ok(None)
            }
            Allocate::Data { len } => {
                let part = self.cut.first(at, len)?;
                let offset = self.extents[part.extent].store(part.at, part.len)?;
                Ok(Some(Slot { file: part.extent, offset, len: part.len }))
            }
            Allocate::Compressed(_) => {
                Err(Error::invalid("a sparse extent stores nothing encoded"))
            }
        }
    }

    fn wants_digest(&self) -> bool {
        true
    }

    fn take_digest(&mut self, digest: u64) {
        self.digest = digest;
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        if self.main.is_none() {
            let descriptor = self.descriptor.embedded(self.digest);
            self.extents.iter().try_for_each(|extent| extent.write_descriptor(&descriptor))?;
        }
        self.extents.iter_mut().try_for_each(SparseExtentWriter::finish)?;
        match &self.main {
            Some(main) => write_descriptor(&**main, &self.descriptor.text(self.digest)),
            None => Ok(()),
        }
    }
}
