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

mod pending;

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::mutable::WriteRequest;
use crate::model::target::{Allocate, Slot, Target, TargetSpec};
use crate::open::{OpenOptions, local_path};
use crate::ops::in_place::{LockedImage, refuse_compressed};
use crate::ops::map::{MapEntry, map};
use crate::remedy::Remedy;
use crate::storage::edit::{FileStorage, Reopened, Storage};
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use crate::storage::zeros::ZEROS;
use pending::{Pending, Unit};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes of units that are collected before they are stored.
const MAX_PENDING: usize = 64 << 20;

/// Bytes of zeros that are placed at a time: an image may have a table entry for every cluster.
const ZEROS_PER_CALL: u64 = 1 << 30;

/// An image whose guest bytes are read and written in place, by any number of threads.
///
/// What is written to an image of another format than raw is collected in memory, and stored when
/// 64 MiB are, and by [`flush`](Self::flush). If it cannot be stored, no more is collected: writes
/// fail, except those that replace what is collected. What was written since the last flush may be lost if
/// the process ends or if this is dropped; the image is consistent at every point, except that some
/// space may be allocated without being used, and each of its guest bytes is the old or the new one.
///
/// The file is locked against other programs as long as this exists.
///
/// ```no_run
/// use diskimg::{Format, GuestWriter, OpenOptions};
///
/// let options = OpenOptions::new().format(Format::Qcow2);
/// let disk = GuestWriter::open("disk.qcow2", &options)?;
/// disk.write_at(&[0x55, 0xaa], 510)?;
/// disk.write_zeroes(1 << 20..2 << 20)?;
/// disk.flush()?;
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug)]
pub struct GuestWriter {
    storage: Arc<dyn Storage>,
    options: OpenOptions,
    name: String,
    /// Size of the disk in bytes.
    size: u64,
    format: Format,
    /// Length of a unit in bytes; `None` for a raw disk, of which every byte is written in place.
    unit: Option<u64>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    /// The image as it is stored.
    image: Image,
    pending: Pending,
}

impl GuestWriter {
    /// Opens the image at `path` and locks it. The format must be [set](OpenOptions::format): a guest
    /// can write the header of any format into a raw disk. Snapshots are not written.
    ///
    /// # Errors
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the format is not set, or if the image can
    ///   only be written as a whole;
    /// - [`Locked`](crate::ErrorKind::Locked) if another process uses the image;
    /// - [`Io`](crate::ErrorKind::Io) if the file cannot be opened for writing;
    /// - the other errors of [`OpenOptions::open`].
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let path = path.as_ref();
        let open = || FileStorage::open(local_path(path)?).map_err(|e| Error::io("cannot open", e));
        let opened = open().and_then(|storage| {
            Self::open_named(Arc::new(storage), options, &path.display().to_string())
        });
        opened.map_err(|e| e.in_file(path))
    }

    /// Opens an image in any storage. Errors refer to it as `name`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(
        storage: Arc<dyn Storage>,
        options: &OpenOptions,
        name: impl Into<String>,
    ) -> Result<Self> {
        let name = name.into();
        Self::open_named(storage, options, &name).map_err(|e| e.in_file(name))
    }

    fn open_named(storage: Arc<dyn Storage>, options: &OpenOptions, name: &str) -> Result<Self> {
        if options.is_probed() {
            let message = "only an image whose format is named is overwritten";
            return Err(Error::unsupported(message).with_remedy(Remedy::NameFormat));
        }
        // Only now, because opening the files of the image reads and locks them.
        let locked = LockedImage::open_to_write(Arc::clone(&storage), options, name)?;
        Self::of(storage, locked.options, name, locked.image)
    }

    /// Opens the image in `storage`, which must be locked. Nothing else may modify the image while
    /// this exists. Errors refer to the image as `name`.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the image can only be written as a whole,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is damaged, and the other errors of opening it.
    pub(crate) fn open_locked(
        storage: &Arc<dyn Storage>,
        options: &OpenOptions,
        name: &str,
    ) -> Result<Self> {
        // Locked by the caller; the files that it names are locked when they are opened to write.
        let options = options.clone().snapshot(None).disk(None).metadata_only(false);
        let options = options.force_share(true);
        let image = options.open_source(Reopened::of(storage), name)?;
        Self::of(Arc::clone(storage), options, name, image)
    }

    fn of(
        storage: Arc<dyn Storage>,
        options: OpenOptions,
        name: &str,
        image: Image,
    ) -> Result<Self> {
        refuse_compressed(&image)?;
        let mut writer = Self {
            storage,
            options,
            name: name.to_owned(),
            size: image.size(),
            format: image.format(),
            unit: None,
            state: RwLock::new(State { image, pending: Pending::default() }),
        };
        if writer.format != Format::Raw {
            writer.unit = Some(writer.spec()?.quantum());
        }
        Ok(writer)
    }

    /// Returns what the image is written through.
    fn spec(&self) -> Result<Box<dyn TargetSpec>> {
        let whole = || Error::unsupported("an image of this kind can only be written as a whole");
        let open = self.format.driver().open_mutable.ok_or_else(whole)?;
        // The parent is open already, and not written. It may not be allowed to be opened again.
        let options = self.options.clone().alone();
        let layer = options.open_mutable(Reopened::of(&self.storage), open)?;
        let request = WriteRequest { compress: false, hides_backing: false };
        layer.into_target(&request)?.ok_or_else(whole)
    }

    /// Verifies that what is written can be stored, as far as that needs opening files: all of the
    /// image except the first are opened again whenever something is stored. Call it after the
    /// process gave up the right to open other files than those of the image.
    ///
    /// # Errors
    /// Those of opening the files for writing.
    pub fn verify_storable(&self) -> Result<()> {
        let spec = || match self.unit {
            Some(_) => self.spec().map(drop),
            None => Ok(()),
        };
        // Not at the same time as another thread opens and locks them.
        let _state = self.write_state();
        spec().map_err(|e| e.in_file(&self.name))
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Returns the size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the format of the image.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the image as it is stored now. It must not be read after the next write.
    pub fn image(&self) -> Image {
        self.read_state().image.clone()
    }

    /// Returns the length in bytes of the units in which the image stores guest bytes: what is
    /// written to a part of one rewrites all of it. It is 1 for a raw disk.
    pub fn unit(&self) -> u64 {
        self.unit.unwrap_or(1)
    }

    /// Writes `bytes` at guest offset `at`. They may be stored by a later call.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if they exceed the disk;
    /// - [`Io`](crate::ErrorKind::Io) if reading or writing fails. What was written before is kept
    ///   and stored by a later call.
    pub fn write_at(&self, bytes: &[u8], at: u64) -> Result<()> {
        require_within(self.size, bytes.len() as u64, at)?;
        match self.unit {
            None => self.written(self.storage.write_all_at(bytes, at), at),
            Some(unit) => self.write_units(&mut self.write_state(), unit, bytes, at),
        }
    }

    fn written(&self, outcome: std::io::Result<()>, at: u64) -> Result<()> {
        outcome.map_err(|e| Error::io("cannot write", e).at(at).in_file(&self.name))
    }

    fn write_units(&self, state: &mut State, unit: u64, bytes: &[u8], at: u64) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let offset = at + done as u64;
            let start = offset / unit * unit;
            let inside = (offset - start) as usize;
            let unit_len = unit.min(self.size - start) as usize;
            let len = (unit_len - inside).min(bytes.len() - done);
            let part = &bytes[done..done + len];
            if !state.pending.has_data(start) {
                self.make_room(state)?;
            }
            let State { image, pending } = state;
            if len == unit_len {
                pending.put_unit(start, part.to_vec());
            } else {
                let read = |whole: &mut [u8]| image.read_at(whole, start);
                let whole = pending.unit_mut(start, unit_len, read)?;
                whole[inside..inside + len].copy_from_slice(part);
            }
            done += len;
        }
        Ok(())
    }

    /// Stores what is collected if there is no room for more: if that fails, as on a full disk, no
    /// more may be collected.
    fn make_room(&self, state: &mut State) -> Result<()> {
        match state.pending.bytes() >= MAX_PENDING {
            true => self.store(state),
            false => Ok(()),
        }
    }

    /// Makes a guest range read as zeros, and deallocates its space where that is possible.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        let len = range.end.saturating_sub(range.start);
        require_within(self.size, len, range.start)?;
        match self.unit {
            _ if len == 0 => Ok(()),
            None => self.written(self.storage.write_zeros_at(range.start, len), range.start),
            Some(unit) => {
                let mut state = self.write_state();
                let (first, whole, last) = self.parts(&range, unit);
                for part in [first, last].into_iter().filter(|part| !part.is_empty()) {
                    self.write_zeros_within(&mut state, unit, part)?;
                }
                self.zero_units(&mut state, whole)
            }
        }
    }

    /// As [`write_zeroes`](Self::write_zeroes), but allocates space for the range.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub fn fill_zeroes(&self, range: Range<u64>) -> Result<()> {
        require_within(self.size, range.end.saturating_sub(range.start), range.start)?;
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(ZEROS.len() as u64);
            self.write_at(&ZEROS[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }

    /// Deallocates the units within a guest range. Their bytes read as zeros afterwards, except those
    /// of a raw disk, which may also keep their values. Units of which only a part is within the
    /// range keep their bytes.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub fn discard(&self, range: Range<u64>) -> Result<()> {
        let len = range.end.saturating_sub(range.start);
        require_within(self.size, len, range.start)?;
        match self.unit {
            _ if len == 0 => Ok(()),
            None => self.written(self.storage.discard_at(range.start, len), range.start),
            Some(unit) => {
                let (_, whole, _) = self.parts(&range, unit);
                self.zero_units(&mut self.write_state(), whole)
            }
        }
    }

    /// Divides a range into the end of a unit, whole units, and the beginning of a unit.
    fn parts(&self, range: &Range<u64>, unit: u64) -> (Range<u64>, Range<u64>, Range<u64>) {
        let start = range.start.next_multiple_of(unit);
        // The last unit of the disk may be shorter.
        let end = if range.end == self.size { range.end } else { range.end / unit * unit };
        match start < end {
            true => (range.start..start, start..end, end..range.end),
            false => (range.clone(), 0..0, 0..0),
        }
    }

    /// Writes zeros to units of which only a part is within `range`, unless they are zeros.
    fn write_zeros_within(&self, state: &mut State, unit: u64, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / unit + 1) * unit);
            let is_zero = !state.pending.contains(at / unit * unit)
                && state.image.extents_in(at..end)?.iter().all(|extent| extent.kind.is_zero());
            if !is_zero {
                let zeros = vec![0; (end - at) as usize];
                self.write_units(state, unit, &zeros, at)?;
            }
            at = end;
        }
        Ok(())
    }

    fn zero_units(&self, state: &mut State, units: Range<u64>) -> Result<()> {
        self.make_room(state)?;
        state.pending.zero(units);
        Ok(())
    }

    /// Fills `buf` with the guest bytes at `at`, including those that are not stored yet.
    ///
    /// # Errors
    /// Those of [`Image::read_at`].
    pub fn read_at(&self, buf: &mut [u8], at: u64) -> Result<()> {
        if self.unit.is_none() {
            return self.read_state().image.read_at(buf, at);
        }
        let state = self.read_state();
        state.image.read_at(buf, at)?;
        state.pending.overlay(buf, at);
        Ok(())
    }

    /// Returns the first entries of the map of a guest range, at most `max`: where its bytes are
    /// stored. What is not stored yet is stored first. The range is clipped to the disk.
    ///
    /// # Errors
    /// Those of [`map`](crate::map()), and as [`write_at`](Self::write_at).
    pub fn map(&self, range: Range<u64>, max: usize) -> Result<Vec<MapEntry>> {
        {
            let state = self.read_state();
            if state.pending.is_empty() {
                return map(&state.image, range).take(max).collect();
            }
        }
        let mut state = self.write_state();
        self.store(&mut state)?;
        map(&state.image, range).take(max).collect()
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if writing fails, and the errors of opening the image again. What
    /// could not be stored is kept, and stored by a later call.
    pub fn flush(&self) -> Result<()> {
        if self.unit.is_some() {
            self.store(&mut self.write_state())?;
        }
        let flushed = self.storage.barrier();
        flushed.map_err(|e| Error::io("cannot flush the file", e).in_file(&self.name))
    }

    /// Stores what is collected. After an error, it still is, and the image is consistent.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if reading or writing fails, and the errors of opening the
    /// image again.
    fn store(&self, state: &mut State) -> Result<()> {
        if state.pending.is_empty() {
            return Ok(());
        }
        let stored = self.store_units(&state.pending).map_err(|e| e.in_file(&self.name));
        // The tables have changed. The backing files have not.
        let options = self.options.clone().alone();
        let image = options.open_source(Reopened::of(&self.storage), &*self.name)?;
        state.image = match state.image.backing() {
            Some(backing) => image.over(&backing),
            None => image,
        };
        stored?;
        state.pending = Pending::default();
        Ok(())
    }

    fn store_units(&self, pending: &Pending) -> Result<()> {
        let sink: Arc<dyn Sink> = Reopened::of(&self.storage);
        let mut target = self.spec()?.start(&mut Output::to_sink(sink))?;
        let mut run = Run::default();
        for (start, unit) in pending.iter() {
            match unit {
                Unit::Data(bytes) if run.end() == start || run.units.is_empty() => {
                    run.push(start, bytes);
                }
                Unit::Data(bytes) => {
                    run.place(&mut *target)?;
                    run.push(start, bytes);
                }
                Unit::Zeros { end } => {
                    run.place(&mut *target)?;
                    place_zeros(&mut *target, start..*end)?;
                }
            }
        }
        run.place(&mut *target)?;
        target.finish()
    }
}

/// Verifies that a request is within a disk of `size` bytes.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if not.
fn require_within(size: u64, len: u64, at: u64) -> Result<()> {
    match at.checked_add(len).is_none_or(|end| end > size) {
        true => {
            let message = format!("{len} bytes at offset {at} exceed the disk of {size} bytes");
            Err(Error::invalid(message))
        }
        false => Ok(()),
    }
}

/// Units of data that follow each other.
#[derive(Default)]
struct Run<'a> {
    start: u64,
    units: Vec<&'a [u8]>,
    len: u64,
}

impl<'a> Run<'a> {
    fn end(&self) -> u64 {
        self.start + self.len
    }

    fn push(&mut self, start: u64, unit: &'a [u8]) {
        if self.units.is_empty() {
            self.start = start;
        }
        self.units.push(unit);
        self.len += unit.len() as u64;
    }

    /// Writes the units to where the target places them. None are left.
    fn place(&mut self, target: &mut dyn Target) -> Result<()> {
        let mut at = self.start;
        let mut slot: Option<Slot> = None;
        for mut unit in std::mem::take(&mut self.units) {
            while !unit.is_empty() {
                let to = match slot.take().filter(|slot| slot.len > 0) {
                    Some(slot) => slot,
                    None => target
                        .place(at, Allocate::Data { len: self.start + self.len - at })?
                        .ok_or_else(|| {
                        Error::unsupported("the image has no place for guest data")
                    })?,
                };
                let (part, rest) = unit.split_at(unit.len().min(to.len as usize));
                let written = target.files()[to.file].write_all_at(part, to.offset);
                written.map_err(|e| Error::io("cannot write", e).at(to.offset))?;
                let len = part.len() as u64;
                slot = Some(Slot { offset: to.offset + len, len: to.len - len, ..to });
                at += len;
                unit = rest;
            }
        }
        self.len = 0;
        Ok(())
    }
}

/// Makes units read as zeros.
fn place_zeros(target: &mut dyn Target, range: Range<u64>) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(ZEROS_PER_CALL);
        if target.place(at, Allocate::Zero { len })?.is_some() {
            // A target writes zeros itself if they must be written.
            return Err(Error::invalid("the target returned a slot for zeros"));
        }
        at += len;
        target.settle(at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
