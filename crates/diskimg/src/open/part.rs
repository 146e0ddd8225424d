//! Parts of disks.

use super::OpenOptions;
use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::storage::source::WindowSource;
use std::ops::Range;
use std::sync::Arc;

impl Image {
    /// Returns a part of the disk as a raw disk. `range` is in bytes.
    ///
    /// ```
    /// use diskimg::{Convert, Image};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (disk, start) = (dir.path().join("disk.qcow2"), dir.path().join("start.raw"));
    /// # diskimg::Create::new(diskimg::Format::Qcow2).size(1 << 20).run(&disk)?;
    /// let image = Image::open(&disk)?;
    /// Convert::new(image.part(0..4096)?).run(&start)?;
    /// assert_eq!(Image::open(&start)?.size(), 4096);
    /// # Ok::<(), diskimg::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if the range extends beyond the end of the disk or ends
    /// before it begins.
    pub fn part(&self, range: Range<u64>) -> Result<Self> {
        let source = WindowSource::new(Arc::new(self.clone()), range)
            .map_err(|e| Error::io("cannot read a part of the disk", e).in_file(self.name(0)))?;
        OpenOptions::new().format(Format::Raw).open_source(Arc::new(source), self.name(0))
    }
}
