//! `resize`: changes the size of a disk in place.

#[cfg(feature = "partition")]
#[cfg(feature = "partition")]
mod table;

use super::in_place::{LockedImage, modify_file};
use crate::error::{Error, Result};
use crate::model::flat::Preallocation;
use crate::model::mutable::ResizeRequest;
use crate::model::options::parse_size;
use crate::open::OpenOptions;
use crate::remedy::Remedy;
use crate::storage::edit::Storage;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// The new size of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NewSize {
    /// This many bytes.
    Bytes(u64),
    /// This many bytes more than before.
    Grow(u64),
    /// This many bytes fewer than before.
    Shrink(u64),
}

impl NewSize {
    /// Returns the new size of a disk of `old` bytes, or `None` if it would be zero or less, or
    /// exceed `i64::MAX`.
    fn of(self, old: u64) -> Option<u64> {
        let new = match self {
            Self::Bytes(size) => size,
            Self::Grow(more) => old.checked_add(more)?,
            Self::Shrink(fewer) => old.checked_sub(fewer)?,
        };
        (1..=i64::MAX as u64).contains(&new).then_some(new)
    }
}

impl FromStr for NewSize {
    type Err = Error;

    /// Parses a size like `10G`, `+1G` or `-1G`; see [`parse_size`].
    fn from_str(text: &str) -> Result<Self> {
        let (kind, digits): (fn(u64) -> Self, _) = match text.split_at_checked(1) {
            Some(("+", digits)) => (Self::Grow, digits),
            Some(("-", digits)) => (Self::Shrink, digits),
            _ => (Self::Bytes, text),
        };
        parse_size(digits).map(kind).ok_or_else(|| {
            Error::invalid(format!(
                "'{text}' is not a size (a number, which may begin with + or - and end in k, M, \
                 G, T, P or E)"
            ))
        })
    }
}

/// Changes the size of a disk in place: a builder that is configured and then run.
///
/// If the process is killed or power is lost, the disk has its old or its new size, and all its
/// bytes are intact. Clusters may be allocated without being used then.
///
/// ```no_run
/// use diskimg::{NewSize, Resize};
///
/// let done = Resize::new(NewSize::Grow(10 << 30)).run("disk.qcow2")?;
/// println!("{} bytes", done.new_size);
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug)]
pub struct Resize {
    size: NewSize,
    options: OpenOptions,
    shrink: bool,
    preallocation: Preallocation,
    #[cfg(feature = "partition")]
    fix_gpt: bool,
}

/// The result of [`Resize::run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resized {
    /// Size before, in bytes.
    pub old_size: u64,
    /// Size now, in bytes.
    pub new_size: u64,
}

impl Resize {
    /// Creates a builder for a disk of this size.
    pub fn new(size: NewSize) -> Self {
        Self {
            size,
            options: OpenOptions::new(),
            shrink: false,
            preallocation: Preallocation::Off,
            #[cfg(feature = "partition")]
            fix_gpt: false,
        }
    }

    /// Sets how the image and its backing files are opened: format, external files and limits. The
    /// image itself is always locked.
    #[must_use]
    pub fn open_options(mut self, options: OpenOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets whether the disk may become smaller, which deletes the data at its end.
    #[must_use]
    pub fn shrink(mut self, yes: bool) -> Self {
        self.shrink = yes;
        self
    }

    /// Sets how space is allocated for added bytes.
    #[must_use]
    pub fn preallocation(mut self, preallocation: Preallocation) -> Self {
        self.preallocation = preallocation;
        self
    }

    /// Sets whether the backup of the disk's GUID partition table is moved to the new end, and the
    /// primary header and the protective MBR are changed accordingly. Partitions stay as they are.
    /// The disk may keep its size. Sectors have 512 or 4096 bytes, as the table says.
    ///
    /// At any time, the primary table is valid. If the process is killed or power is lost, the backup
    /// may not be at the end; the same operation without a change of size completes it.
    #[cfg(feature = "partition")]
    #[must_use]
    pub fn fix_gpt(mut self, yes: bool) -> Self {
        self.fix_gpt = yes;
        self
    }

    /// Resizes the image at `path`, a regular file or a block device.
    ///
    /// # Errors
    /// - [`Locked`](crate::ErrorKind::Locked) if another process uses the image or an extent that
    ///   would be written or removed;
    /// - [`Refused`](crate::ErrorKind::Refused) if the disk would become smaller but may not, or if
    ///   data would have to be copied from a backing file although the format was not named, or if
    ///   files that the image names would be written although the format was not named, or if a
    ///   file that would be written or removed may be something else than an extent of the disk, or
    ///   if a partition of a [table that is changed](Self::fix_gpt) would not fit;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if images of this format, or with one of
    ///   this image's features, cannot be resized;
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the format cannot have this size, or there is no
    ///   GUID partition table to be changed;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if the image or that table is damaged;
    /// - the errors of [`OpenOptions::open`] and of writing.
    ///
    /// After an error of writing, reserving space or flushing, the disk has its old or its new
    /// size; after any other error, its old size. A [table](Self::fix_gpt) is then valid, with its
    /// backup at the end.
    pub fn run(&self, path: impl AsRef<Path>) -> Result<Resized> {
        modify_file(path.as_ref(), |storage, name| self.run_on(storage, name))
    }

    /// Resizes an image in any storage. Errors refer to the image as `name`.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn run_on(&self, storage: Arc<dyn Storage>, name: impl Into<String>) -> Result<Resized> {
        let name = name.into();
        self.resize(storage, &name).map_err(|e| e.in_file(name))
    }

    fn resize(&self, storage: Arc<dyn Storage>, name: &str) -> Result<Resized> {
        let locked = LockedImage::open(Arc::clone(&storage), &self.options, name)?;
        let old_size = locked.image.size();
        let new_size = self
            .size
            .of(old_size)
            .ok_or_else(|| Error::invalid("New image size must be positive"))?;
        self.require(old_size, new_size)?;
        #[cfg(feature = "partition")]
        if self.fix_gpt {
            return self.resize_with_table(&storage, locked, new_size, name);
        }
        self.change_size(&locked, new_size)?;
        Ok(Resized { old_size, new_size })
    }

    fn change_size(&self, locked: &LockedImage, size: u64) -> Result<()> {
        locked.mutable("resized")?.resize(&ResizeRequest {
            size,
            preallocation: self.preallocation,
            format_probed: locked.options.is_probed(),
            backing: locked.image.backing().as_ref(),
        })
    }

    fn require(&self, old_size: u64, new_size: u64) -> Result<()> {
        if new_size < old_size && !self.shrink {
            return Err(Error::refused(
                "Shrinking an image will delete all data beyond the shrunken image's end",
            )
            .with_remedy(Remedy::AllowShrinking));
        }
        if new_size <= old_size && self.preallocation != Preallocation::Off {
            return Err(Error::invalid("Preallocation can only be used for growing images"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_size_is_absolute_or_relative() {
        for (text, of_1000) in [
            ("512", Some(512)),
            ("+1k", Some(2024)),
            ("++1k", Some(2024)),
            ("-999", Some(1)),
            ("-1000", None),
            ("0", None),
            ("+7E", None),
        ] {
            let size: NewSize = text.parse().expect(text);
            let old = if text == "+7E" { 2 << 60 } else { 1000 };
            assert_eq!(size.of(old), of_1000, "{text}");
        }
        for text in ["", "+", "-", "+-1", "1x", "é"] {
            text.parse::<NewSize>().expect_err(text);
        }
    }
}
