//! Dirty bitmaps: the parts of a disk that were written since some point in time.

use crate::error::{Error, Result};
use crate::remedy::Remedy;
use crate::report::info;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// A dirty bitmap of an image, open for reading. Backup programs use bitmaps to copy only what was
/// written since the last backup.
///
/// ```no_run
/// use diskimg::Image;
///
/// let image = Image::open("disk.qcow2")?;
/// let bitmap = image.dirty_bitmap("since-monday")?;
/// let mut dirty = 0;
/// bitmap.for_each_dirty(0..image.size(), |range| dirty += range.end - range.start)?;
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DirtyBitmap {
    info: info::Bitmap,
    disk_size: u64,
    bits: Arc<dyn Bits>,
}

/// The contents of a bitmap.
pub(crate) trait Bits: Debug + Send + Sync {
    /// Calls `each` with the dirty parts of a guest range, in ascending order, separate, not empty
    /// and within the range.
    ///
    /// # Errors
    /// As [`DirtyBitmap::for_each_dirty`].
    fn for_each_dirty(&self, range: Range<u64>, each: &mut dyn FnMut(Range<u64>)) -> Result<()>;

    /// Returns the memory in bytes of the tables that are held.
    fn table_bytes(&self) -> u64;
}

impl DirtyBitmap {
    /// Creates a bitmap of a disk of `disk_size` bytes.
    pub(crate) fn new(info: info::Bitmap, disk_size: u64, bits: Arc<dyn Bits>) -> Self {
        Self { info, disk_size, bits }
    }

    /// Returns the memory in bytes of the tables that are held.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.bits.table_bytes()
    }

    /// Returns the bitmap's name, granularity and flags.
    pub fn info(&self) -> &info::Bitmap {
        &self.info
    }

    /// Returns the size in bytes of the disk that the bitmap describes.
    pub fn disk_size(&self) -> u64 {
        self.disk_size
    }

    /// Calls `each` with the dirty parts of a range of guest bytes: in ascending order, separate,
    /// not empty and within the range. Except where the range or the disk ends, they begin and end at
    /// multiples of the [granularity](info::Bitmap::granularity).
    ///
    /// # Errors
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if the bitmap is damaged;
    /// - [`Io`](crate::ErrorKind::Io) if reading fails. `each` may have been called before.
    pub fn for_each_dirty(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(Range<u64>),
    ) -> Result<()> {
        let end = range.end.min(self.disk_size);
        if range.start >= end {
            return Ok(());
        }
        self.bits.for_each_dirty(range.start..end, &mut each)
    }
}

/// The memory that the tables of several bitmaps may take.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableBudget(u64);

impl TableBudget {
    /// Adds a bitmap.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if all of them take more than `max` bytes.
    pub(crate) fn add(&mut self, bitmap: &DirtyBitmap, max: u64) -> Result<()> {
        self.0 = self.0.saturating_add(bitmap.table_bytes());
        match self.0 > max {
            true => Err(Error::over_limit("table_bytes", "the tables of several bitmaps", max)),
            false => Ok(()),
        }
    }
}

/// Returns the error that there is no bitmap with this name, in QEMU's words.
pub(crate) fn not_found(name: &str) -> Error {
    Error::invalid(format!("Dirty bitmap '{name}' not found"))
}

/// Returns the error that a bitmap cannot be used because it is inconsistent, in QEMU's words.
pub(crate) fn inconsistent(name: &str) -> Error {
    Error::unsupported(format!("Bitmap '{name}' is inconsistent and cannot be used"))
        .with_remedy(Remedy::RemoveBitmap)
}
