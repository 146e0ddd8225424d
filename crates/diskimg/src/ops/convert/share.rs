//! Decides which data goes from file to file without being read.
//!
//! ```text
//!   reflink    FICLONERANGE: the two files share the blocks     no copying, no space
//!   offload    copy_file_range: the kernel copies               only on request
//!   transfer   read, detect zeros, write                        everything else
//! ```
//!
//! Zeros can be detected only in data that is read. Undetected zeros in shared blocks take no
//! space; in copied blocks they do, which is why the kernel copies only on request.

use super::input::{Input, InputRun};
use crate::error::{Error, Result};
use crate::model::extent::{HostOffset, Kind};
use crate::model::target::Target;
use crate::remedy::Remedy;
use crate::storage::os;
use std::ops::Range;

/// Whether the output shares blocks with the source, on file systems with reflinks (XFS, Btrfs,
/// bcachefs, OCFS2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Reflink {
    /// Share where possible.
    #[default]
    Auto,
    /// Fail if data cannot be shared. Parts smaller than a block of the file system or a cluster of
    /// the output are copied nevertheless.
    Always,
    /// Never share: every byte is read and written.
    Never,
}

/// Minimum length of a run that is shared or copied by the kernel. A shorter one is not worth a
/// separate system call.
const MIN_CALL: u64 = 64 << 10;

/// Maximum length passed to one system call, so that progress is reported regularly and
/// cancelling takes effect soon.
const MAX_CALL: u64 = 64 << 20;

/// Where data is stored in the source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) image: usize,
    pub(super) depth: usize,
    pub(super) host: HostOffset,
}

/// What one conversion can share or let the kernel copy.
#[derive(Debug)]
pub(super) struct Sharing {
    reflink: Reflink,
    /// Whether the kernel copies runs that cannot be shared.
    offload: bool,
    /// The source's files, by image, layer and file index.
    files: Vec<Vec<Vec<SourceFile>>>,
}

/// Properties of a source file.
#[derive(Debug, Clone, Copy, Default)]
struct SourceFile {
    /// Block size in bytes if the file can share blocks with the output.
    block: Option<u64>,
    /// File offset of its first byte, if it is a window of a larger file.
    start: u64,
    /// Changes when the file is modified; see [`digest::of_unread`](super::digest::of_unread).
    revision: u64,
}

impl Sharing {
    /// Returns a value with which everything is read and written.
    pub(super) fn none() -> Self {
        Self { reflink: Reflink::Never, offload: false, files: Vec::new() }
    }

    /// Determines what can be shared with the files of `target` by a trial reflink. No guest data
    /// has been written to them yet.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if the trial reflink cannot be undone.
    pub(super) fn detect(
        reflink: Reflink,
        offload: bool,
        input: &Input,
        target: &dyn Target,
        alignment: u64,
    ) -> Result<Self> {
        let mut files = Vec::new();
        if reflink != Reflink::Never || offload {
            for index in 0..input.images() {
                let layers = input.image(index).layers();
                let layers = layers.map(|layer| {
                    let sources = layer.files().iter();
                    sources
                        .map(|source| SourceFile::examine(reflink, &**source, target, alignment))
                        .collect()
                });
                files.push(layers.collect::<Result<_>>()?);
            }
        }
        Ok(Self { reflink, offload, files })
    }

    /// Returns true if a run that cannot be shared is an error.
    pub(super) fn is_required(&self) -> bool {
        self.reflink == Reflink::Always
    }

    /// Returns true if the kernel may copy what cannot be shared.
    pub(super) fn offloads(&self) -> bool {
        self.offload
    }

    /// Returns true if any data may be shared or copied by the kernel.
    pub(super) fn is_possible(&self) -> bool {
        !self.files.is_empty()
    }

    /// Returns true if the file at `origin` can share blocks with the output.
    pub(super) fn shares(&self, origin: &Origin) -> bool {
        self.file(origin).block.is_some()
    }

    /// Returns a number that changes when the file at `origin` is modified.
    pub(super) fn revision(&self, origin: &Origin) -> u64 {
        self.file(origin).revision
    }

    fn file(&self, origin: &Origin) -> SourceFile {
        self.files[origin.image][origin.depth][origin.host.file]
    }

    /// Returns the part of `input_run` within `run` that can be shared or copied by the kernel, in
    /// whole clusters and at most as long as one system call takes.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the run must be shared and cannot
    /// be.
    pub(super) fn part_of(
        &self,
        input_run: &InputRun,
        run: &Range<u64>,
        cluster_size: u64,
    ) -> Result<Option<(Range<u64>, Origin)>> {
        let (Kind::Data(host), Some(image)) = (&input_run.extent.kind, input_run.image) else {
            return Ok(None);
        };
        let origin = Origin { image, depth: input_run.extent.depth, host: *host };
        let file = self.file(&origin);
        // Both sides must start at a block boundary. In the target every cluster does.
        let is_aligned = |block: u64| {
            let shift = (file.start + host.offset).wrapping_sub(input_run.at.start);
            shift.is_multiple_of(block)
        };
        let block = file.block.filter(|&block| is_aligned(block));
        let step = cluster_size.max(block.unwrap_or(1));
        let start = input_run.at.start.max(run.start).next_multiple_of(step);
        let end = input_run.at.end.min(run.end) / step * step;
        let min_len = if self.is_required() { step } else { MIN_CALL };
        if start.saturating_add(min_len) > end {
            return Ok(None);
        }
        if block.is_none() && self.is_required() {
            return Err(cannot_share(file.block).at(host.offset));
        }
        if block.is_none() && !self.offload {
            return Ok(None);
        }
        let host = HostOffset { offset: host.offset + (start - input_run.at.start), ..*host };
        Ok(Some((start..end.min(start + MAX_CALL), Origin { host, ..origin })))
    }
}

/// Returns the error for data that must be shared and cannot be. `block` is the block size if the
/// file itself can share blocks.
pub(super) fn cannot_share(block: Option<u64>) -> Error {
    match block {
        Some(block) => Error::unsupported(format!(
            "its data cannot be shared: it is not aligned to blocks of {block} bytes as in the \
             output"
        )),
        None => Error::unsupported(
            "its data cannot be shared with the output: the files are on different file systems, \
             or the file system has no reflinks",
        ),
    }
    .with_remedy(Remedy::AllowCopying)
}

impl SourceFile {
    fn examine(
        reflink: Reflink,
        source: &dyn crate::Source,
        target: &dyn Target,
        alignment: u64,
    ) -> Result<Self> {
        let Some((file, start)) = source.as_file() else { return Ok(Self::default()) };
        let revision = file.metadata().as_ref().map_or(0, os::revision);
        let mut block = None;
        // All output files are in one directory, except a data file, which can be anywhere and is
        // the last one.
        let sinks = target.files();
        for sink in sinks.first().into_iter().chain(sinks.last().filter(|_| sinks.len() > 1)) {
            if reflink == Reflink::Never {
                break;
            }
            let tried = sink.shareable_block(source);
            block = tried.map_err(|e| Error::io("cannot undo a trial reflink", e))?;
            if block.is_none() {
                break;
            }
        }
        Ok(Self { block: block.filter(|&b| alignment.is_multiple_of(b)), start, revision })
    }
}
