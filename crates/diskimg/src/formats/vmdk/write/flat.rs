//! Writing the flat layouts: monolithicFlat, twoGbMaxExtentFlat and ESXi's vmfs. The main file is
//! the descriptor; each extent file stores its guest bytes verbatim.

use super::descriptor::NewDescriptor;
use super::extents::ExtentSplit;
use super::{truncate, write_descriptor};
use crate::error::{Error, Result};
use crate::formats::vmdk::SECTOR;
use crate::model::flat::{FlatFile, Preallocation};
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// A flat image being written.
#[derive(Debug)]
pub(super) struct FlatTarget {
    main: Arc<dyn Sink>,
    /// The extents' files, in order.
    files: Vec<Arc<dyn Sink>>,
    extents: Vec<FlatFile>,
    split: ExtentSplit,
    descriptor: NewDescriptor,
    /// Digest of the guest bytes.
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
        split: ExtentSplit,
        descriptor: NewDescriptor,
        preallocation: Preallocation,
    ) -> Result<Self> {
        truncate(&*main)?;
        let start = |(sink, sectors): (&Arc<dyn Sink>, u64)| {
            FlatFile::start(Arc::clone(sink), sectors * SECTOR, preallocation)
        };
        let extents = files.iter().zip(split.extents()).map(start).collect::<Result<_>>()?;
        Ok(Self { main, files, extents, split, descriptor, digest: 0 })
    }
}

impl Target for FlatTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            Allocate::Zero { len } => {
                for run in self.split.runs(at, len)? {
                    self.extents[run.extent].write_zeros(run.at, run.len)?;
                }
                Ok(None)
            }
            Allocate::Data { len } => {
                let run = self.split.first_run(at, len)?;
                Ok(Some(Slot { file: run.extent, offset: run.at, len: run.len, is_zeroed: false }))
            }
            Allocate::Backed { .. } => Err(Error::invalid("a flat extent has no backing file")),
            Allocate::Compressed { .. } => {
                Err(Error::invalid("a flat extent cannot store compressed data"))
            }
        }
    }

    fn take_digest(&mut self, digest: u64) {
        self.digest = digest;
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.extents.iter().try_for_each(FlatFile::finish)?;
        write_descriptor(&*self.main, &self.descriptor.text(self.digest))
    }
}
