//! What a task consists of on its way from worker to placement and back.

use super::plan::Task;
use super::share::Origin;
use crate::model::target::Slot;
use crate::storage::buffer::AlignedBuffer;
use std::ops::Range;

/// A task's bytes.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// Guest bytes, whole units: zeros follow the end of the disk.
    pub(super) guest: AlignedBuffer,
    /// Encoded units, end to end.
    pub(super) encoded: Vec<u8>,
}

/// A task after the worker's first half.
#[derive(Debug)]
pub(super) struct EncodedTask {
    /// Known zeros that come before.
    pub(super) zeros: Range<u64>,
    /// What the range consists of, in guest order.
    pub(super) runs: Vec<TaskRun>,
    /// Guest bytes of the task; `buffers.guest` starts with it.
    pub(super) range: Range<u64>,
    /// Parts of `buffers.guest` that are worth writing: not all zero.
    pub(super) written: Vec<Range<usize>>,
    /// Of the guest bytes, if the target wants it.
    pub(super) digest: u64,
    pub(super) buffers: Buffers,
}

/// One or more units that are treated alike.
#[derive(Debug)]
pub(super) enum TaskRun {
    /// The backing file says the same.
    Same,
    /// All zero.
    Zero(Range<u64>),
    /// To be stored as they are.
    Stored(Range<u64>),
    /// To be stored as they are, from file to file: nothing was read.
    Offloaded(Range<u64>, Origin),
    /// One unit, encoded: a part of the task's encoded bytes.
    Encoded(u64, Range<usize>),
}

/// Something to write: which bytes of the buffers go where.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) slot: Slot,
    pub(super) from: Bytes,
}

/// Which bytes.
#[derive(Debug)]
pub(super) enum Bytes {
    /// Guest bytes from this offset on.
    Guest(u64),
    /// Encoded bytes from this index on.
    Encoded(usize),
    /// The source's own file, from there on.
    Origin(Origin),
}

/// A task after `commit`.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) task: EncodedTask,
    pub(super) writes: Vec<Write>,
}

impl EncodedTask {
    /// A task that goes from file to file.
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

    /// The encoded bytes of a piece.
    pub(super) fn encoded(&self, range: &Range<usize>) -> &[u8] {
        &self.buffers.encoded[range.clone()]
    }

    /// Where the task ends.
    pub(super) fn end(&self) -> u64 {
        self.range.end
    }
}

/// Appends a piece; stored and zero ranges grow together.
pub(super) fn push_run(runs: &mut Vec<TaskRun>, piece: TaskRun) {
    match (runs.last_mut(), &piece) {
        (Some(TaskRun::Zero(last)), TaskRun::Zero(next))
        | (Some(TaskRun::Stored(last)), TaskRun::Stored(next))
            if last.end == next.start =>
        {
            last.end = next.end;
        }
        (Some(TaskRun::Same), TaskRun::Same) => {}
        _ => runs.push(piece),
    }
}
