//! The writing side of a format.

use crate::error::{Error, Result};
use crate::model::extent::Encoded;
use crate::model::layer::DiskLayout;
use crate::model::options::Options;
use crate::report::info::Info;
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use serde::Serialize;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// What the engine wants placed at a guest offset.
#[derive(Debug, Clone, Copy)]
pub enum Allocate<'a> {
    /// `len` bytes that read as zeros: any number of units, the last one
    /// perhaps short at the end of the disk.
    Zero {
        /// Bytes.
        len: u64,
    },
    /// `len` bytes that the engine will write verbatim: any number of units,
    /// the last one perhaps short at the end of the disk.
    Data {
        /// Bytes.
        len: u64,
    },
    /// One unit as this target's own [`UnitEncoder`] gave it.
    Compressed(&'a [u8]),
}

/// Where the engine is to write what it placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Index into [`Target::files`].
    pub file: usize,
    /// Host offset, in bytes.
    pub offset: u64,
    /// How many of the offered bytes belong here. Fewer than offered: ask
    /// again for the rest.
    pub len: u64,
}

/// Turns one unit of guest bytes into what the target stores. Each worker has
/// its own.
pub trait UnitEncoder: Send + Debug {
    /// Appends what is to be stored for the unit at guest offset `at`, framing
    /// included, to `out` and answers `true`; or answers `false`: store the
    /// bytes as they are. `unit` is always a whole unit (zeros follow the end
    /// of the disk).
    ///
    /// # Errors
    /// What the codec said.
    fn encode(&mut self, at: u64, unit: &[u8], out: &mut Vec<u8>) -> Result<bool>;

    /// True if a whole unit of another image may come as it is stored there, to go to
    /// [`pass`](Self::pass) instead of being decoded and encoded anew.
    fn passes(&self, unit: &Encoded) -> bool {
        let _ = unit;
        false
    }

    /// As [`encode`](Self::encode), for a unit that [`passes`](Self::passes): appends it,
    /// framing included. `fill` puts its `len` bytes where it is told.
    ///
    /// # Errors
    /// What `fill` said.
    fn pass(
        &mut self,
        at: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<()>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let _ = (at, len, fill, out);
        Err(Error::invalid("the target takes no encoded units of other images"))
    }
}

/// Appends `len` bytes that `fill` gives.
///
/// # Errors
/// What `fill` said; `out` is as it was then.
pub(crate) fn append_filled(
    len: usize,
    fill: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let start = out.len();
    out.resize(start + len, 0);
    fill(&mut out[start..]).inspect_err(|_| out.truncate(start))
}

/// Placement in a new image; the engine encodes and writes the bytes.
///
/// Calls to [`place`](Self::place) come in ascending order of guest offsets,
/// never twice for the same unit. So the layout depends on the guest bytes
/// alone, and not on how many threads carried them. What is never placed is
/// left to the backing file, or reads as zeros.
pub trait Target: Send + Debug {
    /// Size and unit of the new image.
    fn disk_layout(&self) -> DiskLayout;

    /// The files being written; [`Slot`]s index them.
    fn files(&self) -> &[Arc<dyn Sink>];

    /// True if the format itself demands that bytes leave in order
    /// (streamOptimized): then the engine writes every slot before it places
    /// the next.
    fn sequential(&self) -> bool {
        false
    }

    /// Every slot for stored bytes starts at a multiple of this many bytes of its file, a
    /// power of two: blocks of the file system can be shared only where they fall on blocks.
    fn alignment(&self) -> u64 {
        1
    }

    /// What encodes units for this target; `None` if it stores them as they
    /// are. Called once for each worker.
    fn encoder(&self) -> Option<Box<dyn UnitEncoder>> {
        None
    }

    /// Makes room at guest offset `at` (a multiple of the unit). `None`: there
    /// is nothing to write.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if the format can hold no more, and
    /// what writing the target's own tables said.
    fn place(&mut self, at: u64, unit: Allocate<'_>) -> Result<Option<Slot>>;

    /// True if [`take_digest`](Self::take_digest) has a use for the digest,
    /// which costs the engine some time. The unit is then a multiple of 4 KiB.
    fn wants_digest(&self) -> bool {
        false
    }

    /// Takes a digest of all of the disk's bytes as the guest sees them, where
    /// zeros count for nothing: the same bytes give the same digest, whatever
    /// they came from. Told once, before [`finish`](Self::finish), and not at all
    /// for an empty disk, whose digest is 0.
    fn take_digest(&mut self, digest: u64) {
        let _ = digest;
    }

    /// Writes what remains: tables, header, footer, the file's length.
    ///
    /// # Errors
    /// What writing said.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// The image that a new one builds on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backing {
    /// The name to record, as the user gave it.
    pub name: String,
    /// Its format's name, to be recorded too.
    pub format: Option<String>,
    /// The first of its [`Layer::content_ids`](crate::Layer::content_ids), for formats that
    /// record it. The verbs fill it in.
    pub content_id: Option<String>,
}

/// Everything a format needs to start a new image.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Where the bytes go.
    pub output: &'a mut Output,
    /// Guest bytes.
    pub size: u64,
    /// The format's own options, already checked against its list.
    pub options: &'a Options,
    /// The image it builds on.
    pub backing: Option<Backing>,
    /// Whether units shall be compressed.
    pub compress: bool,
}

/// How much space a new image would take, in bytes. The serialised form has the
/// keys of `qemu-img measure --output=json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measure {
    /// Bytes that the source's bitmaps would take besides, were they carried over;
    /// `None` unless both source and target can hold bitmaps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<u64>,
    /// File length for the data at hand.
    pub required: u64,
    /// File length with every unit allocated.
    pub fully_allocated: u64,
}

/// Calls its argument with each range of guest bytes that holds data, in
/// ascending order.
pub type DataRanges<'a> = dyn FnMut(&mut dyn FnMut(Range<u64>)) -> Result<()> + 'a;

/// What is to be measured.
pub struct MeasureRequest<'a> {
    /// Guest bytes.
    pub size: u64,
    /// The target format's options.
    pub options: &'a Options,
    /// What the source tells of itself, if there is one.
    pub source: Option<&'a Info>,
    /// Tells which guest bytes hold data.
    pub data: &'a mut DataRanges<'a>,
}

impl Debug for MeasureRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeasureRequest").field("size", &self.size).finish_non_exhaustive()
    }
}
