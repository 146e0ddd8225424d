//! Reading ahead: the stored bytes of consecutive tasks, with few requests.
//!
//! Only for files that are read efficiently with several requests in flight; see
//! [`IoHints`](crate::storage::source::IoHints). Bytes that could not be read are not loaded: the
//! worker reads them again and handles the error. Only a transient error is kept, because a source
//! has already tried again.

use super::input::{Input, InputRun};
use super::plan::Task;
use crate::error::{Error, ErrorKind};
use crate::model::extent::{HostOffset, Kind};
use crate::model::fetch::Preloaded;
use crate::ops::pipeline::Weight;
use crate::storage::buffer;
use crate::storage::source::{IoHints, Source};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The stored bytes of a task that were read ahead.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// In ascending order; shared by the tasks that were loaded together.
    spans: Arc<[Span]>,
    /// Why reading failed.
    pub(super) error: Option<Error>,
}

/// Bytes of a file of the input.
#[derive(Debug)]
struct Span {
    file: FileKey,
    range: Range<u64>,
    bytes: Vec<u8>,
}

/// A file of the input: indices of its image, layer and file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FileKey {
    image: usize,
    depth: usize,
    file: usize,
}

impl FileKey {
    fn source<'a>(&self, input: &'a Input) -> &'a dyn Source {
        input.image(self.image).file(self.depth, self.file)
    }
}

/// Returns the range of a file in which the bytes of `run` are stored, if they are stored.
fn stored_range(run: &InputRun) -> Option<(FileKey, Range<u64>)> {
    let (host, len) = match &run.extent.kind {
        Kind::Data(host) => (host, run.at.end - run.at.start),
        // A unit that is longer than a task is read by the task that starts with it; the worker
        // keeps it.
        Kind::Encoded(encoded) if encoded.unit.start == run.extent.guest.start => {
            (&encoded.host, u64::from(encoded.stored))
        }
        Kind::Encoded(_) => return None,
        Kind::Zero(_) | Kind::Unallocated => return None,
    };
    let file = FileKey { image: run.image?, depth: run.extent.depth, file: host.file };
    Some((file, host.offset..host.offset.saturating_add(len)))
}

/// Memory in bytes of a task itself, about.
const TASK: u64 = 4096;

/// Returns how much a task reads, and the memory that it takes.
pub(super) fn weight(task: &Task) -> Weight {
    if task.origin.is_some() {
        return Weight { read: 0, memory: TASK };
    }
    let stored = task.input_runs.iter().filter_map(stored_range);
    let read = stored.map(|(_, range)| range.end - range.start).sum();
    // Requests include gaps, which are at most as long as what is wanted.
    let guest = task.range.end - task.range.start;
    Weight { read, memory: TASK + 2 * read + guest }
}

/// Reads the stored bytes of consecutive tasks.
pub(super) fn load(input: &Input, tasks: &mut [&mut Task]) {
    let mut wanted: BTreeMap<FileKey, Vec<Range<u64>>> = BTreeMap::new();
    for task in tasks.iter().filter(|task| task.origin.is_none()) {
        for (file, range) in task.input_runs.iter().filter_map(stored_range) {
            wanted.entry(file).or_default().push(range);
        }
    }
    let (mut spans, mut failed) = (Vec::new(), None);
    for (file, ranges) in wanted {
        let hints = file.source(input).io();
        if !hints.is_remote() {
            continue;
        }
        match read(file, file.source(input), hints, ranges) {
            Ok(read) => spans.extend(read),
            Err(error) if error.kind() == ErrorKind::Transient => {
                failed = Some(input.image(file.image).in_layer(error, file.depth));
            }
            Err(_) => {}
        }
    }
    let spans: Arc<[Span]> = spans.into();
    for task in tasks {
        task.loaded = Loaded { spans: Arc::clone(&spans), error: failed.take() };
    }
}

fn read(
    file: FileKey,
    source: &dyn Source,
    hints: IoHints,
    ranges: Vec<Range<u64>>,
) -> Result<Vec<Span>, Error> {
    let span = |range: Range<u64>| {
        let bytes = buffer::zeroed((range.end - range.start) as usize);
        Span { file, range, bytes }
    };
    let requests = hints.requests(ranges).into_iter();
    let mut spans: Vec<_> = requests.filter(|range| range.end <= source.len()).map(span).collect();
    let mut buffers: Vec<_> =
        spans.iter_mut().map(|span| (span.range.start, &mut span.bytes[..])).collect();
    source.read_ranges(&mut buffers).map_err(|e| {
        let first = spans.first().map_or(0, |span| span.range.start);
        Error::io("cannot read guest data", e).at(first)
    })?;
    Ok(spans)
}

/// What was loaded of one image.
pub(super) struct LoadedImage<'a> {
    pub(super) loaded: &'a Loaded,
    pub(super) image: usize,
}

impl Preloaded for LoadedImage<'_> {
    fn stored(&self, depth: usize, host: &HostOffset, len: usize) -> Option<&[u8]> {
        let file = FileKey { image: self.image, depth, file: host.file };
        let spans = &self.loaded.spans;
        let after = spans.partition_point(|s| (s.file, s.range.start) <= (file, host.offset));
        let span = spans[..after].last().filter(|span| span.file == file)?;
        let start = (host.offset - span.range.start) as usize;
        span.bytes.get(start..start.checked_add(len)?)
    }
}
