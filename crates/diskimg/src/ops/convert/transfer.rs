//! The workers' part of a conversion: read and encode; later, write.

use super::encode::{Encoding, Worker};
use super::load;
use super::place::InFlight;
use super::plan::Task;
use super::share::{Origin, cannot_share};
use super::task::{Bytes, EncodedTask, Placed, Write};
use crate::error::{Error, Result};
use crate::model::target::Slot;
use crate::ops::pipeline::{Job, Weight};
use crate::storage::lock;
use crate::storage::sink::Sink;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// State that all workers share.
pub(super) struct Transfer<'a> {
    pub(super) encoding: Encoding<'a>,
    /// Bytes shared with the source so far.
    pub(super) shared: AtomicU64,
    /// The output files, in the order of [`Target::files`](crate::model::target::Target::files).
    pub(super) files: Vec<OutputFile>,
    /// Whether each task must be written before the next one is placed.
    pub(super) sequential: bool,
    /// The tasks that are placed and not yet written.
    pub(super) in_flight: &'a InFlight,
    /// Whether the files will be flushed.
    pub(super) flushes: bool,
}

/// An output file.
#[derive(Debug)]
pub(super) struct OutputFile {
    pub(super) sink: Arc<dyn Sink>,
    /// The name to put on errors, if the file has a name of its own.
    pub(super) path: Option<PathBuf>,
    /// Bytes written so far.
    pub(super) written: AtomicU64,
}

impl Job for Transfer<'_> {
    type Task = Task;
    type Done = EncodedTask;
    type Rest = Placed;
    type Worker = Worker;

    fn worker(&self) -> Worker {
        self.encoding.worker()
    }

    fn sequential(&self) -> bool {
        self.sequential
    }

    fn weight(&self, task: &Task) -> Weight {
        load::weight(task)
    }

    fn load(&self, tasks: &mut [&mut Task]) {
        load::load(self.encoding.input, tasks);
    }

    fn work(&self, worker: &mut Worker, task: Task) -> Result<EncodedTask> {
        self.encoding.encode(worker, task)
    }

    fn write(&self, _: &mut Worker, placed: Placed) -> Result<()> {
        let Placed { task, writes } = placed;
        for write in &writes {
            self.write_slot(&task, write)?;
            if self.flushes {
                self.files[write.slot.file].count_written(write.slot.len);
            }
        }
        self.in_flight.remove(&task.range);
        if !task.buffers.guest.is_empty() {
            lock(&self.encoding.spare).push(task.buffers);
        }
        Ok(())
    }
}

impl Transfer<'_> {
    /// Shares a run with the source or lets the kernel copy it; reads and writes it if neither is
    /// possible.
    fn offload(&self, origin: Origin, slot: Slot) -> Result<()> {
        let image = self.encoding.input.image(origin.image);
        let source = image.file(origin.depth, origin.host.file);
        let file = &self.files[slot.file];
        let from = origin.host.offset;
        let cannot_write = |e| file.cannot_write(e, slot.offset);
        if self.encoding.sharing.shares(&origin) {
            if file.sink.share(source, from, slot.offset, slot.len).map_err(cannot_write)? {
                self.shared.fetch_add(slot.len, Ordering::Relaxed);
                return Ok(());
            }
            if self.encoding.sharing.is_required() {
                return Err(image.in_layer(cannot_share(None).at(from), origin.depth));
            }
        }
        if self.encoding.sharing.offloads()
            && file.sink.copy_from(source, from, slot.offset, slot.len).map_err(cannot_write)?
        {
            return Ok(());
        }
        let mut buffers = lock(&self.encoding.spare).pop().unwrap_or_default();
        for done in (0..slot.len).step_by(COPY_BLOCK) {
            let buf = buffers.guest.set_len((slot.len - done).min(COPY_BLOCK as u64) as usize);
            source.read_exact_at(buf, from + done).map_err(|e| {
                let error = Error::io("cannot read guest data", e).at(from + done);
                image.in_layer(error, origin.depth)
            })?;
            let offset = slot.offset + done;
            let outcome = file.sink.write_all_at(buf, offset);
            outcome.map_err(|e| file.cannot_write(e, offset))?;
        }
        lock(&self.encoding.spare).push(buffers);
        Ok(())
    }

    fn write_slot(&self, task: &EncodedTask, write: &Write) -> Result<()> {
        let Slot { file, offset, len, is_zeroed } = write.slot;
        let file = &self.files[file];
        let outcome = match write.from {
            Bytes::Origin(origin) => return self.offload(origin, write.slot),
            Bytes::Encoded(at) => {
                file.sink.write_all_at(&task.buffers.encoded[at..at + len as usize], offset)
            }
            Bytes::Guest(at) => {
                let first = (at - task.range.start) as usize;
                let part = first..first + len as usize;
                let is_zeroed = is_zeroed || file.sink.is_zeroed();
                write_guest(&*file.sink, task, part, offset, is_zeroed)
            }
        };
        outcome.map_err(|e| file.cannot_write(e, offset))
    }
}

/// Writes a part of the task's guest bytes to `offset` of `sink`, which may read as zeros there.
fn write_guest(
    sink: &dyn Sink,
    task: &EncodedTask,
    part: Range<usize>,
    offset: u64,
    is_zeroed: bool,
) -> std::io::Result<()> {
    let guest = &task.buffers.guest;
    if !is_zeroed {
        return sink.write_all_at(&guest[part], offset);
    }
    // Zeros inside a cluster need not be written.
    for run in &task.written {
        let run = run.start.max(part.start)..run.end.min(part.end);
        if run.start < run.end {
            let offset = offset + (run.start - part.start) as u64;
            sink.write_all_at(&guest[run], offset)?;
        }
    }
    Ok(())
}

impl OutputFile {
    /// Counts `len` written bytes. Has them written to stable storage meanwhile, which would take
    /// as long when they are all flushed at the end.
    fn count_written(&self, len: u64) {
        let before = self.written.fetch_add(len, Ordering::Relaxed);
        if before / FLUSH_INTERVAL != before.saturating_add(len) / FLUSH_INTERVAL {
            self.sink.start_flush();
        }
    }

    fn cannot_write(&self, e: std::io::Error, offset: u64) -> Error {
        let error = Error::io("cannot write to the output", e).at(offset);
        match &self.path {
            Some(path) => error.in_file(path),
            None => error,
        }
    }
}

/// Bytes that are written to a file between two requests to begin flushing them.
const FLUSH_INTERVAL: u64 = 32 << 20;

/// Bytes copied at a time where the kernel cannot copy.
const COPY_BLOCK: usize = 256 << 10;
