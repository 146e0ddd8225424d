//! The workers' part of a conversion: fetch, detect zeros and encode; later, write.

use super::Sparse;
use super::digest;
use super::input::{Input, InputRun};
use super::load::{self, Loaded, LoadedImage};
use super::pass;
use super::plan::Task;
use super::salvage::{SALVAGE_BLOCK, SalvageLog};
use super::share::{Origin, Sharing, cannot_share};
use super::task::{Buffers, Bytes, EncodedTask, Placed, TaskRun, Write, push_run};
use crate::error::{Error, Result};
use crate::model::extent::Kind;
use crate::model::fetch::{Fetcher, StoredUnit};
use crate::model::image::Image;
use crate::model::target::{Slot, UnitEncoder};
use crate::ops::pipeline::{Job, Weight};
use crate::storage::lock;
use crate::storage::sink::Sink;
use crate::storage::zeros::is_zero;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// State that all workers share.
pub(super) struct Transfer<'a> {
    pub(super) input: &'a Input,
    pub(super) backing: Option<&'a Image>,
    /// The target's cluster size in bytes.
    pub(super) cluster_size: u64,
    pub(super) sparse: Sparse,
    /// One for each worker; empty if clusters are stored verbatim.
    pub(super) encoders: Mutex<Vec<Box<dyn UnitEncoder>>>,
    pub(super) salvaged: &'a SalvageLog,
    /// Whether the target wants a digest of the guest's bytes.
    pub(super) digests: bool,
    pub(super) sharing: &'a Sharing,
    /// Whether compressed units are copied as stored where the target accepts them.
    pub(super) passes: bool,
    /// Whether the guest's bytes are hashed. Units that are copied as stored are decoded too then.
    pub(super) hashes: bool,
    /// Bytes shared with the source so far.
    pub(super) shared: AtomicU64,
    /// Guest bytes in units copied as stored so far.
    pub(super) passed: AtomicU64,
    /// The output files, in the order of [`Target::files`](crate::model::target::Target::files).
    pub(super) files: Vec<OutputFile>,
    /// Whether each task must be written before the next one is placed.
    pub(super) sequential: bool,
    /// Buffers of completed tasks, for reuse by any worker: the worker that completes a task is
    /// often not the one that filled its buffers.
    pub(super) spare: Mutex<Vec<Buffers>>,
}

/// An output file.
#[derive(Debug)]
pub(super) struct OutputFile {
    pub(super) sink: Arc<dyn Sink>,
    /// The name to put on errors, if the file has a name of its own.
    pub(super) path: Option<PathBuf>,
}

/// The state of one worker.
pub(super) struct Worker {
    /// One for each image of the input.
    fetchers: Vec<Fetcher>,
    encoder: Option<Box<dyn UnitEncoder>>,
    /// Bytes of the backing file that the current task is compared with.
    backing: Vec<u8>,
}

impl Job for Transfer<'_> {
    type Task = Task;
    type Done = EncodedTask;
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

    fn weight(&self, task: &Task) -> Weight {
        load::weight(task)
    }

    fn load(&self, tasks: &mut [&mut Task]) {
        load::load(self.input, tasks);
    }

    fn work(&self, worker: &mut Worker, mut task: Task) -> Result<EncodedTask> {
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
        guest.set_len(len.next_multiple_of(self.cluster_size as usize))[len..].fill(0);
        encoded.clear();
        let mut passed = Vec::new();
        for input_run in &task.input_runs {
            let at = (input_run.at.start - start) as usize;
            let part = &mut guest[at..at + (input_run.at.end - input_run.at.start) as usize];
            let loaded = &task.loaded;
            let passes =
                self.passes && self.pass(worker, input_run, loaded, &mut encoded, &mut passed)?;
            if !passes || self.hashes {
                self.fetch(worker, input_run, loaded, part)?;
            }
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
            debug_assert!(self.cluster_size.is_multiple_of(digest::BLOCK));
            task.digest = digest::of_bytes(start, &task.buffers.guest);
        }
        self.classify(worker, &mut task, passed)?;
        task.buffers.guest.truncate(len);
        Ok(task)
    }

    fn write(&self, _: &mut Worker, placed: Placed) -> Result<()> {
        let Placed { task, writes } = placed;
        for write in &writes {
            self.write_slot(&task, write)?;
        }
        if !task.buffers.guest.is_empty() {
            lock(&self.spare).push(task.buffers);
        }
        Ok(())
    }
}

impl Transfer<'_> {
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
        let divisible = matches!(input_run.extent.kind, Kind::Data(_)) && len > SALVAGE_BLOCK;
        if !divisible {
            self.salvaged.add(input_run.at.clone(), &error);
            buf.fill(0);
            return Ok(());
        }
        // The run is longer than a block, so the first multiple inside it is before its end.
        let middle = ((input_run.at.start + len / 2) / SALVAGE_BLOCK * SALVAGE_BLOCK)
            .max((input_run.at.start + 1).next_multiple_of(SALVAGE_BLOCK));
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
        let Some(unit) = pass::passing(input_run, self.cluster_size, &**encoder) else {
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
        self.passed.fetch_add(self.cluster_size, Ordering::Relaxed);
        Ok(true)
    }

    /// Decides for each cluster how it is stored. `passed` are the runs that are copied as stored.
    fn classify(
        &self,
        worker: &mut Worker,
        task: &mut EncodedTask,
        passed: Vec<TaskRun>,
    ) -> Result<()> {
        let cluster_size = self.cluster_size as usize;
        let Range { start, end } = task.range;
        let Buffers { guest, encoded } = &mut task.buffers;
        task.written = match self.sparse {
            Sparse::Off => std::iter::once(0..guest.len()).collect(),
            Sparse::Blocks(block) => nonzero_runs(guest, block as usize),
        };
        if let Some(backing) = self.backing {
            read_backing(backing, start, &mut worker.backing, guest.len())?;
        }
        let mut written = task.written.iter().peekable();
        let mut passed = passed.into_iter().peekable();
        for (i, bytes) in guest.chunks(cluster_size).enumerate() {
            let at = i * cluster_size;
            let guest_offset = start + at as u64;
            if let Some(run) =
                passed.next_if(|p| matches!(p, TaskRun::Encoded(a, _) if *a == guest_offset))
            {
                task.runs.push(run);
                continue;
            }
            let range = guest_offset..end.min(guest_offset + self.cluster_size);
            while written.next_if(|run| run.end <= at).is_some() {}
            let zero = written.peek().is_none_or(|run| run.start >= at + cluster_size);
            let same = self.backing.is_some() && worker.backing[at..at + bytes.len()] == *bytes;
            let run = if same {
                TaskRun::Same
            } else if zero {
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

    /// Shares a run with the source or lets the kernel copy it; reads and writes it if neither is
    /// possible.
    fn offload(&self, origin: Origin, slot: Slot) -> Result<()> {
        let image = self.input.image(origin.image);
        let source = image.file(origin.depth, origin.host.file);
        let file = &self.files[slot.file];
        let from = origin.host.offset;
        let cannot_write = |e| file.cannot_write(e, slot.offset);
        if self.sharing.shares(&origin) {
            if file.sink.share(source, from, slot.offset, slot.len).map_err(cannot_write)? {
                self.shared.fetch_add(slot.len, Ordering::Relaxed);
                return Ok(());
            }
            if self.sharing.is_required() {
                return Err(image.in_layer(cannot_share(None).at(from), origin.depth));
            }
        }
        if self.sharing.offloads()
            && file.sink.copy_from(source, from, slot.offset, slot.len).map_err(cannot_write)?
        {
            return Ok(());
        }
        let mut buffers = lock(&self.spare).pop().unwrap_or_default();
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
        lock(&self.spare).push(buffers);
        Ok(())
    }

    fn write_slot(&self, task: &EncodedTask, write: &Write) -> Result<()> {
        let Slot { file, offset, len } = write.slot;
        let file = &self.files[file];
        let outcome = match write.from {
            Bytes::Origin(origin) => return self.offload(origin, write.slot),
            Bytes::Encoded(at) => {
                file.sink.write_all_at(&task.buffers.encoded[at..at + len as usize], offset)
            }
            Bytes::Guest(at) => {
                let first = (at - task.range.start) as usize;
                write_guest(&*file.sink, task, first..first + len as usize, offset)
            }
        };
        outcome.map_err(|e| file.cannot_write(e, offset))
    }
}

/// Writes a part of the task's guest bytes to `offset` of `sink`.
fn write_guest(
    sink: &dyn Sink,
    task: &EncodedTask,
    part: Range<usize>,
    offset: u64,
) -> std::io::Result<()> {
    let guest = &task.buffers.guest;
    if !sink.is_zeroed() {
        return sink.write_all_at(&guest[part], offset);
    }
    // The file reads as zeros, so zeros inside a cluster need not be written.
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
    fn cannot_write(&self, e: std::io::Error, offset: u64) -> Error {
        let error = Error::io("cannot write to the output", e).at(offset);
        match &self.path {
            Some(path) => error.in_file(path),
            None => error,
        }
    }
}

/// Bytes copied at a time where the kernel cannot copy.
const COPY_BLOCK: usize = 256 << 10;

/// Returns the runs of aligned blocks that are not all zero.
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

/// Fills `buf` with `len` bytes of the backing file from guest offset `start`, and with zeros
/// beyond its end.
fn read_backing(backing: &Image, start: u64, buf: &mut Vec<u8>, len: usize) -> Result<()> {
    buf.clear();
    buf.resize(len, 0);
    let inside = backing.size().saturating_sub(start).min(len as u64) as usize;
    if inside > 0 { backing.read_at(&mut buf[..inside], start) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::OpenOptions;
    use crate::storage::sink::MemorySink;
    use crate::storage::source::MemorySource;

    #[test]
    fn buffers_do_not_pile_up_if_another_worker_completes_the_task() {
        let image = OpenOptions::new()
            .open_source(Arc::new(MemorySource::new([1; 4096])), "a")
            .expect("opens");
        let input = Input::concatenate(vec![image], 512).expect("small");
        let salvaged = SalvageLog::new(false);
        let job = Transfer {
            input: &input,
            backing: None,
            cluster_size: 4096,
            sparse: Sparse::default(),
            encoders: Mutex::default(),
            salvaged: &salvaged,
            digests: false,
            sharing: &Sharing::none(),
            passes: false,
            hashes: false,
            shared: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            files: vec![OutputFile { sink: Arc::new(MemorySink::new()), path: None }],
            sequential: false,
            spare: Mutex::default(),
        };
        let (mut reader, mut writer) = (job.worker(), job.worker());
        for _ in 0..10 {
            let input_runs = input.runs(0..4096).expect("maps");
            let task = Task {
                zeros: 0..0,
                range: 0..4096,
                input_runs,
                origin: None,
                loaded: Loaded::default(),
            };
            let task = job.work(&mut reader, task).expect("works");
            job.write(&mut writer, Placed { task, writes: Vec::new() }).expect("writes");
        }
        assert_eq!(lock(&job.spare).len(), 1);
    }

    #[test]
    fn adjacent_losses_with_the_same_error_are_merged() {
        let log = SalvageLog::new(true);
        // As two workers report them, each in guest order.
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
    fn nonzero_runs_consist_of_whole_blocks_and_are_merged() {
        let mut bytes = vec![0u8; 5 * 512 + 10];
        assert!(nonzero_runs(&bytes, 512).is_empty());
        bytes[512] = 1;
        bytes[1535] = 1;
        *bytes.last_mut().expect("not empty") = 1;
        assert_eq!(nonzero_runs(&bytes, 512), [512..1536, 2560..2570]);
    }
}
