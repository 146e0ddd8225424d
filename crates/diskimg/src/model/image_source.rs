//! [`Source`] for [`Image`]: the guest's bytes, read like a file.

use crate::error::Error;
use crate::model::extent::Kind;
use crate::model::format::Format;
use crate::model::image::Image;
use crate::storage::source::{HostFileId, IoHints, Segment, Source, SourceError, check_range};
use std::fs::File;
use std::ops::Range;
use std::path::Path;

/// Maximum number of guest bytes that are mapped to find a segment.
const WINDOW: u64 = 16 << 20;

impl Image {
    /// Returns the host file, if the image is a single file in which every guest byte is at its
    /// guest offset. Other formats than raw and ISO may have a cluster size of 1, too, but not this
    /// property.
    fn plain_file(&self) -> Option<&dyn Source> {
        let mut layers = self.layers();
        let layer = layers.next()?;
        let is_raw = layers.len() == 0 && is_verbatim(layer.format());
        let file = (is_raw && layer.files().len() == 1).then(|| self.file(0, 0));
        // A disk of whole sectors may be longer than its file.
        file.filter(|file| file.len() >= self.size())
    }
}

/// Returns true if the file's bytes are the guest's bytes.
fn is_verbatim(format: Format) -> bool {
    #[cfg(feature = "iso")]
    if format == Format::Iso {
        return true;
    }
    format == Format::Raw
}

/// Converts an error for the reader of the guest's bytes, for whom the lost range is another one.
fn nested(error: Error) -> SourceError {
    error.clear_lost().into()
}

/// Reads the guest's bytes, for access to the contents of a disk, such as an
/// [ISO file system](crate::iso).
///
/// ```no_run
/// use diskimg::Image;
/// use diskimg::iso::{IsoImage, IsoOptions};
/// use std::sync::Arc;
///
/// let disk = Arc::new(Image::open("seed.qcow2")?);
/// let iso = IsoImage::open(disk, &IsoOptions::default())?;
/// # Ok::<(), diskimg::Error>(())
/// ```
impl Source for Image {
    fn len(&self) -> u64 {
        self.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        check_range(offset, buf.len(), self.size())?;
        match self.plain_file() {
            Some(file) => file.read_exact_at(buf, offset),
            None => self.read_at(buf, offset).map_err(nested),
        }
    }

    fn read_ranges(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<(), SourceError> {
        match self.plain_file() {
            Some(file) => file.read_ranges(ranges),
            None => ranges.iter_mut().try_for_each(|(at, buf)| self.read_exact_at(buf, *at)),
        }
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        if let Some(file) = self.plain_file() {
            file.prefetch(ranges);
        }
    }

    fn io(&self) -> IoHints {
        Image::io(self)
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        let end = self.size().min(offset.saturating_add(WINDOW));
        let extents = self.extents_and_holes(offset..end).map_err(nested)?;
        Ok(extents.first().map_or(Segment { end, hole: false }, |extent| Segment {
            end: extent.guest.end,
            hole: matches!(extent.kind, Kind::Zero(_) | Kind::Unallocated),
        }))
    }

    fn as_slice(&self) -> Option<&[u8]> {
        self.plain_file()?.as_slice()
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        self.plain_file()?.as_file()
    }

    fn path(&self) -> Option<&Path> {
        self.plain_file()?.path()
    }

    fn identity(&self) -> Option<HostFileId> {
        self.plain_file()?.identity()
    }

    fn identities(&self) -> Vec<HostFileId> {
        Image::identities(self).collect()
    }
}
