//! Verification of the digests that an image records of its contents.
//!
//! ```text
//!   plan ──► contents of digest 0, 0, 0, 1, 1, 2, …    ranges of at most some hundred KiB
//!              │  │  │
//!            read, decode, CRC-32                       in parallel
//!              │  │  │
//!            combine CRC-32s; MD5, SHA-1                in order
//! ```
//!
//! CRC-32s of consecutive ranges can be combined, so they are computed in parallel. The other
//! algorithms take the bytes one after the other.

use super::plan::{Group, Part, Plan, Task};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::findings::Findings;
use crate::model::fetch::Fetcher;
use crate::model::image::Image;
use crate::ops::pipeline::{self, Job};
use crate::ops::progress::{Callback, report};
use crate::report::check::{Code, DigestValue, DigestedBytes, Finding, RecordedDigest};
use crate::storage::buffer;
use crate::storage::zeros::ZEROS;
use sha1::{Digest, Sha1};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of known zeros that are hashed between two progress reports.
const STEP: u64 = 64 << 20;

/// How digests are verified.
pub(super) struct Verify<'a> {
    /// The layer that records them, without its backing files.
    pub(super) image: &'a Image,
    pub(super) threads: Option<usize>,
    pub(super) progress: Option<Callback<'a>>,
}

impl Verify<'_> {
    /// Computes the digests of what `recorded` covers and reports those that differ, or that cannot
    /// be computed because the contents cannot be read. Returns the number of those that match.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled) if the callback requests it.
    pub(super) fn run(
        &self,
        recorded: Vec<RecordedDigest>,
        findings: &mut Findings<'_>,
    ) -> Result<u64> {
        let groups = Group::of(recorded);
        // Hostile ranges may be of any length: the total only serves for the progress.
        let total = groups.iter().fold(0, |sum: u64, group| sum.saturating_add(group.len()));
        let read = Read { image: self.image, groups: &groups };
        // The group that failed last: the rest of its contents is not read.
        let failed = AtomicUsize::new(usize::MAX);
        let mut plan = Plan::new(self.image, &groups);
        let mut results = Results {
            image: self.image,
            groups: &groups,
            states: Vec::new(),
            failed: false,
            done: 0,
            total,
            progress: self.progress,
            verified: 0,
        };
        let workers = self.threads.unwrap_or_else(pipeline::default_threads);
        // `Findings` cannot be sent to other threads, so they are reported below.
        let mut found = Vec::new();
        let outcome = pipeline::run(
            &read,
            pipeline::Threads::of_workers(workers),
            || Ok(plan.next_task(failed.load(Ordering::Relaxed))),
            |done: Done| {
                let group = done.group;
                let buffer = results.add(done, &mut found)?;
                if results.failed {
                    failed.store(group, Ordering::Relaxed);
                }
                Ok(ControlFlow::Continue(buffer))
            },
        );
        let verified = results.verified;
        for problem in found {
            problem.report(self.image, findings);
        }
        outcome.map(|()| verified)
    }
}

/// Reads what the digests cover.
struct Read<'a> {
    image: &'a Image,
    groups: &'a [Group],
}

/// The buffers and the fetcher of a thread.
#[derive(Default)]
struct Worker {
    fetcher: Fetcher,
    idle: Vec<Vec<u8>>,
}

/// What was read.
struct Done {
    group: usize,
    /// Whether it is the last part of its group.
    ends: bool,
    /// Number of bytes of the contents.
    len: u64,
    part: Result<Bytes>,
}

/// A part of the contents.
enum Bytes {
    /// As many zeros as the part has bytes.
    Zeros,
    /// Bytes, and their CRC-32 if the group needs it.
    Read(Vec<u8>, Option<crc32fast::Hasher>),
}

impl Read<'_> {
    fn read(&self, worker: &mut Worker, part: Part, buf: &mut [u8]) -> Result<()> {
        match part {
            Part::Guest(extents) => {
                let mut at = 0;
                for extent in extents {
                    let end = at + extent.len() as usize;
                    worker.fetcher.fetch(self.image, &extent, &mut buf[at..end])?;
                    at = end;
                }
                Ok(())
            }
            Part::Host { file, range } => {
                let read = self.image.file(0, file).read_exact_at(buf, range.start);
                read.map_err(|e| Error::io("cannot read it", e).at(range.start))
                    .map_err(|e| self.image.in_layer(e, 0))
            }
            Part::Zeros(_) => Ok(()),
            Part::Failed(error) => Err(error),
        }
    }
}

impl Job for Read<'_> {
    type Task = Task;
    type Done = Done;
    type Rest = Option<Vec<u8>>;
    type Worker = Worker;

    fn worker(&self) -> Worker {
        Worker::default()
    }

    fn work(&self, worker: &mut Worker, task: Task) -> Result<Done> {
        let Task { group, ends, part } = task;
        let len = part.len();
        let part = match part {
            Part::Zeros(_) => Ok(Bytes::Zeros),
            part => {
                let mut bytes = worker.idle.pop().unwrap_or_default();
                buffer::resize(&mut bytes, len as usize);
                self.read(worker, part, &mut bytes).map(|()| {
                    let crc = self.groups[group].has_crc().then(|| {
                        let mut crc = crc32fast::Hasher::new();
                        crc.update(&bytes);
                        crc
                    });
                    Bytes::Read(bytes, crc)
                })
            }
        };
        Ok(Done { group, ends, len, part })
    }

    fn write(&self, worker: &mut Worker, buffer: Option<Vec<u8>>) -> Result<()> {
        worker.idle.extend(buffer);
        Ok(())
    }
}

/// The state of one digest.
enum State {
    Crc32(crc32fast::Hasher),
    Md5(md5::Md5),
    Sha1(Sha1),
}

impl State {
    fn new(value: &DigestValue) -> Self {
        match value {
            DigestValue::Crc32(_) => Self::Crc32(crc32fast::Hasher::new()),
            DigestValue::Md5(_) => Self::Md5(md5::Md5::new()),
            DigestValue::Sha1(_) => Self::Sha1(Sha1::new()),
        }
    }

    /// Adds bytes that are not in the CRC-32.
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc32(_) => {}
            Self::Md5(state) => state.update(bytes),
            Self::Sha1(state) => state.update(bytes),
        }
    }

    fn combine(&mut self, crc: &crc32fast::Hasher) {
        if let Self::Crc32(state) = self {
            state.combine(crc);
        }
    }

    fn finish(self) -> DigestValue {
        match self {
            Self::Crc32(state) => DigestValue::Crc32(state.finalize()),
            Self::Md5(state) => DigestValue::Md5(state.finalize().into()),
            Self::Sha1(state) => DigestValue::Sha1(state.finalize().into()),
        }
    }
}

/// Returns the CRC-32 of `len` zeros, in a time that is proportional to the number of digits of
/// `len`.
fn crc_of_zeros(len: u64) -> crc32fast::Hasher {
    let mut power = crc32fast::Hasher::new();
    power.update(&[0]);
    let mut crc = crc32fast::Hasher::new();
    let mut left = len;
    while left > 0 {
        if left % 2 == 1 {
            crc.combine(&power);
        }
        left /= 2;
        // Twice as many zeros. Not after the last digit: that many may exceed 64 bits.
        if left > 0 {
            let half = power.clone();
            power.combine(&half);
        }
    }
    crc
}

/// A digest that does not match.
struct Problem {
    structure: String,
    offset: u64,
    found: Mismatch,
}

enum Mismatch {
    /// The contents differ.
    Differs { recorded: DigestValue, computed: DigestValue, of: String },
    /// The contents cannot be read.
    Unreadable(String, Error),
}

impl Problem {
    fn report(self, image: &Image, findings: &mut Findings<'_>) {
        let Self { structure, offset, found } = self;
        let (code, message) = match found {
            Mismatch::Differs { recorded, computed, of } => {
                let algorithm = recorded.algorithm();
                let message = format!(
                    "{structure}: the {algorithm} of {of} is {computed}, but {recorded} is recorded"
                );
                (Code::DigestMismatch, message)
            }
            Mismatch::Unreadable(algorithm, error) => {
                let is_damage = error.kind() == ErrorKind::Corrupt;
                let code = if is_damage { Code::Corruption } else { Code::CheckError };
                let error = error.without_remedy();
                let name = format!("{}: ", image.name(0));
                let error = error.strip_prefix(&*name).unwrap_or(&error);
                (code, format!("{structure}: the {algorithm} cannot be verified: {error}"))
            }
        };
        findings.counts.count(code);
        (findings.report)(Finding::of_check(code, message).at(offset));
    }
}

/// The digests so far.
struct Results<'a> {
    image: &'a Image,
    groups: &'a [Group],
    /// Of the current group; empty before its first part.
    states: Vec<State>,
    /// A part of the current group could not be read.
    failed: bool,
    done: u64,
    total: u64,
    progress: Option<Callback<'a>>,
    verified: u64,
}

impl Results<'_> {
    /// Adds the next part. Returns its buffer.
    fn add(&mut self, done: Done, found: &mut Vec<Problem>) -> Result<Option<Vec<u8>>> {
        let Done { group: number, ends, len, part } = done;
        let group = &self.groups[number];
        if self.states.is_empty() {
            self.failed = false;
            self.states = group.digests.iter().map(|digest| State::new(&digest.value)).collect();
        }
        let mut rest = None;
        match part {
            _ if self.failed => self.advance(len)?,
            Ok(Bytes::Zeros) => self.zeros(len)?,
            Ok(Bytes::Read(bytes, crc)) => {
                for state in &mut self.states {
                    state.update(&bytes);
                    crc.iter().for_each(|crc| state.combine(crc));
                }
                rest = Some(bytes);
                self.advance(len)?;
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) => {
                self.failed = true;
                found.push(unreadable(group, error));
            }
        }
        if ends {
            let states = std::mem::take(&mut self.states);
            if !self.failed {
                self.compare(group, states, found);
            }
        }
        Ok(rest)
    }

    fn zeros(&mut self, len: u64) -> Result<()> {
        let crc = crc_of_zeros(len);
        self.states.iter_mut().for_each(|state| state.combine(&crc));
        if self.states.iter().all(|state| matches!(state, State::Crc32(_))) {
            return self.advance(len);
        }
        let mut left = len;
        while left > 0 {
            let step = left.min(STEP);
            let mut in_step = step;
            while in_step > 0 {
                let n = in_step.min(ZEROS.len() as u64);
                self.states.iter_mut().for_each(|state| state.update(&ZEROS[..n as usize]));
                in_step -= n;
            }
            left -= step;
            self.advance(step)?;
        }
        Ok(())
    }

    fn advance(&mut self, len: u64) -> Result<()> {
        self.done = self.done.saturating_add(len).min(self.total);
        report(self.progress, self.done, self.total)
    }

    fn compare(&mut self, group: &Group, states: Vec<State>, found: &mut Vec<Problem>) {
        for (digest, state) in group.digests.iter().zip(states) {
            let computed = state.finish();
            if computed == digest.value {
                self.verified += 1;
                continue;
            }
            let of = match &digest.contents {
                DigestedBytes::Guest(ranges) => match &ranges[..] {
                    [range] if *range == (0..self.image.size()) => "the disk".to_owned(),
                    [range] => format!("guest bytes {}..{}", range.start, range.end),
                    ranges => format!("{} guest ranges", ranges.len()),
                },
                DigestedBytes::Host { range, .. } => {
                    format!("the stored bytes {}..{}", range.start, range.end)
                }
            };
            let recorded = digest.value;
            found.push(Problem {
                structure: digest.structure.clone(),
                offset: digest.offset,
                found: Mismatch::Differs { recorded, computed, of },
            });
        }
    }
}

/// Returns the problem of a group whose contents cannot be read.
fn unreadable(group: &Group, error: Error) -> Problem {
    let algorithms: Vec<_> = group.digests.iter().map(|digest| digest.value.algorithm()).collect();
    let (structure, offset) = match group.digests.first() {
        Some(first) => (first.structure.clone(), first.offset),
        None => (String::new(), 0),
    };
    Problem { structure, offset, found: Mismatch::Unreadable(algorithms.join(" and "), error) }
}

#[cfg(test)]
mod tests;
