//! Which stored runs go from file to file without being read.
//!
//! ```text
//!   reflink   FICLONERANGE: the two files share the blocks      no bytes move, no space is taken
//!   offload   copy_file_range: the kernel copies                only when asked for
//!   carry     read, look for zeros, write                       everything else
//! ```
//!
//! What is not read is not searched for zeros. Shared blocks cost no space, so nothing is
//! lost by that; copied ones do, which is why the kernel copies only when it is told to.

use super::input::{Input, InputRun};
use crate::error::{Error, Result};
use crate::model::extent::{HostOffset, Kind};
use crate::model::target::Target;
use crate::storage::os;
use std::ops::Range;

/// Whether stored runs share their blocks with the source, on file systems that have
/// reflinks (XFS, btrfs, bcachefs, OCFS2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reflink {
    /// Where it can be done.
    #[default]
    Auto,
    /// Or the conversion fails. What is smaller than a block of the file system, or than a
    /// unit of the output, is copied all the same.
    Always,
    /// Never: every byte is read and written.
    Never,
}

/// Stored runs from this length on are worth a system call of their own …
const WORTH_A_CALL: u64 = 64 << 10;

/// … of at most this many bytes, so that progress is seen and stopping is soon.
const MAX_CALL: u64 = 64 << 20;

/// Where stored bytes lie in the source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) image: usize,
    pub(super) depth: usize,
    pub(super) place: HostOffset,
}

/// What may go from file to file in one conversion.
#[derive(Debug)]
pub(super) struct Sharing {
    reflink: Reflink,
    /// Runs that cannot be shared are copied by the kernel.
    offload: bool,
    /// Of each image's layers, each file.
    files: Vec<Vec<Vec<SourceFile>>>,
}

/// What is known of a file of the source.
#[derive(Debug, Clone, Copy, Default)]
struct SourceFile {
    /// The blocks that it can share with the output, in bytes.
    block: Option<u64>,
    /// File offset of its first byte, where it is part of a larger one.
    start: u64,
    /// What its bytes are told apart by without being read.
    revision: u64,
}

impl Sharing {
    /// Everything is task.
    pub(super) fn none() -> Self {
        Self { reflink: Reflink::Never, offload: false, files: Vec::new() }
    }

    /// Finds out what can be shared with the files of `target`, to which nothing was
    /// written yet but what `create` wrote.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if all must be shared and some file
    /// cannot; what taking back the trial said.
    pub(super) fn find_out(
        reflink: Reflink,
        offload: bool,
        input: &Input,
        target: &dyn Target,
    ) -> Result<Self> {
        let mut files = Vec::new();
        if reflink != Reflink::Never || offload {
            for index in 0..input.images() {
                let layers = input.image(index).layers();
                let layers = layers.map(|layer| {
                    let sources = layer.files().iter();
                    sources.map(|source| SourceFile::look_at(reflink, &**source, target)).collect()
                });
                files.push(layers.collect::<Result<_>>()?);
            }
        }
        Ok(Self { reflink, offload, files })
    }

    /// True if a run that cannot be shared is an error.
    pub(super) fn is_required(&self) -> bool {
        self.reflink == Reflink::Always
    }

    /// True if the kernel may copy what cannot be shared.
    pub(super) fn offloads(&self) -> bool {
        self.offload
    }

    /// True if there may be anything that is not task.
    pub(super) fn is_possible(&self) -> bool {
        !self.files.is_empty()
    }

    /// True if the file's blocks can be shared with the output.
    pub(super) fn shares(&self, origin: &Origin) -> bool {
        self.file(origin).block.is_some()
    }

    /// What tells the bytes of this file from others without reading them.
    pub(super) fn revision(&self, origin: &Origin) -> u64 {
        self.file(origin).revision
    }

    fn file(&self, origin: &Origin) -> SourceFile {
        self.files[origin.image][origin.depth][origin.place.file]
    }

    /// The part of a input_run within `run` that goes from file to file, in whole units: at
    /// most as much as one system call is asked for.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if it must and cannot.
    pub(super) fn part_of(
        &self,
        input_run: &InputRun,
        run: &Range<u64>,
        unit: u64,
    ) -> Result<Option<(Range<u64>, Origin)>> {
        let (Kind::Data(place), Some(image)) = (&input_run.extent.kind, input_run.image) else {
            return Ok(None);
        };
        let origin = Origin { image, depth: input_run.extent.depth, place: *place };
        let file = self.file(&origin);
        // Both sides must begin with a block; the target's side does where a unit does.
        let on_a_block = |block: u64| {
            let shift = (file.start + place.offset).wrapping_sub(input_run.at.start);
            shift.is_multiple_of(block)
        };
        let block = file.block.filter(|&block| on_a_block(block));
        let step = unit.max(block.unwrap_or(1));
        let start = input_run.at.start.max(run.start).next_multiple_of(step);
        let end = input_run.at.end.min(run.end) / step * step;
        let least = if self.is_required() { step } else { WORTH_A_CALL };
        if start.saturating_add(least) > end {
            return Ok(None);
        }
        if block.is_none() && self.is_required() {
            return Err(cannot_share(file.block).at(place.offset));
        }
        if block.is_none() && !self.offload {
            return Ok(None);
        }
        let place = HostOffset { offset: place.offset + (start - input_run.at.start), ..*place };
        Ok(Some((start..end.min(start + MAX_CALL), Origin { place, ..origin })))
    }
}

/// Why stored bytes have to be copied: `block` is what the file could share otherwise.
pub(super) fn cannot_share(block: Option<u64>) -> Error {
    match block {
        Some(block) => Error::unsupported(format!(
            "its data cannot be shared: they do not lie on blocks of {block} bytes as they would \
             in the output"
        )),
        None => Error::unsupported(
            "its data cannot be shared with the output: they are on different file systems, \
             or on one without reflinks",
        ),
    }
    .hint("--reflink=auto (Reflink::Auto) copies what cannot be shared")
}

impl SourceFile {
    fn look_at(reflink: Reflink, source: &dyn crate::Source, target: &dyn Target) -> Result<Self> {
        let Some((file, start)) = source.as_file() else { return Ok(Self::default()) };
        let revision = file.metadata().as_ref().map_or(0, os::revision);
        let mut block = None;
        // An output's files are in one directory, but for a data file that is named elsewhere.
        let sinks = target.files();
        for sink in sinks.first().into_iter().chain(sinks.last().filter(|_| sinks.len() > 1)) {
            if reflink == Reflink::Never {
                break;
            }
            let tried = sink.shareable_block(source);
            block = tried.map_err(|e| Error::io("cannot take back a trial reflink", e))?;
            if block.is_none() {
                break;
            }
        }
        Ok(Self { block: block.filter(|&b| target.alignment().is_multiple_of(b)), start, revision })
    }
}
