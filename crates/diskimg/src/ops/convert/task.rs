//! A task on its way from the worker to placement and back.

use super::plan::Task;
use super::share::Origin;
use crate::model::target::Slot;
use crate::storage::buffer::AlignedBuffer;
use std::ops::Range;

/// A task's bytes.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// Guest bytes in whole clusters, padded with zeros at the end of the disk.
    pub(super) guest: AlignedBuffer,
    /// Compressed units, one after the other.
    pub(super) encoded: Vec<u8>,
}

/// A task that was read and encoded, but not placed yet.
#[derive(Debug)]
pub(super) struct EncodedTask {
    /// Known zeros before `range`.
    pub(super) zeros: Range<u64>,
    /// How the parts of `range` are stored, in guest order.
    pub(super) runs: Vec<TaskRun>,
    /// Guest range of the task. `buffers.guest` starts with its first byte.
    pub(super) range: Range<u64>,
    /// The parts of `buffers.guest` that must be written: all but blocks of zeros.
    pub(super) written: Vec<Range<usize>>,
    /// Digest of the guest bytes, if the target wants it.
    pub(super) digest: u64,
    pub(super) buffers: Buffers,
}

/// One or more clusters that are stored in the same way.
#[derive(Debug)]
pub(super) enum TaskRun {
    /// Same bytes as in the backing file: not stored.
    Same(Range<u64>),
    /// All zeros.
    Zero(Range<u64>),
    /// Stored verbatim.
    Stored(Range<u64>),
    /// Stored verbatim, shared or copied by the kernel from the source's file.
    Offloaded(Range<u64>, Origin),
    /// One cluster, compressed: its guest offset and its range in `buffers.encoded`.
    Encoded(u64, Range<usize>),
}

/// A write: which bytes go where.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) slot: Slot,
    pub(super) from: Bytes,
}

/// The bytes to write. Their number is that of the slot.
#[derive(Debug)]
pub(super) enum Bytes {
    /// Guest bytes from this guest offset.
    Guest(u64),
    /// Bytes of `buffers.encoded` from this index.
    Encoded(usize),
    /// Bytes of the source's file from there.
    Origin(Origin),
}

/// A task for which the target has allocated space.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) task: EncodedTask,
    pub(super) writes: Vec<Write>,
}

impl EncodedTask {
    /// Returns a task that is shared or copied by the kernel.
    pub(super) fn offloaded(task: Task, origin: Origin, digest: u64) -> Self {
        Self {
            digest,
            zeros: task.zeros,
            runs: vec![TaskRun::Offloaded(task.range.clone(), origin)],
            range: task.range,
            written: Vec::new(),
            buffers: Buffers::default(),
        }
    }

    /// Returns the guest offset of the task's end.
    pub(super) fn end(&self) -> u64 {
        self.range.end
    }
}

/// Appends a run, merging adjacent ranges of the same kind.
pub(super) fn push_run(runs: &mut Vec<TaskRun>, run: TaskRun) {
    match (runs.last_mut(), &run) {
        (Some(TaskRun::Zero(last)), TaskRun::Zero(next))
        | (Some(TaskRun::Same(last)), TaskRun::Same(next))
        | (Some(TaskRun::Stored(last)), TaskRun::Stored(next))
            if last.end == next.start =>
        {
            last.end = next.end;
        }
        _ => runs.push(run),
    }
}
