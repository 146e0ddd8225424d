//! Writing the flat layouts: monolithicFlat, twoGbMaxExtentFlat and ESXi's
//! vmfs. The descriptor is the main file; every guest byte is at its own offset
//! in one of the others.

use super::descriptor::NewDescriptor;
use super::extents::Cut;
use super::{empty, write_descriptor};
use crate::formats::vmdk::SECTOR;
use crate::host::sink::Sink;
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::flat::{FlatFile, Preallocation};
use crate::vocabulary::layer::Geometry;
use crate::vocabulary::target::{Slot, Target, Unit};
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
    fn geometry(&self) -> Geometry {
        Geometry { size: self.cut.size(), unit: FlatFile::BLOCK }
    }

    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn alignment(&self) -> u64 {
        FlatFile::BLOCK
    }

    fn place(&mut self, at: u64, unit: Unit<'_>) -> Result<Option<Slot>> {
        match unit {
            Unit::Zero { len } => {
                for part in self.cut.parts(at, len)? {
                    self.extents[part.extent].write_zeros(part.at, part.len)?;
                }
                Ok(None)
            }
            Unit::Stored { len } => {
                let part = self.cut.first(at, len)?;
                Ok(Some(Slot { file: part.extent, offset: part.at, len: part.len }))
            }
            Unit::Encoded(_) => Err(Error::invalid("a flat extent stores nothing encoded")),
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
