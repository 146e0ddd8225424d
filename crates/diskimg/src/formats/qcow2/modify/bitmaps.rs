//! The dirty bitmaps of an image that is modified in place.

use super::super::edit;
use super::Qcow2Mut;
use crate::error::Result;
use crate::model::bitmap::DirtyBitmap;
use crate::report::info;

/// Changes of the dirty bitmaps of an image, which [`store`](Self::store) makes all at once. Nothing
/// is written before that.
///
/// A change that fails has no effect, and those before it can be stored all the same.
///
/// ```no_run
/// use diskimg::Image;
/// use diskimg::formats::qcow2::Qcow2Mut;
///
/// // Collect what an overlay has written, before it is committed.
/// let overlay = Image::open("overlay.qcow2")?;
/// let mut base = Qcow2Mut::open("base.qcow2")?;
/// let mut changes = base.change_bitmaps()?;
/// for bitmap in overlay.dirty_bitmaps()?.unwrap_or_default() {
///     changes.add(&bitmap.name, Some(bitmap.granularity))?;
///     changes.merge_from(&bitmap.name, &overlay.dirty_bitmap(&bitmap.name)?)?;
/// }
/// changes.store()?;
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug)]
pub struct BitmapChanges<'a> {
    image: &'a mut Qcow2Mut,
    /// The image as it is.
    old: edit::Qcow2Mut,
    changes: edit::BitmapChanges,
}

impl BitmapChanges<'_> {
    /// Makes a change. Errors name the image's file.
    fn make(
        &mut self,
        change: impl FnOnce(&mut edit::BitmapChanges, &edit::Qcow2Mut) -> Result<()>,
    ) -> Result<()> {
        change(&mut self.changes, &self.old).map_err(|e| e.in_file(&self.image.name))
    }

    /// Returns the bitmaps as they will be, in the order in which they are stored.
    pub fn list(&self) -> Vec<info::Bitmap> {
        self.changes.list()
    }

    /// Adds a bitmap, which is enabled, and in which nothing is dirty.
    ///
    /// The granularity, the number of guest bytes per bit, is a power of two from 512 bytes to 2 GiB.
    /// The default is the cluster size, but at least 4 KiB and at most 64 KiB. The name has 1 to
    /// 1,023 bytes.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the name is empty, if there is such a bitmap
    ///   already, or if the granularity is not allowed;
    /// - [`Limit`](crate::ErrorKind::Limit) if the name is too long, if the bits would take more than
    ///   512 MiB, or if the image has 65,535 bitmaps;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the image has version 2.
    pub fn add(&mut self, name: &str, granularity: Option<u64>) -> Result<()> {
        self.make(|changes, old| changes.add(edit::Disk::of(old.header()), name, granularity))
    }

    /// Removes a bitmap, which may be inconsistent.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if there is no such bitmap.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.make(|changes, _| changes.remove(name))
    }

    /// Makes everything clean in a bitmap.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if there is no such bitmap;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if it is inconsistent;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if its table does not fit the disk. It can be
    ///   [removed](Self::remove).
    pub fn clear(&mut self, name: &str) -> Result<()> {
        self.make(|changes, old| changes.clear(old, name))
    }

    /// Enables a bitmap: writes are recorded in it from now on.
    ///
    /// # Errors
    /// As [`clear`](Self::clear).
    pub fn enable(&mut self, name: &str) -> Result<()> {
        self.make(|changes, old| changes.enable(old, name, true))
    }

    /// Disables a bitmap: it stays as it is.
    ///
    /// # Errors
    /// As [`clear`](Self::clear).
    pub fn disable(&mut self, name: &str) -> Result<()> {
        self.make(|changes, old| changes.enable(old, name, false))
    }

    /// Verifies that a bitmap can be changed.
    ///
    /// # Errors
    /// As [`clear`](Self::clear).
    pub fn require_consistent(&mut self, name: &str) -> Result<()> {
        self.make(|changes, old| changes.require_consistent(old, name))
    }

    /// Makes dirty in `target` what is dirty in `source`, another bitmap of the image. They may have
    /// different granularities. The bits of `source` must not have been changed before.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if there is no such bitmap, or if the bits of
    ///   `source` were changed;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if one of them is inconsistent;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if one of them is damaged;
    /// - [`Limit`](crate::ErrorKind::Limit) if its table exceeds
    ///   [`Limits::table_bytes`](crate::Limits::table_bytes);
    /// - [`Io`](crate::ErrorKind::Io) if reading fails.
    pub fn merge(&mut self, target: &str, source: &str) -> Result<()> {
        self.make(|changes, old| changes.merge(old, target, source))
    }

    /// Makes dirty in `target` what is dirty in `source`, a bitmap of any image whose disk has the
    /// same size.
    ///
    /// # Errors
    /// As [`merge`](Self::merge), and [`Invalid`](crate::ErrorKind::Invalid) if the disks differ in
    /// size.
    pub fn merge_from(&mut self, target: &str, source: &DirtyBitmap) -> Result<()> {
        self.make(|changes, old| changes.merge_from(old, target, source.clone()))
    }

    /// Makes all changes, as a whole or not at all. Time and memory depend on the metadata of the
    /// image and on the bitmaps: no guest data is read.
    ///
    /// # Errors
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if the image is damaged, or was not closed properly;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the header's cluster has no room for the
    ///   old and the new contents at once;
    /// - [`Limit`](crate::ErrorKind::Limit) if a limit is exceeded;
    /// - [`Io`](crate::ErrorKind::Io) if reading or writing fails.
    pub fn store(self) -> Result<()> {
        let Self { image, old, changes } = self;
        image.modify_opened(|| changes.store(&old))
    }
}

impl Qcow2Mut {
    /// Returns the dirty bitmaps, in the order in which they are stored.
    ///
    /// # Errors
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if the image is damaged;
    /// - [`Io`](crate::ErrorKind::Io) if reading fails.
    pub fn bitmaps(&self) -> Result<Vec<info::Bitmap>> {
        self.with(|image| edit::BitmapChanges::of(image).map(|changes| changes.list()))
    }

    /// Begins to change dirty bitmaps. What is done with one of the other methods is stored at once.
    ///
    /// # Errors
    /// As [`bitmaps`](Self::bitmaps).
    pub fn change_bitmaps(&mut self) -> Result<BitmapChanges<'_>> {
        let open = || {
            let old = self.open_image()?;
            let changes = edit::BitmapChanges::of(&old)?;
            Ok((old, changes))
        };
        let (old, changes) = open().map_err(|e: crate::Error| e.in_file(&self.name))?;
        Ok(BitmapChanges { image: self, old, changes })
    }

    /// Makes one change.
    fn change_bitmap(
        &mut self,
        change: impl FnOnce(&mut BitmapChanges<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut changes = self.change_bitmaps()?;
        change(&mut changes)?;
        changes.store()
    }

    /// Adds a dirty bitmap, which is enabled, and in which nothing is dirty; see
    /// [`BitmapChanges::add`].
    ///
    /// # Errors
    /// As [`BitmapChanges::add`] and [`BitmapChanges::store`].
    pub fn add_bitmap(&mut self, name: &str, granularity: Option<u64>) -> Result<()> {
        self.change_bitmap(|changes| changes.add(name, granularity))
    }

    /// Removes a dirty bitmap, which may be inconsistent.
    ///
    /// # Errors
    /// As [`BitmapChanges::remove`] and [`BitmapChanges::store`].
    pub fn remove_bitmap(&mut self, name: &str) -> Result<()> {
        self.change_bitmap(|changes| changes.remove(name))
    }

    /// Makes everything clean in a dirty bitmap.
    ///
    /// # Errors
    /// As [`BitmapChanges::clear`] and [`BitmapChanges::store`].
    pub fn clear_bitmap(&mut self, name: &str) -> Result<()> {
        self.change_bitmap(|changes| changes.clear(name))
    }

    /// Enables a dirty bitmap: writes are recorded in it from now on.
    ///
    /// # Errors
    /// As [`BitmapChanges::enable`] and [`BitmapChanges::store`].
    pub fn enable_bitmap(&mut self, name: &str) -> Result<()> {
        self.change_bitmap(|changes| changes.enable(name))
    }

    /// Disables a dirty bitmap: it stays as it is.
    ///
    /// # Errors
    /// As [`BitmapChanges::disable`] and [`BitmapChanges::store`].
    pub fn disable_bitmap(&mut self, name: &str) -> Result<()> {
        self.change_bitmap(|changes| changes.disable(name))
    }

    /// Makes dirty in `target` what is dirty in `source`, another bitmap of the image.
    ///
    /// # Errors
    /// As [`BitmapChanges::merge`] and [`BitmapChanges::store`].
    pub fn merge_bitmap(&mut self, target: &str, source: &str) -> Result<()> {
        self.change_bitmap(|changes| changes.merge(target, source))
    }

    /// Makes dirty in `target` what is dirty in `source`, a bitmap of any image whose disk has the
    /// same size.
    ///
    /// # Errors
    /// As [`BitmapChanges::merge_from`] and [`BitmapChanges::store`].
    pub fn merge_bitmap_from(&mut self, target: &str, source: &DirtyBitmap) -> Result<()> {
        self.change_bitmap(|changes| changes.merge_from(target, source))
    }
}
