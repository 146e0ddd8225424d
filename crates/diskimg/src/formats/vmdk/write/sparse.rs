//! Writing monolithicSparse and twoGbMaxExtentSparse: one sparse extent that embeds the descriptor,
//! or several extents and a separate descriptor. An empty streamOptimized image is the former.

use super::descriptor::NewDescriptor;
use super::extents::ExtentSplit;
use super::sparse_extent::{ExtentKind, SparseExtentWriter};
use super::subformat::Subformat;
use super::{truncate, write_descriptor};
use crate::error::{Error, Result};
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// A sparse image being written.
#[derive(Debug)]
pub(super) struct SparseTarget {
    /// The descriptor's file; `None` if the descriptor is embedded in the only extent.
    main: Option<Arc<dyn Sink>>,
    /// The extents' files, in order.
    files: Vec<Arc<dyn Sink>>,
    extents: Vec<SparseExtentWriter>,
    split: ExtentSplit,
    descriptor: NewDescriptor,
    /// Digest of the guest bytes.
    digest: u64,
}

impl SparseTarget {
    /// Starts an image whose descriptor goes to `main` or, without one, is embedded.
    ///
    /// # Errors
    /// As [`SparseExtentWriter::start`].
    pub(super) fn start(
        main: Option<Arc<dyn Sink>>,
        files: Vec<Arc<dyn Sink>>,
        split: ExtentSplit,
        descriptor: NewDescriptor,
        zeroed_grains: bool,
    ) -> Result<Self> {
        if let Some(main) = &main {
            truncate(&**main)?;
        }
        let kind = ExtentKind {
            embedded: main.is_none(),
            zeroed_grains,
            compressed: descriptor.subformat == Subformat::StreamOptimized,
        };
        let start = |(sink, sectors): (&Arc<dyn Sink>, u64)| {
            SparseExtentWriter::start(Arc::clone(sink), sectors, kind)
        };
        let extents = files.iter().zip(split.extents()).map(start).collect::<Result<_>>()?;
        Ok(Self { main, files, extents, split, descriptor, digest: 0 })
    }
}

impl Target for SparseTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            // Zeros are stored only if they hide the parent's data.
            Allocate::Zero { .. } if self.descriptor.parent.is_none() => Ok(None),
            Allocate::Zero { len } => {
                for run in self.split.runs(at, len)? {
                    self.extents[run.extent].store_zeros(run.at, run.len)?;
                }
                Ok(None)
            }
            Allocate::Backed { .. } => Ok(None),
            Allocate::Data { len } => {
                let run = self.split.first_run(at, len)?;
                let offset = self.extents[run.extent].store(run.at, run.len)?;
                Ok(Some(Slot { file: run.extent, offset, len: run.len, is_zeroed: false }))
            }
            Allocate::Compressed { .. } => {
                Err(Error::invalid("a sparse extent cannot store compressed grains"))
            }
        }
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
