//! Writing the block allocation table from its start to its end.
//!
//! The table of a large disk with small blocks has 512 MiB: only a part of it is in memory, and
//! where it is zeros, nothing is written.

use super::{Layout, write};
use crate::error::Result;
use crate::formats::vhdx::bat::{Entry, State};
use crate::storage::number::to_u64;
use crate::storage::sink::Sink;

/// Size in bytes of the part that is in memory.
const BUFFER: usize = 256 << 10;

/// The table, whose entries are put in ascending order.
#[derive(Debug)]
pub(super) struct TableWriter {
    layout: Layout,
    /// The state of blocks that are not put.
    others: State,
    /// Index of the next entry.
    next: u64,
    /// The entries before it that are not written.
    buffer: Vec<u8>,
}

impl TableWriter {
    /// Starts the table. It reads as zeros where nothing is written.
    pub(super) fn new(layout: &Layout, others: State) -> Self {
        Self { layout: *layout, others, next: 0, buffer: Vec::new() }
    }

    /// Puts an entry, whose index must be higher than that of the last one.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if writing fails.
    pub(super) fn put(&mut self, sink: &dyn Sink, index: u64, entry: Entry) -> Result<()> {
        self.fill(sink, index)?;
        self.append(sink, entry)
    }

    /// Puts the entries before `end` that are not put yet.
    fn fill(&mut self, sink: &dyn Sink, end: u64) -> Result<()> {
        debug_assert!(end >= self.next, "entries are put in ascending order");
        if self.others == State::NotPresent && end - self.next > to_u64(BUFFER) / 8 {
            self.flush(sink)?;
            self.next = end;
        }
        let stride = self.layout.table.ratio + 1;
        while self.next < end {
            // No chunk has a bitmap unless it is put.
            let is_bitmap = self.next % stride == self.layout.table.ratio;
            let state = if is_bitmap { State::NotPresent } else { self.others };
            self.append(sink, Entry { state, ..Entry::NOT_PRESENT })?;
        }
        Ok(())
    }

    fn append(&mut self, sink: &dyn Sink, entry: Entry) -> Result<()> {
        self.buffer.extend_from_slice(&entry.encode().to_le_bytes());
        self.next += 1;
        if self.buffer.len() < BUFFER { Ok(()) } else { self.flush(sink) }
    }

    fn flush(&mut self, sink: &dyn Sink) -> Result<()> {
        let end = self.layout.table_at() + self.next * 8;
        let at = end - to_u64(self.buffer.len());
        write(sink, &self.buffer, at, "the block allocation table")?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if writing fails.
    pub(super) fn finish(mut self, sink: &dyn Sink) -> Result<()> {
        self.fill(sink, self.layout.table.entries())?;
        self.flush(sink)
    }
}
