//! Reading and encoding tasks: fetch, detect zeros, encode. Needs no output.

use super::Sparse;
use super::digest;
use super::input::{Input, InputRun};
use super::load::{Loaded, LoadedImage};
use super::pass;
use super::plan::Task;
use super::salvage::{SALVAGE_BLOCK, SALVAGE_SECTOR, SalvageLog};
use super::share::Sharing;
use super::task::{Buffers, EncodedTask, TaskRun, push_run};
use crate::error::Result;
use crate::model::extent::{ChainExtent, Kind};
use crate::model::fetch::{Fetcher, StoredUnit};
use crate::model::image::Image;
use crate::model::shared_units::SharedUnits;
use crate::model::target::UnitEncoder;
use crate::storage::buffer;
use crate::storage::lock;
use crate::storage::zeros::is_zero;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Returns the length in bytes of a block that is given up if one of its bytes cannot be read.
fn salvage_block(image: &Image, extent: &ChainExtent) -> u64 {
    let Kind::Data(host) = extent.kind else { return SALVAGE_BLOCK };
    match image.layer(extent.depth).files()[host.file].as_file() {
        Some(_) => SALVAGE_BLOCK,
        None => SALVAGE_SECTOR,
    }
}

/// Reads and encodes tasks; shared by all workers.
pub(super) struct Encoding<'a> {
    pub(super) input: &'a Input,
    pub(super) backing: Option<&'a Image>,
    /// The target's quantum in bytes.
    pub(super) quantum: u64,
    pub(super) sparse: Sparse,
    /// One for each worker; empty if clusters are stored verbatim.
    pub(super) encoders: Mutex<Vec<Box<dyn UnitEncoder>>>,
    pub(super) salvaged: &'a SalvageLog,
    /// Whether the target wants a digest of the guest's bytes.
    pub(super) digests: bool,
    /// Whether clusters of zeros are encoded like others.
    pub(super) encodes_zeros: bool,
    pub(super) sharing: &'a Sharing,
    /// Whether compressed units are copied as stored where the target accepts them.
    pub(super) passes: bool,
    /// Whether units that are copied as stored are decoded too, to find damage or to hash them.
    pub(super) decodes_passed: bool,
    /// Guest bytes in units copied as stored so far.
    pub(super) passed: AtomicU64,
    /// Buffers of completed tasks, for reuse by any worker: the worker that completes a task is
    /// often not the one that filled its buffers.
    pub(super) spare: Mutex<Vec<Buffers>>,
    /// For each image of the input, the compressed units that are in several tasks.
    pub(super) units: Vec<Arc<SharedUnits>>,
}

/// The state of one worker.
pub(super) struct Worker {
    /// One for each image of the input.
    fetchers: Vec<Fetcher>,
    encoder: Option<Box<dyn UnitEncoder>>,
    /// Bytes of the backing file that the current task is compared with.
    backing: Vec<u8>,
}

impl Encoding<'_> {
    pub(super) fn worker(&self) -> Worker {
        Worker {
            fetchers: self.units.iter().map(Fetcher::sharing).collect(),
            encoder: lock(&self.encoders).pop(),
            backing: Vec::new(),
        }
    }

    /// Reads and encodes a task.
    ///
    /// # Errors
    /// Returns the errors of reading the input, unless they are salvaged, and of the encoder.
    pub(super) fn encode(&self, worker: &mut Worker, mut task: Task) -> Result<EncodedTask> {
        if let Some(error) = task.loaded.error.take() {
            return Err(error);
        }
        if let Some(origin) = task.origin {
            let digest = digest::of_unread(&task.range, self.sharing.revision(&origin));
            return Ok(EncodedTask::offloaded(task, origin, digest));
        }
        let Buffers { mut guest, mut encoded } = lock(&self.spare).pop().unwrap_or_default();
        let start = task.range.start;
        let len = (task.range.end - start) as usize;
        // Whole clusters: the last one of the disk may be short.
        guest.set_len(len.next_multiple_of(self.quantum as usize))[len..].fill(0);
        encoded.clear();
        let mut passed = Vec::new();
        let part = |input_run: &InputRun| {
            (input_run.at.start - start) as usize..(input_run.at.end - start) as usize
        };
        let loaded = &task.loaded;
        // What another thread is decoding is fetched last: meanwhile, this one decodes another unit.
        let mut busy = Vec::new();
        for input_run in &task.input_runs {
            let passes =
                self.passes && self.pass(worker, input_run, loaded, &mut encoded, &mut passed)?;
            if passes && !self.decodes_passed {
                continue;
            }
            let fetcher = input_run.image.map(|index| &worker.fetchers[index]);
            if fetcher.is_some_and(|fetcher| fetcher.is_busy(&input_run.extent)) {
                busy.push(input_run);
            } else {
                self.fetch(worker, input_run, loaded, &mut guest[part(input_run)])?;
            }
        }
        for input_run in busy {
            self.fetch(worker, input_run, loaded, &mut guest[part(input_run)])?;
        }
        let mut task = EncodedTask {
            zeros: task.zeros,
            runs: Vec::new(),
            range: task.range,
            written: Vec::new(),
            digest: 0,
            buffers: Buffers { guest, encoded },
        };
        if self.digests {
            debug_assert!(self.quantum.is_multiple_of(digest::BLOCK));
            task.digest = digest::of_bytes(start, &task.buffers.guest);
        }
        self.classify(worker, &mut task, passed)?;
        task.buffers.guest.truncate(len);
        Ok(task)
    }

    /// Fills `buf` with the bytes of `input_run`. With salvage, unreadable bytes become zeros.
    fn fetch(
        &self,
        worker: &mut Worker,
        input_run: &InputRun,
        loaded: &Loaded,
        buf: &mut [u8],
    ) -> Result<()> {
        let Some(index) = input_run.image else {
            buf.fill(0);
            return Ok(());
        };
        let image = self.input.image(index);
        let preloaded = LoadedImage { loaded, image: index };
        let fetcher = &mut worker.fetchers[index];
        let fetched = fetcher.fetch_preloaded(image, &input_run.extent, buf, &preloaded);
        let error = match fetched {
            Ok(()) => return Ok(()),
            Err(error) if !self.salvaged.covers(&error) => return Err(error),
            Err(error) => error,
        };
        // Data stored verbatim is salvaged block by block; a compressed unit is lost as a whole.
        let len = input_run.at.end - input_run.at.start;
        let block = salvage_block(image, &input_run.extent);
        let divisible = matches!(input_run.extent.kind, Kind::Data(_)) && len > block;
        if !divisible {
            self.salvaged.add(input_run.at.clone(), &error);
            buf.fill(0);
            return Ok(());
        }
        // The run is longer than a block, so the first multiple inside it is before its end.
        let middle = ((input_run.at.start + len / 2) / block * block)
            .max((input_run.at.start + 1).next_multiple_of(block));
        let (low, high) = (input_run.at.start..middle, middle..input_run.at.end);
        let (left, right) = buf.split_at_mut((middle - input_run.at.start) as usize);
        self.fetch(worker, &input_run.clip(&low), loaded, left)?;
        self.fetch(worker, &input_run.clip(&high), loaded, right)
    }

    /// Appends a compressed unit as stored to `encoded`, and a run for it to `passed`. Returns
    /// false if the target does not accept it.
    fn pass(
        &self,
        worker: &mut Worker,
        input_run: &InputRun,
        loaded: &Loaded,
        encoded: &mut Vec<u8>,
        passed: &mut Vec<TaskRun>,
    ) -> Result<bool> {
        let Some(encoder) = &mut worker.encoder else { return Ok(false) };
        let Some(unit) = pass::passing(input_run, self.quantum, &**encoder) else {
            return Ok(false);
        };
        let index = input_run.image.unwrap_or_default();
        let (image, depth) = (self.input.image(index), input_run.extent.depth);
        let preloaded = &LoadedImage { loaded, image: index };
        let stored = StoredUnit { image, depth, encoded: unit, preloaded };
        let mut fill = |buf: &mut [u8]| stored.read(buf).map_err(|e| image.in_layer(e, depth));
        let from = encoded.len();
        encoder.pass(input_run.at.start, unit.stored as usize, &mut fill, encoded)?;
        passed.push(TaskRun::Encoded(input_run.at.start, from..encoded.len()));
        self.passed.fetch_add(self.quantum, Ordering::Relaxed);
        Ok(true)
    }

    /// Decides for each cluster how it is stored. `passed` are the runs that are copied as stored.
    fn classify(
        &self,
        worker: &mut Worker,
        task: &mut EncodedTask,
        passed: Vec<TaskRun>,
    ) -> Result<()> {
        let quantum = self.quantum as usize;
        let Range { start, end } = task.range;
        let Buffers { guest, encoded } = &mut task.buffers;
        task.written = match self.sparse {
            Sparse::Off => std::iter::once(0..guest.len()).collect(),
            Sparse::Blocks(block) => nonzero_runs(guest, start, block),
        };
        if let Some(backing) = self.backing {
            read_backing(backing, start, &mut worker.backing, guest.len())?;
        }
        let mut written = task.written.iter().peekable();
        let mut passed = passed.into_iter().peekable();
        for (i, bytes) in guest.chunks(quantum).enumerate() {
            let at = i * quantum;
            let guest_offset = start + at as u64;
            if let Some(run) =
                passed.next_if(|p| matches!(p, TaskRun::Encoded(a, _) if *a == guest_offset))
            {
                task.runs.push(run);
                continue;
            }
            let range = guest_offset..end.min(guest_offset + self.quantum);
            while written.next_if(|run| run.end <= at).is_some() {}
            let zero = written.peek().is_none_or(|run| run.start >= at + quantum);
            let same = self.backing.is_some() && worker.backing[at..at + bytes.len()] == *bytes;
            let run = if same {
                TaskRun::Same(range)
            } else if zero && !self.encodes_zeros {
                TaskRun::Zero(range)
            } else if let Some(encoder) = &mut worker.encoder {
                let from = encoded.len();
                if encoder.encode(range.start, bytes, encoded)? {
                    TaskRun::Encoded(range.start, from..encoded.len())
                } else {
                    TaskRun::Stored(range)
                }
            } else {
                TaskRun::Stored(range)
            };
            push_run(&mut task.runs, run);
        }
        Ok(())
    }
}

/// Returns the runs of blocks that are not all zero. `bytes` are at guest offset `start`, and blocks
/// are aligned in the guest's address space: the first and the last one may be partial.
fn nonzero_runs(bytes: &[u8], start: u64, block: u64) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let len = block - (start + at as u64) % block;
        let range = at..bytes.len().min(at + len as usize);
        at = range.end;
        if is_zero(&bytes[range.clone()]) {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => runs.push(range),
        }
    }
    runs
}

/// Fills `buf` with `len` bytes of the backing file from guest offset `start`, and with zeros
/// beyond its end.
fn read_backing(backing: &Image, start: u64, buf: &mut Vec<u8>, len: usize) -> Result<()> {
    buf.clear();
    buffer::resize(buf, len);
    let inside = backing.size().saturating_sub(start).min(len as u64) as usize;
    if inside > 0 { backing.read_at(&mut buf[..inside], start) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonzero_runs_consist_of_whole_blocks_and_are_merged() {
        let runs = |bytes: &[u8], start, block| -> Vec<_> {
            nonzero_runs(bytes, start, block).iter().map(|run| (run.start, run.end)).collect()
        };
        let mut bytes = vec![0u8; 5 * 512 + 10];
        assert_eq!(runs(&bytes, 0, 512), []);
        bytes[512] = 1;
        bytes[1535] = 1;
        *bytes.last_mut().expect("not empty") = 1;
        assert_eq!(runs(&bytes, 1024, 512), [(512, 1536), (2560, 2570)]);
        // A block of 2048 bytes starts before them, another one ends after them.
        assert_eq!(runs(&bytes, 1536, 2048), [(512, 2570)]);
        assert_eq!(runs(&bytes[..1536], 1024, 2048), [(0, 1536)]);
        assert_eq!(runs(&bytes[1536..2560], 1536, 2048), []);
    }
}
