//! Images in compressed files.
//!
//! A file is compressed if its first bytes are those of gzip, xz, bzip2 or zstd, and those of no
//! format that is read; a DMG may start with a compressed chunk. A file whose format is stated to be
//! raw is a raw disk, whatever it starts with, and what is in a compressed file is not decompressed
//! again.

use crate::error::Result;
use crate::model::format::Format;
use crate::open::driver::format_by_end;
use crate::open::limits::Limits;
use crate::open::probe::ProbeBytes;
use crate::open::unpack::{self, UnpackBudget};
use crate::storage::compressed::{BlockBounds, BlockSource, Compression};
use crate::storage::source::{HostFileId, IoHints, Segment, Source, SourceError};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Returns how a file is compressed that contains an image of the format, if that is known.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) or [`Transient`](crate::ErrorKind::Transient) if the file cannot be
/// read.
pub(crate) fn detect(file: &dyn Source, format: Option<Format>) -> Result<Option<Compression>> {
    if format == Some(Format::Raw) {
        return Ok(None);
    }
    let bytes = ProbeBytes::read_head(file)?;
    let buffer = bytes.of(None);
    let Some(compression) = Compression::of(buffer.head) else { return Ok(None) };
    let with_tail = ProbeBytes::read(file)?;
    let by_end = format_by_end(&with_tail.of(None));
    let read_as_it_is =
        |format: &Format| (format.driver().probe)(&buffer) || by_end == Some(*format);
    let is_image = match &format {
        Some(format) => read_as_it_is(format),
        None => Format::ALL.iter().any(read_as_it_is),
    };
    Ok(Some(compression).filter(|_| !is_image))
}

/// Opens the contents of a compressed file: in place, if it consists of blocks that can be decoded
/// independently, and otherwise as a temporary file.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) if they are longer than the limits allow,
/// [`Corrupt`](crate::ErrorKind::Corrupt) if they cannot be decoded,
/// [`Unsupported`](crate::ErrorKind::Unsupported) if this build lacks the decoder,
/// [`Io`](crate::ErrorKind::Io).
pub(crate) fn open(
    file: &Arc<dyn Source>,
    compression: Compression,
    limits: &Limits,
) -> Result<Arc<dyn Source>> {
    let bounds = BlockBounds { block: limits.unit_bytes, list: limits.table_bytes };
    let blocks = BlockSource::open(Arc::clone(file), compression, bounds);
    if let Some(blocks) = blocks.map_err(unpack::failed)? {
        // Nothing is stored, and blocks are bounded: any ratio is harmless, such as that of zeros.
        UnpackBudget::of(u64::MAX, limits).require(blocks.len())?;
        return Ok(Arc::new(blocks));
    }
    let budget = match compression {
        Compression::Gzip => UnpackBudget::of(file.len(), limits),
        _ => UnpackBudget::by_expansion(file.len(), limits),
    };
    let stream = compression.reader(&**file).map_err(unpack::failed)?;
    let bytes = unpack::to_temporary_file(stream, budget)?;
    Ok(Arc::new(Unpacked { bytes, file: Arc::clone(file) }))
}

/// The contents of a compressed file, in a temporary file.
#[derive(Debug)]
struct Unpacked {
    bytes: Arc<dyn Source>,
    /// The compressed file, whose path and identity these are.
    file: Arc<dyn Source>,
}

impl Source for Unpacked {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.bytes.read_exact_at(buf, offset)
    }

    fn read_ranges(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        self.bytes.read_ranges(ranges)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        self.bytes.segment_at(offset)
    }

    fn io(&self) -> IoHints {
        self.bytes.io()
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        self.bytes.as_file()
    }

    fn path(&self) -> Option<&Path> {
        self.file.path()
    }

    fn allocated_bytes(&self) -> io::Result<Option<u64>> {
        self.file.allocated_bytes()
    }

    fn identity(&self) -> Option<HostFileId> {
        self.file.identity()
    }

    fn identities(&self) -> Vec<HostFileId> {
        self.file.identities()
    }
}

/// Returns the name that the contents of a compressed file probably have: `disk.tar` for those of
/// `disk.tar.xz` or `disk.txz`.
pub(crate) fn name_of_contents(path: &Path) -> PathBuf {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "gz" | "xz" | "bz2" | "zst" | "zstd" => path.with_extension(""),
        "tgz" | "txz" | "tbz" | "tbz2" | "tzst" => path.with_extension("tar"),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_contents_lacks_the_suffix_of_the_compression() {
        for (path, contents) in [
            ("a/disk.qcow2.gz", "a/disk.qcow2"),
            ("disk.tar.XZ", "disk.tar"),
            ("disk.tgz", "disk.tar"),
            ("disk.img", "disk.img"),
            ("disk", "disk"),
        ] {
            assert_eq!(name_of_contents(Path::new(path)), Path::new(contents), "{path}");
        }
    }
}
