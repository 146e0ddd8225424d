//! Writing a fixed disk: all blocks have their place, in the order of the disk.

use super::table::TableWriter;
use super::{NewFile, VhdxSpec};
use crate::error::{Error, Result};
use crate::formats::vhdx::bat::{Entry, State};
use crate::model::flat::FlatFile;
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// A fixed disk being written.
#[derive(Debug)]
pub(super) struct FixedTarget {
    new: NewFile,
    file: FlatFile,
    spec: VhdxSpec,
    /// `None` if the disk is created empty.
    digest: Option<u64>,
}

impl FixedTarget {
    /// Starts a disk.
    ///
    /// # Errors
    /// As [`FlatFile::start`], and [`Io`](crate::ErrorKind::Io) if writing fails.
    pub(super) fn start(sink: Arc<dyn Sink>, spec: &VhdxSpec) -> Result<Self> {
        let layout = &spec.layout;
        let len = layout.len(layout.table.blocks);
        let file = FlatFile::start(Arc::clone(&sink), len, spec.preallocation)?;
        file.write_zeros(0, layout.blocks_at())?;
        Ok(Self { new: NewFile([sink]), file, spec: spec.clone(), digest: None })
    }
}

impl Target for FixedTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.new.0
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        let offset = self.spec.layout.blocks_at() + at;
        match unit {
            Allocate::Zero { len } => self.file.write_zeros(offset, len).map(|()| None),
            Allocate::Data { len } => Ok(Some(Slot { file: 0, offset, len, is_zeroed: false })),
            Allocate::Backed { .. } => Err(Error::invalid("a fixed disk has no backing file")),
            Allocate::Compressed { .. } => {
                Err(Error::invalid("a VHDX cannot store compressed units"))
            }
        }
    }

    fn take_digest(&mut self, digest: u64) {
        self.digest = Some(digest);
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let layout = &self.spec.layout;
        let (end, len) = (layout.blocks_at() + self.spec.size(), layout.len(layout.table.blocks));
        if end < len {
            self.file.write_zeros(end, len - end)?;
        }
        self.file.finish()?;
        let mut table = TableWriter::new(layout, State::NotPresent);
        for block in 0..layout.table.blocks {
            let entry = Entry { state: State::Full, offset: layout.len(block) };
            table.put(self.new.sink(), layout.table.entry_of_block(block), entry)?;
        }
        table.finish(self.new.sink())?;
        self.spec.write_headers(self.new.sink(), self.digest)
    }
}
