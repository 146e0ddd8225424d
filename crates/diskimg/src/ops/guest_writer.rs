//! Writing guest bytes into an existing image, anywhere and in any order.
//!
//! A [`Target`](crate::model::target::Target) takes guest bytes in units of the format, each once
//! and in ascending order. What is written is therefore collected in memory, as whole units, and
//! stored together:
//!
//! ```text
//!   write_at   a unit of which only a part is written is read first
//!   store      data, then tables: a crash leaves every guest byte old or new
//!   flush      store, and the file is flushed
//! ```

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::mutable::WriteRequest;
use crate::model::target::{Allocate, Target, TargetSpec};
use crate::open::OpenOptions;
use crate::storage::edit::{Reopened, Storage};
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// Bytes of units that are collected before they are stored.
const MAX_PENDING: usize = 64 << 20;

/// An image to which guest bytes are written in place.
///
/// What was written since the last flush may be lost if this is dropped.
#[derive(Debug)]
pub(crate) struct GuestWriter {
    storage: Arc<dyn Storage>,
    options: OpenOptions,
    name: String,
    /// The image as it is stored.
    image: Image,
    /// Length of a unit in bytes; `None` for a raw disk, of which every byte is written in place.
    unit: Option<u64>,
    /// Units that are to be stored, by their guest offset. The last one of the disk may be shorter.
    pending: BTreeMap<u64, Vec<u8>>,
    pending_bytes: usize,
}

impl GuestWriter {
    /// Opens the image in `storage`, which must be locked. Nothing else may modify the image while
    /// this exists. Errors refer to the image as `name`.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the image can only be written as a whole,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is damaged, and the other errors of opening it.
    pub(crate) fn open(
        storage: &Arc<dyn Storage>,
        options: &OpenOptions,
        name: &str,
    ) -> Result<Self> {
        // Locked by the caller; the files that it names are locked when they are opened to write.
        let options = options.clone().snapshot(None).disk(None).metadata_only(false);
        let options = options.force_share(true);
        let image = options.open_source(Reopened::of(storage), name)?;
        let mut writer = Self {
            storage: Arc::clone(storage),
            options,
            name: name.to_owned(),
            image,
            unit: None,
            pending: BTreeMap::new(),
            pending_bytes: 0,
        };
        if writer.image.format() != Format::Raw {
            writer.unit = Some(writer.spec()?.quantum());
        }
        Ok(writer)
    }

    /// Returns what the image is written through.
    fn spec(&self) -> Result<Box<dyn TargetSpec>> {
        let whole = || Error::unsupported("an image of this kind can only be written as a whole");
        let open = self.image.format().driver().open_mutable.ok_or_else(whole)?;
        let layer = self.options.open_mutable(Reopened::of(&self.storage), open)?;
        let request = WriteRequest { compress: false, hides_backing: false };
        layer.into_target(&request)?.ok_or_else(whole)
    }

    /// Returns the image as it is stored.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// Returns the size of the disk in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.image.size()
    }

    /// Writes `bytes` at guest offset `at`. They may be stored by a later call.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if they exceed the disk, the errors of reading the
    /// rest of a unit, and those of [`store`](Self::store).
    pub(crate) fn write_at(&mut self, bytes: &[u8], at: u64) -> Result<()> {
        let size = self.size();
        require_within(size, bytes.len(), at)?;
        let Some(unit) = self.unit else {
            let written = self.storage.write_all_at(bytes, at);
            return written.map_err(|e| Error::io("cannot write", e).at(at));
        };
        let mut done = 0;
        while done < bytes.len() {
            let offset = at + done as u64;
            let start = offset / unit * unit;
            let inside = (offset - start) as usize;
            let unit_len = unit.min(size - start) as usize;
            let len = (unit_len - inside).min(bytes.len() - done);
            let part = &bytes[done..done + len];
            match self.pending.entry(start) {
                Entry::Occupied(entry) => {
                    entry.into_mut()[inside..inside + len].copy_from_slice(part);
                }
                Entry::Vacant(entry) => {
                    let mut whole = vec![0; unit_len];
                    if len < unit_len {
                        self.image.read_at(&mut whole, start)?;
                    }
                    whole[inside..inside + len].copy_from_slice(part);
                    entry.insert(whole);
                    self.pending_bytes += unit_len;
                }
            }
            done += len;
            if self.pending_bytes >= MAX_PENDING {
                self.store()?;
            }
        }
        Ok(())
    }

    /// Fills `buf` with the guest bytes at `at`, including those that are not stored yet.
    ///
    /// # Errors
    /// Those of [`Image::read_at`].
    #[cfg_attr(not(test), expect(dead_code, reason = "for servers that write"))]
    pub(crate) fn read_at(&self, buf: &mut [u8], at: u64) -> Result<()> {
        self.image.read_at(buf, at)?;
        let Some(unit) = self.unit else { return Ok(()) };
        let end = at + buf.len() as u64;
        for (&start, bytes) in self.pending.range(at / unit * unit..end) {
            let from = start.max(at);
            let to = (start + bytes.len() as u64).min(end);
            let stored = &bytes[(from - start) as usize..(to - start) as usize];
            buf[(from - at) as usize..(to - at) as usize].copy_from_slice(stored);
        }
        Ok(())
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.store()?;
        self.storage.barrier().map_err(|e| Error::io("cannot flush the file", e))
    }

    /// Stores what is collected. After an error, it still is, and the image is consistent.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if reading or writing fails, and the errors of opening the
    /// image again.
    fn store(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let stored = self.store_units();
        // The tables have changed.
        self.image = self.options.open_source(Reopened::of(&self.storage), &*self.name)?;
        stored?;
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(())
    }

    fn store_units(&self) -> Result<()> {
        let sink: Arc<dyn Sink> = Reopened::of(&self.storage);
        let mut target = self.spec()?.start(&mut Output::to_sink(sink))?;
        for (&start, unit) in &self.pending {
            place(&mut *target, start, unit)?;
        }
        target.finish()
    }
}

/// Verifies that a request is within a disk of `size` bytes.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if not.
pub(super) fn require_within(size: u64, len: usize, at: u64) -> Result<()> {
    match at.checked_add(len as u64).is_none_or(|end| end > size) {
        true => {
            let message = format!("{len} bytes at offset {at} exceed the disk of {size} bytes");
            Err(Error::invalid(message))
        }
        false => Ok(()),
    }
}

/// Writes a unit to where the target places it.
fn place(target: &mut dyn Target, start: u64, unit: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < unit.len() {
        let len = (unit.len() - done) as u64;
        let at = start + done as u64;
        let slot = target
            .place(at, Allocate::Data { len })?
            .ok_or_else(|| Error::unsupported("the image has no place for guest data"))?;
        let end = done + slot.len.min(len) as usize;
        let file = Arc::clone(&target.files()[slot.file]);
        let written = file.write_all_at(&unit[done..end], slot.offset);
        written.map_err(|e| Error::io("cannot write", e).at(slot.offset))?;
        done = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::edit::MemoryStorage;
    use crate::{Create, ErrorKind};

    const SIZE: u64 = (5 << 20) + 512;

    /// Marsaglia's xorshift64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) % end
        }
    }

    fn new_image(format: Format) -> Arc<dyn Storage> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        Create::new(format).size(SIZE).run(&path).expect("is created");
        Arc::new(MemoryStorage::new(std::fs::read(&path).expect("is read")))
    }

    fn formats() -> impl Iterator<Item = Format> {
        let is_modifiable = |format: &Format| {
            *format == Format::Raw || format.driver().open_mutable.is_some() && format.is_writable()
        };
        Format::ALL.iter().copied().filter(is_modifiable)
    }

    #[test]
    fn random_writes_read_as_they_were_written() {
        for format in formats() {
            let storage = new_image(format);
            let options = OpenOptions::new().format(format);
            let mut random = Random(0x2545_f491_4f6c_dd1d);
            let mut writer = GuestWriter::open(&storage, &options, "image").expect("opens");
            let size = writer.size();
            let mut disk = vec![0; size as usize];
            for number in 0..150 {
                let len = 1 + random.below(if number % 9 == 0 { 300_000 } else { 5000 });
                let at = random.below(size - len + 1);
                let bytes = vec![number as u8 + 1; len as usize];
                writer.write_at(&bytes, at).expect("writes");
                disk[at as usize..(at + len) as usize].copy_from_slice(&bytes);
                let from = random.below(size - 4096);
                let mut read = vec![0; 4096];
                writer.read_at(&mut read, from).expect("reads");
                assert!(read == disk[from as usize..][..4096], "{format} {number}");
                match random.below(20) {
                    0 => writer.flush().expect("flushes"),
                    1 => {
                        writer.flush().expect("flushes");
                        writer = GuestWriter::open(&storage, &options, "image").expect("opens");
                    }
                    _ => {}
                }
            }
            writer.flush().expect("flushes");
            drop(writer);
            let image = options.open_source(Reopened::of(&storage), "image").expect("opens");
            let mut read = vec![0; size as usize];
            image.read_at(&mut read, 0).expect("reads");
            assert!(read == disk, "{format}");
            if let Some(report) = image.check(&mut |_| {}).expect("checks") {
                assert_eq!((report.corruptions, report.leaks), (0, 0), "{format}");
            }
        }
    }

    #[test]
    fn a_write_beyond_the_end_of_the_disk_is_an_error() {
        for format in formats() {
            let storage = new_image(format);
            let options = OpenOptions::new().format(format);
            let mut writer = GuestWriter::open(&storage, &options, "image").expect("opens");
            for at in [writer.size() - 1, writer.size(), u64::MAX] {
                let error = writer.write_at(&[1, 2], at).expect_err("is beyond the end");
                assert_eq!(error.kind(), ErrorKind::Invalid);
            }
            writer.write_at(&[1], writer.size() - 1).expect("is within");
        }
    }
}
