//! Writing a static image: all blocks are in the order of the disk.

use super::{BLOCK, Layout, VdiSpec, write_metadata, write_zeros};
use crate::error::{Error, Result};
use crate::model::flat::FlatFile;
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::number::to_u32;
use crate::storage::sink::Sink;
use std::sync::Arc;

/// A static image being written.
#[derive(Debug)]
pub(super) struct StaticTarget {
    files: [Arc<dyn Sink>; 1],
    file: FlatFile,
    spec: VdiSpec,
    layout: Layout,
    digest: u64,
}

impl StaticTarget {
    /// Starts an image.
    ///
    /// # Errors
    /// As [`FlatFile::start`].
    pub(super) fn start(sink: Arc<dyn Sink>, spec: &VdiSpec, layout: Layout) -> Result<Self> {
        let len = layout.block_at(layout.blocks);
        let file = FlatFile::start(Arc::clone(&sink), len, spec.preallocation)?;
        if !sink.is_zeroed() {
            write_zeros(&*sink, 0, layout.data_at)?;
        }
        Ok(Self { files: [sink], file, spec: spec.clone(), layout, digest: 0 })
    }
}

impl Target for StaticTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        let offset = self.layout.data_at + at;
        match unit {
            Allocate::Zero { len } => self.file.write_zeros(offset, len).map(|()| None),
            Allocate::Data { len } => Ok(Some(Slot { file: 0, offset, len, is_zeroed: false })),
            Allocate::Backed { .. } => Err(Error::invalid("a static image has no backing file")),
            Allocate::Compressed { .. } => {
                Err(Error::invalid("a VDI cannot store compressed units"))
            }
        }
    }

    fn take_digest(&mut self, digest: u64) {
        self.digest = digest;
    }

    fn finish(self: Box<Self>) -> Result<()> {
        // The disk may end within the last block.
        let rest = self.layout.blocks * BLOCK - self.spec.size;
        self.file.write_zeros(self.layout.data_at + self.spec.size, rest)?;
        self.file.finish()?;
        let header = self.spec.header(self.layout.blocks, self.digest);
        write_metadata(&*self.files[0], 0..to_u32(self.layout.blocks), &header)
    }
}
