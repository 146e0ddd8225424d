//! Writing a dynamic or differencing image.
//!
//! Blocks are appended in guest order. In a differencing image, a block of zeros hides the parent's
//! and is recorded as such: if it were recorded as free, the parent's data would be back.

use super::{BLOCK, Layout, VdiSpec, write_metadata, write_zeros};
use crate::error::{Error, Result};
use crate::formats::vdi::blocks::{FREE, ZERO};
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::number::{to_u32, to_usize};
use crate::storage::sink::Sink;
use std::ops::Range;
use std::sync::Arc;

/// A dynamic or differencing image being written.
#[derive(Debug)]
pub(super) struct DynamicTarget {
    files: [Arc<dyn Sink>; 1],
    spec: VdiSpec,
    layout: Layout,
    /// The block map.
    map: Vec<u32>,
    /// Number of blocks that are allocated.
    allocated: u32,
    digest: u64,
}

impl DynamicTarget {
    /// Starts an image.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if writing fails.
    pub(super) fn start(sink: Arc<dyn Sink>, spec: &VdiSpec, layout: Layout) -> Result<Self> {
        if !sink.is_zeroed() {
            write_zeros(&*sink, 0, layout.data_at)?;
        }
        Ok(Self {
            files: [sink],
            spec: spec.clone(),
            layout,
            map: vec![FREE; to_usize(layout.blocks)],
            allocated: 0,
            digest: 0,
        })
    }

    /// Returns the entries of the blocks in which `range` is.
    fn entries(&mut self, range: &Range<u64>) -> &mut [u32] {
        let blocks = to_usize(range.start / BLOCK)..to_usize(range.end.div_ceil(BLOCK));
        self.map.get_mut(blocks).unwrap_or_default()
    }

    /// Allocates blocks for `range`, of which the first one may be allocated already. Blocks are
    /// allocated in ascending order, so that they are next to each other. Returns the host offset.
    fn allocate(&mut self, range: &Range<u64>) -> Result<u64> {
        let before = self.allocated;
        let mut next = before;
        for entry in self.entries(range) {
            if *entry == FREE {
                *entry = next;
                next += 1;
            }
        }
        self.allocated = next;
        if !self.files[0].is_zeroed() && before < next {
            let at = self.layout.block_at(before.into());
            write_zeros(&*self.files[0], at, u64::from(next - before) * BLOCK)?;
        }
        match self.entries(range).first() {
            Some(&first) => Ok(self.layout.block_at(first.into()) + range.start % BLOCK),
            None => Err(Error::invalid("the range is beyond the end of the disk")),
        }
    }
}

impl Target for DynamicTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            // Zeros are recorded only if they hide the parent's data.
            Allocate::Zero { len } if self.spec.parent.is_some() => {
                self.entries(&(at..at + len)).fill(ZERO);
                Ok(None)
            }
            Allocate::Zero { .. } | Allocate::Backed { .. } => Ok(None),
            Allocate::Data { len } => {
                let offset = self.allocate(&(at..at + len))?;
                Ok(Some(Slot { file: 0, offset, len, is_zeroed: true }))
            }
            Allocate::Compressed { .. } => {
                Err(Error::invalid("a VDI cannot store compressed units"))
            }
        }
    }

    fn take_digest(&mut self, digest: u64) {
        self.digest = digest;
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let len = self.layout.block_at(self.allocated.into());
        let sink = &*self.files[0];
        sink.set_len(len).map_err(|e| Error::io(format!("cannot set the length to {len}"), e))?;
        let header = self.spec.header(self.allocated.into(), self.digest);
        debug_assert_eq!(header.blocks, to_u32(self.map.len()));
        write_metadata(sink, self.map.iter().copied(), &header)
    }
}
