//! The workers' part: fetch, look for zeros, encode; later, write.

use super::input::{Input, Span};
use super::plan::Task;
use super::{Salvaged, Sparse};
use crate::host::sink::Sink;
use crate::host::zeros::is_zero;
use crate::verbs::pipeline::Job;
use crate::vocabulary::error::{Error, ErrorKind, Result};
use crate::vocabulary::extent::Kind;
use crate::vocabulary::fetch::Fetcher;
use crate::vocabulary::image::Image;
use crate::vocabulary::target::{Slot, UnitEncoder};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// What every worker shares.
pub(super) struct Carry<'a> {
    pub(super) input: &'a Input,
    pub(super) backing: Option<&'a Image>,
    pub(super) unit: u64,
    pub(super) sparse: Sparse,
    /// One for each worker that starts; none if units are stored as they are.
    pub(super) encoders: Mutex<Vec<Box<dyn UnitEncoder>>>,
    pub(super) salvaged: &'a SalvageLog,
    pub(super) files: Vec<Arc<dyn Sink>>,
    pub(super) sequential: bool,
    /// Buffers of settled tasks, for reuse by whoever works next: the one who
    /// settles a task is often not the one who filled its buffers.
    pub(super) spare: Mutex<Vec<Buffers>>,
}

/// One worker's own state.
pub(super) struct Worker {
    /// One for each image of the input.
    fetchers: Vec<Fetcher>,
    encoder: Option<Box<dyn UnitEncoder>>,
    backing: Vec<u8>,
}

/// A task's bytes.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// Guest bytes, whole units: zeros follow the end of the disk.
    guest: Vec<u8>,
    /// Encoded units, end to end.
    encoded: Vec<u8>,
}

/// A task after the worker's first half.
#[derive(Debug)]
pub(super) struct Carried {
    /// Known zeros that come before.
    pub(super) zeros: Range<u64>,
    /// What the range consists of, in guest order.
    pub(super) pieces: Vec<Piece>,
    /// Where the range starts, and `buffers.guest` with it.
    start: u64,
    /// Parts of `buffers.guest` that are worth writing: not all zero.
    written: Vec<Range<usize>>,
    buffers: Buffers,
}

/// One or more units that are treated alike.
#[derive(Debug)]
pub(super) enum Piece {
    /// The backing file says the same.
    Same,
    /// All zero.
    Zero(Range<u64>),
    /// To be stored as they are.
    Stored(Range<u64>),
    /// One unit, encoded: a part of the task's encoded bytes.
    Encoded(u64, Range<usize>),
}

/// Something to write: which bytes of the buffers go where.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) slot: Slot,
    pub(super) from: From,
}

/// Which bytes.
#[derive(Debug)]
pub(super) enum From {
    /// Guest bytes from this offset on.
    Guest(u64),
    /// Encoded bytes from this index on.
    Encoded(usize),
}

/// A task after `commit`.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) carried: Carried,
    pub(super) writes: Vec<Write>,
}

impl Carried {
    /// The encoded bytes of a piece.
    pub(super) fn encoded(&self, range: &Range<usize>) -> &[u8] {
        &self.buffers.encoded[range.clone()]
    }

    /// Where the task ends.
    pub(super) fn end(&self) -> u64 {
        self.start + self.buffers.guest.len() as u64
    }
}

impl Job for Carry<'_> {
    type Task = Task;
    type Done = Carried;
    type Rest = Placed;
    type Worker = Worker;

    fn worker(&self) -> Worker {
        Worker {
            fetchers: (0..self.input.images()).map(|_| Fetcher::default()).collect(),
            encoder: lock(&self.encoders).pop(),
            backing: Vec::new(),
        }
    }

    fn sequential(&self) -> bool {
        self.sequential
    }

    fn work(&self, worker: &mut Worker, task: Task) -> Result<Carried> {
        let Buffers { mut guest, mut encoded } = lock(&self.spare).pop().unwrap_or_default();
        let start = task.range.start;
        let len = (task.range.end - start) as usize;
        guest.resize(len, 0);
        for span in &task.spans {
            let at = (span.at.start - start) as usize;
            let part = &mut guest[at..at + (span.at.end - span.at.start) as usize];
            self.fetch(worker, span, part)?;
        }
        // Whole units: the last one of the disk may be short.
        guest.resize(len.next_multiple_of(self.unit as usize), 0);
        encoded.clear();
        let mut carried = Carried {
            zeros: task.zeros,
            pieces: Vec::new(),
            start,
            written: Vec::new(),
            buffers: Buffers { guest, encoded },
        };
        self.sort_out(worker, &mut carried, task.range.end)?;
        carried.buffers.guest.truncate(len);
        Ok(carried)
    }

    fn settle(&self, _: &mut Worker, placed: Placed) -> Result<()> {
        let Placed { carried, writes } = placed;
        for write in &writes {
            self.write(&carried, write)
                .map_err(|e| Error::io("cannot write to the output", e).at(write.slot.offset))?;
        }
        lock(&self.spare).push(carried.buffers);
        Ok(())
    }
}

impl Carry<'_> {
    /// Fetches one span; under salvage, what cannot be had becomes zeros.
    fn fetch(&self, worker: &mut Worker, span: &Span, buf: &mut [u8]) -> Result<()> {
        let Some(index) = span.image else {
            buf.fill(0);
            return Ok(());
        };
        let image = self.input.image(index);
        let error = match worker.fetchers[index].fetch(image, &span.extent, buf) {
            Ok(()) => return Ok(()),
            Err(error) if !self.salvaged.active() => return Err(error),
            Err(error) => error,
        };
        // Stored bytes are rescued block by block; an encoded unit is lost as a whole.
        let len = span.at.end - span.at.start;
        let divisible = matches!(span.extent.kind, Kind::Data(_)) && len > SALVAGE_BLOCK;
        if error.kind() == ErrorKind::Cancelled {
            return Err(error);
        }
        if !divisible {
            self.salvaged.add(span.at.clone(), &error);
            buf.fill(0);
            return Ok(());
        }
        // Longer than a block, so the first multiple inside is below the end.
        let middle = ((span.at.start + len / 2) / SALVAGE_BLOCK * SALVAGE_BLOCK)
            .max((span.at.start + 1).next_multiple_of(SALVAGE_BLOCK));
        let (low, high) = (span.at.start..middle, middle..span.at.end);
        let (left, right) = buf.split_at_mut((middle - span.at.start) as usize);
        self.fetch(worker, &span.clip(&low), left)?;
        self.fetch(worker, &span.clip(&high), right)
    }

    /// Decides for each unit what becomes of it.
    fn sort_out(&self, worker: &mut Worker, carried: &mut Carried, end: u64) -> Result<()> {
        let unit = self.unit as usize;
        let start = carried.start;
        let Buffers { guest, encoded } = &mut carried.buffers;
        carried.written = match self.sparse {
            Sparse::Off => std::iter::once(0..guest.len()).collect(),
            Sparse::Blocks(block) => nonzero_runs(guest, block as usize),
        };
        if let Some(backing) = self.backing {
            read_backing(backing, start, &mut worker.backing, guest.len())?;
        }
        let mut written = carried.written.iter().peekable();
        for (i, bytes) in guest.chunks(unit).enumerate() {
            let at = i * unit;
            let range = start + at as u64..end.min(start + (at + unit) as u64);
            while written.next_if(|run| run.end <= at).is_some() {}
            let zero = written.peek().is_none_or(|run| run.start >= at + unit);
            let same = self.backing.is_some() && worker.backing[at..at + bytes.len()] == *bytes;
            let piece = if same {
                Piece::Same
            } else if zero {
                Piece::Zero(range)
            } else if let Some(encoder) = &mut worker.encoder {
                let from = encoded.len();
                if encoder.encode(range.start, bytes, encoded)? {
                    Piece::Encoded(range.start, from..encoded.len())
                } else {
                    Piece::Stored(range)
                }
            } else {
                Piece::Stored(range)
            };
            push_piece(&mut carried.pieces, piece);
        }
        Ok(())
    }

    fn write(&self, carried: &Carried, write: &Write) -> std::io::Result<()> {
        let Slot { file, offset, len } = write.slot;
        let sink = &self.files[file];
        let len = len as usize;
        match write.from {
            From::Encoded(at) => sink.write_all_at(&carried.buffers.encoded[at..at + len], offset),
            From::Guest(at) => {
                let first = (at - carried.start) as usize;
                let slot = first..first + len;
                if !sink.is_zeroed() {
                    return sink.write_all_at(&carried.buffers.guest[slot], offset);
                }
                // Zeros inside a stored unit are there already.
                for run in &carried.written {
                    let part = run.start.max(slot.start)..run.end.min(slot.end);
                    if part.start < part.end {
                        let offset = offset + (part.start - first) as u64;
                        sink.write_all_at(&carried.buffers.guest[part], offset)?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Stored bytes that cannot be read are given up in blocks of this size.
const SALVAGE_BLOCK: u64 = 4096;

/// Appends a piece; stored and zero ranges grow together.
fn push_piece(pieces: &mut Vec<Piece>, piece: Piece) {
    match (pieces.last_mut(), &piece) {
        (Some(Piece::Zero(last)), Piece::Zero(next))
        | (Some(Piece::Stored(last)), Piece::Stored(next))
            if last.end == next.start =>
        {
            last.end = next.end;
        }
        (Some(Piece::Same), Piece::Same) => {}
        _ => pieces.push(piece),
    }
}

/// The runs of aligned blocks that are not all zero.
fn nonzero_runs(bytes: &[u8], block: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (i, part) in bytes.chunks(block).enumerate() {
        if is_zero(part) {
            continue;
        }
        let range = i * block..i * block + part.len();
        match runs.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => runs.push(range),
        }
    }
    runs
}

/// The backing file's bytes at the same place; zeros behind its end.
fn read_backing(backing: &Image, start: u64, buf: &mut Vec<u8>, len: usize) -> Result<()> {
    buf.clear();
    buf.resize(len, 0);
    let inside = backing.size().saturating_sub(start).min(len as u64) as usize;
    if inside > 0 { backing.read_at(&mut buf[..inside], start) } else { Ok(()) }
}

/// What could not be read and was replaced by zeros.
#[derive(Debug)]
pub(super) struct SalvageLog {
    active: bool,
    lost: Mutex<Vec<Salvaged>>,
}

impl SalvageLog {
    pub(super) fn new(active: bool) -> Self {
        Self { active, lost: Mutex::default() }
    }

    /// True if the caller asked to go on after errors.
    pub(super) fn active(&self) -> bool {
        self.active
    }

    pub(super) fn add(&self, guest: Range<u64>, error: &Error) {
        push_lost(&mut lock(&self.lost), Salvaged { guest, error: error.to_string() });
    }

    pub(super) fn into_ordered(self) -> Vec<Salvaged> {
        let mut lost = self.lost.into_inner().unwrap_or_else(|e| e.into_inner());
        lost.sort_by_key(|s| s.guest.start);
        let mut merged = Vec::with_capacity(lost.len());
        lost.into_iter().for_each(|next| push_lost(&mut merged, next));
        merged
    }
}

/// Appends what was lost; neighbours that were lost for one reason are one loss.
fn push_lost(lost: &mut Vec<Salvaged>, next: Salvaged) {
    match lost.last_mut() {
        Some(last) if last.guest.end == next.guest.start && last.error == next.error => {
            last.guest.end = next.guest.end;
        }
        _ => lost.push(next),
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sink::MemorySink;
    use crate::host::source::MemorySource;
    use crate::vocabulary::open::OpenOptions;

    #[test]
    fn buffers_do_not_pile_up_where_one_worker_settles_what_another_did() {
        let image = OpenOptions::new()
            .open_source(Arc::new(MemorySource::new([1; 4096])), "a")
            .expect("opens");
        let input = Input::concatenate(vec![image]).expect("small");
        let salvaged = SalvageLog::new(false);
        let job = Carry {
            input: &input,
            backing: None,
            unit: 4096,
            sparse: Sparse::default(),
            encoders: Mutex::default(),
            salvaged: &salvaged,
            files: vec![Arc::new(MemorySink::new())],
            sequential: false,
            spare: Mutex::default(),
        };
        let (mut fills, mut settles) = (job.worker(), job.worker());
        for _ in 0..10 {
            let spans = input.spans(0..4096).expect("maps");
            let task = Task { zeros: 0..0, range: 0..4096, spans };
            let carried = job.work(&mut fills, task).expect("works");
            job.settle(&mut settles, Placed { carried, writes: Vec::new() }).expect("settles");
        }
        assert_eq!(lock(&job.spare).len(), 1);
    }

    #[test]
    fn what_is_lost_for_one_reason_is_one_loss() {
        let log = SalvageLog::new(true);
        // Two workers, each in order.
        for block in [0, 1, 2, 8, 9, 3, 4, 7] {
            let reason = if block == 4 { "another" } else { "bad table" };
            log.add(block * 4096..(block + 1) * 4096, &Error::invalid(reason));
        }
        let lost: Vec<_> = log
            .into_ordered()
            .into_iter()
            .map(|s| s.guest.start / 4096..s.guest.end / 4096)
            .collect();
        assert_eq!(lost, [0..4, 4..5, 7..10]);
    }

    #[test]
    fn runs_are_whole_blocks_and_grow_together() {
        let mut bytes = vec![0u8; 5 * 512 + 10];
        assert!(nonzero_runs(&bytes, 512).is_empty());
        bytes[512] = 1;
        bytes[1535] = 1;
        *bytes.last_mut().expect("not empty") = 1;
        assert_eq!(nonzero_runs(&bytes, 512), [512..1536, 2560..2570]);
    }
}
