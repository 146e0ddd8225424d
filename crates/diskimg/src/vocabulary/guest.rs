//! A disk's guest bytes as a source: what lies inside an image, read like a file.

use crate::host::source::{HostFileId, Segment, Source};
use crate::vocabulary::extent::Kind;
use crate::vocabulary::image::Image;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How far an extent is looked for at a time.
const WINDOW: u64 = 16 << 20;

/// The guest's bytes of an [`Image`] as a [`Source`]: for what is inside a disk, such as an
/// [ISO file system](crate::iso).
///
/// ```no_run
/// use diskimg::iso::{IsoImage, IsoOptions};
/// use diskimg::{GuestSource, Image};
/// use std::sync::Arc;
///
/// let disk = Arc::new(Image::open("seed.qcow2")?);
/// let iso = IsoImage::open(Arc::new(GuestSource::new(disk)), &IsoOptions::default())?;
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug)]
pub struct GuestSource {
    image: Arc<Image>,
}

impl GuestSource {
    /// All guest bytes of `image`.
    pub fn new(image: Arc<Image>) -> Self {
        Self { image }
    }

    /// The one file that has all guest bytes where the guest sees them.
    fn plain_file(&self) -> Option<&dyn Source> {
        let mut layers = self.image.layers();
        let layer = layers.next()?;
        let alone = layers.len() == 0 && layer.geometry().unit == 1;
        (alone && layer.files().len() == 1).then(|| &*layer.files()[0])
    }
}

impl Source for GuestSource {
    fn len(&self) -> u64 {
        self.image.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(file) = self.plain_file() {
            return file.read_exact_at(buf, offset);
        }
        crate::host::source::check_range(offset, buf.len(), self.len())?;
        self.image.read_at(buf, offset).map_err(io::Error::other)
    }

    fn segment_at(&self, offset: u64) -> io::Result<Segment> {
        let end = self.len().min(offset.saturating_add(WINDOW));
        let extents = self.image.extents(offset..end).map_err(io::Error::other)?;
        let is_hole = |kind: &Kind| matches!(kind, Kind::Zero(_) | Kind::Parent);
        Ok(extents.first().map_or(Segment { end, hole: false }, |extent| Segment {
            end: extent.guest.end,
            hole: is_hole(&extent.kind),
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
}
