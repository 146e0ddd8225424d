//! `resize` with a GUID partition table, whose backup is at the end of the disk.

use super::{Resize, Resized};
use crate::error::{Error, Result};
use crate::open::OpenOptions;
use crate::ops::guest_writer::GuestWriter;
use crate::ops::in_place::{LockedImage, refuse_further_files};
use crate::partition::gpt::{self, Piece};
use crate::remedy::Remedy;
use crate::storage::edit::{FileStorage, Reopened, Storage};
use crate::storage::locking::Lock;
use crate::storage::source::{HostFileId, Source};
use std::sync::Arc;

impl Resize {
    /// Changes the size of a disk and its partition table.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) fn resize_with_table(
        &self,
        storage: &Arc<dyn Storage>,
        locked: LockedImage,
        new_size: u64,
        name: &str,
    ) -> Result<Resized> {
        let old_size = locked.image.size();
        if self.options.is_probed() {
            refuse_further_files(&locked.image, 0, "its format is not named")
                .map_err(|e| e.with_remedy(Remedy::NameFormat))?;
        }
        let table = gpt::relocate(&locked.image, new_size)?;
        if new_size > old_size {
            self.change_size(&locked, new_size)?;
        }
        // The table is written while the disk has its larger size.
        drop(locked);
        let current = current(storage)?;
        for step in &table.steps {
            write(&current, &self.options, name, step)?;
        }
        if new_size < old_size {
            let locked = LockedImage::open(Reopened::of(&current), &self.options, name)?;
            let shrunk = self.change_size(&locked, new_size);
            drop(locked);
            shrunk.inspect_err(|_| self.restore_table(&current, old_size, name))?;
        }
        Ok(Resized { old_size, new_size })
    }

    /// Moves the backup of the table to the end again after the disk could not be made smaller. If
    /// that fails, the primary table is still valid.
    fn restore_table(&self, storage: &Arc<dyn Storage>, size: u64, name: &str) {
        let open = || LockedImage::open(Reopened::of(storage), &self.options, name);
        let Ok(locked) = open() else { return };
        let table = match locked.image.size() == size {
            true => gpt::relocate(&locked.image, size),
            false => return,
        };
        drop(locked);
        for step in table.iter().flat_map(|table| &table.steps) {
            if write(storage, &self.options, name, step).is_err() {
                return;
            }
        }
    }
}

/// Writes pieces of a disk, which do not overlap. They are durable on return.
fn write(
    storage: &Arc<dyn Storage>,
    options: &OpenOptions,
    name: &str,
    pieces: &[Piece],
) -> Result<()> {
    let writer = GuestWriter::open_locked(storage, options, name)?;
    for (at, bytes) in pieces {
        writer.write_at(bytes, *at)?;
    }
    writer.flush()
}

/// Returns the storage, or that of the file that replaced it when its size changed.
fn current(storage: &Arc<dyn Storage>) -> Result<Arc<dyn Storage>> {
    let Some(path) = storage.as_file().and(storage.path()) else { return Ok(Arc::clone(storage)) };
    if HostFileId::at(path) == storage.identity() {
        return Ok(Arc::clone(storage));
    }
    let cannot = |e| Error::io("cannot open the new descriptor", e);
    let new = FileStorage::open(path).map_err(cannot)?;
    new.lock(Lock::WRITE).map_err(cannot)?;
    Ok(Arc::new(new))
}
