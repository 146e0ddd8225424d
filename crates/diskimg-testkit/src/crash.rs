//! Storage that records what is written, and the states in which a crash can leave it.
//!
//! After a crash, everything before the last completed barrier is on the disk. What was written
//! after it may be there or not, in any combination of sectors.

use diskimg::Source;
use diskimg::storage::edit::{MemoryStorage, Storage};
use diskimg::storage::sink::Sink;
use diskimg::storage::source::SourceError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Size in bytes of what a disk writes as a whole or not at all.
const SECTOR: u64 = 512;

/// Largest number of units of which all combinations are tried.
const EXHAUSTIVE: usize = 10;

/// Number of random combinations that are tried if there are more units.
const RANDOM: usize = 200;

/// An operation on a file.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Bytes are written at an offset.
    Write(u64, Vec<u8>),
    /// The length is set.
    SetLen(u64),
    /// What was done before to the same file is on the disk.
    Barrier,
}

/// Calls `each` with the states in which a crash can leave several files, which had the contents
/// `before`, and returns their number. `log` has the operations in their order, each with the index
/// of its file. `seed` and `step` are those of [`RecordingStorage::crash_states`].
pub fn crash_states(
    before: &[Vec<u8>],
    log: &[(usize, Operation)],
    seed: u64,
    step: usize,
    mut each: impl FnMut(&[Vec<u8>]),
) -> usize {
    let mut durable = before.to_vec();
    let mut states = 0;
    let mut random = Random(seed | 1);
    let mut pending: Vec<(usize, Operation)> = Vec::new();
    let end = [None];
    for entry in log.iter().map(Some).chain(end) {
        match entry {
            Some((file, operation)) if !matches!(operation, Operation::Barrier) => {
                pending.extend(units(operation).into_iter().map(|unit| (*file, unit)));
            }
            // Before a barrier, and at the end, anything may be missing.
            _ => {
                let step = if pending.len() > EXHAUSTIVE { step } else { 1 };
                for subset in subsets(pending.len(), &mut random).into_iter().step_by(step) {
                    let mut state = durable.clone();
                    let chosen = pending.iter().zip(subset).filter(|(_, chosen)| *chosen);
                    chosen.for_each(|((file, unit), _)| apply(unit, &mut state[*file]));
                    each(&state);
                    states += 1;
                }
                let flushed = entry.map(|(file, _)| *file);
                pending.retain(|(file, unit)| {
                    let is_flushed = Some(*file) == flushed;
                    if is_flushed {
                        apply(unit, &mut durable[*file]);
                    }
                    !is_flushed
                });
            }
        }
    }
    states
}

/// Storage in memory that records all modifications.
#[derive(Debug)]
pub struct RecordingStorage {
    before: Vec<u8>,
    now: MemoryStorage,
    path: Option<PathBuf>,
    /// The length cannot change, as that of a device.
    has_fixed_len: bool,
    operations: Mutex<Vec<Operation>>,
}

impl RecordingStorage {
    /// Creates storage with these bytes, as those of the file at `path`, which is not accessed.
    pub fn new(bytes: Vec<u8>, path: Option<PathBuf>) -> Self {
        Self {
            now: MemoryStorage::new(bytes.clone()),
            before: bytes,
            path,
            has_fixed_len: false,
            operations: Mutex::default(),
        }
    }

    /// Creates storage with these bytes, whose length cannot change, as that of a device.
    pub fn device(bytes: Vec<u8>) -> Self {
        Self { has_fixed_len: true, ..Self::new(bytes, None) }
    }

    /// Returns an error for a write that ends at `end` if that is beyond the end of a device.
    fn require_room(&self, end: u64) -> io::Result<()> {
        match self.has_fixed_len && end > self.now.current_len() {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    /// Returns the bytes after all operations.
    pub fn to_vec(&self) -> Vec<u8> {
        self.now.to_vec()
    }

    /// Returns the number of barriers.
    pub fn barriers(&self) -> usize {
        let operations = self.operations.lock().unwrap();
        operations.iter().filter(|op| matches!(op, Operation::Barrier)).count()
    }

    /// Calls `each` with the states in which a crash can leave the storage, and returns their
    /// number. Of combinations of many sectors, a sample is tried, which `seed` determines, and of
    /// that every `step`-th.
    pub fn crash_states(&self, seed: u64, step: usize, mut each: impl FnMut(&[u8])) -> usize {
        let operations = self.operations.lock().unwrap().clone();
        let log: Vec<_> = operations.into_iter().map(|operation| (0, operation)).collect();
        let before = std::slice::from_ref(&self.before);
        crash_states(before, &log, seed, step, |files| each(&files[0]))
    }

    fn record(&self, operation: Operation) {
        self.operations.lock().unwrap().push(operation);
    }
}

/// Divides an operation into parts that take effect as a whole.
fn units(operation: &Operation) -> Vec<Operation> {
    let Operation::Write(offset, bytes) = operation else { return vec![operation.clone()] };
    let (mut at, mut rest) = (*offset, bytes.as_slice());
    let mut units = Vec::new();
    while !rest.is_empty() {
        let len = (SECTOR - at % SECTOR).min(rest.len() as u64);
        let (part, after) = rest.split_at(len as usize);
        units.push(Operation::Write(at, part.to_vec()));
        at += len;
        rest = after;
    }
    units
}

fn apply(unit: &Operation, state: &mut Vec<u8>) {
    match unit {
        Operation::Write(offset, bytes) => {
            let (start, end) = (*offset as usize, *offset as usize + bytes.len());
            if state.len() < end {
                state.resize(end, 0);
            }
            state[start..end].copy_from_slice(bytes);
        }
        Operation::SetLen(len) => state.resize(*len as usize, 0),
        Operation::Barrier => {}
    }
}

/// Returns subsets of `count` units: all of them if there are few, otherwise none, all, all but
/// one, only one, every prefix and suffix, and random ones.
fn subsets(count: usize, random: &mut Random) -> Vec<Vec<bool>> {
    if count <= EXHAUSTIVE {
        return (0..1usize << count)
            .map(|bits| (0..count).map(|unit| bits >> unit & 1 == 1).collect())
            .collect();
    }
    let of = |f: &dyn Fn(usize) -> bool| (0..count).map(f).collect::<Vec<_>>();
    let mut subsets = vec![of(&|_| false), of(&|_| true)];
    for one in 0..count {
        subsets.push(of(&|unit| unit != one));
        subsets.push(of(&|unit| unit == one));
        subsets.push(of(&|unit| unit < one));
        subsets.push(of(&|unit| unit > one));
    }
    subsets.extend((0..RANDOM).map(|_| (0..count).map(|_| random.next() & 1 == 1).collect()));
    subsets
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 32
    }
}

impl Source for RecordingStorage {
    fn len(&self) -> u64 {
        self.now.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.now.read_exact_at(buf, offset)
    }

    fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl Sink for RecordingStorage {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.require_room(offset + buf.len() as u64)?;
        self.record(Operation::Write(offset, buf.to_vec()));
        self.now.write_all_at(buf, offset)
    }

    fn is_zeroed(&self) -> bool {
        false
    }

    fn has_fixed_len(&self) -> bool {
        self.has_fixed_len
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.require_room(len)?;
        self.record(Operation::SetLen(len));
        self.now.set_len(len)
    }

    fn flush(&self) -> io::Result<()> {
        self.record(Operation::Barrier);
        Ok(())
    }
}

impl Storage for RecordingStorage {
    fn current_len(&self) -> u64 {
        self.now.current_len()
    }

    fn discard_at(&self, offset: u64, len: u64) -> io::Result<()> {
        // Any bytes are allowed; these are the most harmful.
        self.write_all_at(&vec![0xdb; len as usize], offset)
    }
}
