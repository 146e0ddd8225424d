//! The interface for writing a format.

use crate::error::{Error, Result};
use crate::model::backing::Backing;
use crate::model::bitmap::DirtyBitmap;
use crate::model::extent::Encoded;
use crate::model::options::Options;
use crate::report::info::Info;
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use crate::storage::source::Source;
#[cfg(feature = "serde")]
use serde::Serialize;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// A request to allocate space at a guest offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allocate {
    /// `len` bytes that read as zeros: any number of clusters, of which the last may be partial at
    /// the end of the disk.
    Zero {
        /// Length in bytes.
        len: u64,
    },
    /// `len` bytes that are read from the backing file: any number of clusters, of which the last
    /// may be partial at the end of the disk. Only a target that preallocates needs space for them.
    /// In an existing image, they become unallocated.
    Backed {
        /// Length in bytes.
        len: u64,
    },
    /// `len` bytes that the engine will write verbatim: any number of clusters, of which the last
    /// may be partial at the end of the disk.
    Data {
        /// Length in bytes.
        len: u64,
    },
    /// One cluster as encoded by this target's [`UnitEncoder`], with its framing.
    Compressed {
        /// Encoded length in bytes.
        len: u64,
    },
}

/// Allocated space, to which the engine must write the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Index into [`Target::files`].
    pub(crate) file: usize,
    /// Host offset, in bytes.
    pub(crate) offset: u64,
    /// Number of bytes that the slot holds. If it is less than requested, the engine must place the
    /// rest with another call.
    pub(crate) len: u64,
    /// The slot reads as zeros until it is written, so that zeros need not be written to it.
    pub(crate) is_zeroed: bool,
}

/// Encodes clusters for a target, usually by compressing them. Each worker thread has its own.
pub(crate) trait UnitEncoder: Send + Debug {
    /// Encodes the cluster at guest offset `at` and appends the result, with its framing, to `out`.
    /// Returns `false` if the cluster should be stored verbatim instead. `unit` is always a whole
    /// cluster, padded with zeros beyond the end of the disk.
    ///
    /// # Errors
    /// Returns an error if the codec fails.
    fn encode(&mut self, at: u64, unit: &[u8], out: &mut Vec<u8>) -> Result<bool>;

    /// Returns true if the compressed unit `unit` of another image can be copied with
    /// [`pass`](Self::pass), without decoding and encoding it again.
    fn passes(&self, unit: &Encoded) -> bool {
        let _ = unit;
        false
    }

    /// Like [`encode`](Self::encode), for a compressed unit for which [`passes`](Self::passes)
    /// returned true: appends its `len` stored bytes to `out`, with framing. `fill` reads the bytes.
    ///
    /// # Errors
    /// Returns the errors of `fill`.
    fn pass(
        &mut self,
        at: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<()>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let _ = (at, len, fill, out);
        Err(Error::invalid("the target cannot store compressed units of other images"))
    }
}

/// Appends `len` bytes, written by `fill`, to `out`.
///
/// # Errors
/// Returns the errors of `fill`; `out` is then unchanged.
pub(crate) fn append_filled(
    len: usize,
    fill: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let start = out.len();
    out.resize(start + len, 0);
    fill(&mut out[start..]).inspect_err(|_| out.truncate(start))
}

/// A new image before it has an output: its size, its options, and how its clusters are encoded.
///
/// All that is known without an output is here, so that a conversion can be planned, and its parts
/// encoded, before and apart from the place where they are written.
pub(crate) trait TargetSpec: Send + Sync + Debug {
    /// Returns the virtual disk size in bytes.
    fn size(&self) -> u64;

    /// Returns the length in bytes, a power of two, of the unit in which the engine allocates space
    /// and detects zeros: a cluster, or a part of one in a format with very large clusters.
    fn quantum(&self) -> u64;

    /// Returns true if the format must be written sequentially (streamOptimized VMDK). The engine
    /// then writes each slot before it places the next.
    fn sequential(&self) -> bool {
        false
    }

    /// Returns true if clusters of zeros between others are to be encoded like others, because they
    /// take space in a file that is written sequentially: what the target writes itself is written
    /// before what the engine has placed since its last write. The target must have an encoder.
    fn encodes_zeros(&self) -> bool {
        false
    }

    /// Returns the alignment in bytes, a power of two, of the offsets of all slots for
    /// uncompressed data. The file system can share only aligned blocks.
    fn alignment(&self) -> u64 {
        1
    }

    /// Returns an encoder, or `None` if the target stores all clusters verbatim. All encoders of an
    /// image encode a cluster to the same bytes. Called once per worker thread.
    fn encoder(&self) -> Option<Box<dyn UnitEncoder>> {
        None
    }

    /// Returns true if [`Target::take_digest`] uses the digest, which takes time to compute. The
    /// quantum must then be a multiple of 4 KiB.
    fn wants_digest(&self) -> bool {
        false
    }

    /// Returns the image in `file`, the main file that was written, in order to verify it: `file`
    /// itself unless the format wraps it in something that opening an image of the format by name
    /// does not unwrap.
    ///
    /// # Errors
    /// Returns an error if it cannot be unwrapped.
    fn contents(&self, file: Arc<dyn Source>) -> Result<Arc<dyn Source>> {
        Ok(file)
    }

    /// Sets the dirty bitmaps that the image gets besides those that it has. They are stored after
    /// the guest data. Returns false if images of this format and version have none.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) or [`Limit`](crate::ErrorKind::Limit) if the
    /// image cannot have these.
    fn set_bitmaps(&mut self, bitmaps: Vec<DirtyBitmap>) -> Result<bool> {
        let _ = bitmaps;
        Ok(false)
    }

    /// Starts to write the image to `output`.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the format cannot be written to
    /// this output, and [`Io`](crate::ErrorKind::Io) if creating or writing files fails.
    fn start(&self, output: &mut Output) -> Result<Box<dyn Target>>;

    /// Starts to write an image without data, which other programs will write into it.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    fn start_empty(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        self.start(output)
    }
}

/// A new image that is being written. The target allocates space and writes metadata; the engine
/// encodes and writes the guest's bytes.
///
/// The engine calls [`place`](Self::place) in ascending order of guest offsets and at most once per
/// quantum. The layout depends on these calls alone: not on the number of threads, nor on where the
/// bytes come from.
/// Clusters that are never placed remain unallocated: they are read from the backing file, or as
/// zeros without one.
pub(crate) trait Target: Send + Debug {
    /// Returns the files being written, which [`Slot`]s index.
    fn files(&self) -> &[Arc<dyn Sink>];

    /// Allocates space for the guest bytes at `at`, a multiple of the quantum. Returns `None` if
    /// there is nothing to write.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if a limit of the format is exceeded, and
    /// [`Io`](crate::ErrorKind::Io) if writing the target's tables fails.
    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>>;

    /// Tells the target that the data of all slots for guest bytes before `end` is written, so that
    /// it may store metadata for them.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    fn settle(&mut self, end: u64) -> Result<()> {
        let _ = end;
        Ok(())
    }

    /// Receives a digest of the disk's content as seen by the guest. Equal contents have equal
    /// digests if all data was read; data that is shared or copied by the kernel contributes its
    /// range and the source file's revision instead. Called once before [`finish`](Self::finish),
    /// but not for an image that is created empty, whose digest is 0.
    fn take_digest(&mut self, digest: u64) {
        let _ = digest;
    }

    /// Writes the remaining metadata (tables, header, footer) and sets the file lengths.
    ///
    /// # Errors
    /// Returns an error if writing fails.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Parameters of a new image.
#[derive(Debug)]
pub(crate) struct CreateRequest<'a> {
    /// Virtual disk size in bytes.
    pub(crate) size: u64,
    /// The create options, already checked against the format's list of `OptionSpec`s.
    pub(crate) options: &'a Options,
    /// Backing file.
    pub(crate) backing: Option<Backing>,
    /// Whether to compress the image.
    pub(crate) compress: bool,
}

/// Size of a new image in bytes. Serializes with the keys of `qemu-img measure --output=json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Measure {
    /// Additional bytes needed to copy the source's bitmaps; `None` unless both the source and the
    /// target format support bitmaps.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub bitmaps: Option<u64>,
    /// File length for the data of the source.
    pub required: u64,
    /// File length if every cluster is allocated.
    pub fully_allocated: u64,
}

/// Calls its argument with each range of guest bytes that contains data, in ascending order.
pub(crate) type DataRanges<'a> = dyn FnMut(&mut dyn FnMut(Range<u64>)) -> Result<()> + 'a;

/// Parameters of a measurement.
pub(crate) struct MeasureRequest<'a> {
    /// Virtual disk size in bytes.
    pub(crate) size: u64,
    /// The target format's create options.
    pub(crate) options: &'a Options,
    /// Information about the source image, if there is one.
    pub(crate) source: Option<&'a Info>,
    /// Enumerates the ranges of guest bytes that contain data.
    pub(crate) data: &'a mut DataRanges<'a>,
}

impl Debug for MeasureRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeasureRequest").field("size", &self.size).finish_non_exhaustive()
    }
}
