//! Resizing raw images: the length of the file is the size of the disk.

use crate::error::{Error, Result};
use crate::model::flat::Preallocation;
use crate::model::mutable::{MutableLayer, ResizeRequest};
use crate::open::OpenContext;
use crate::storage::edit::Storage;
use std::sync::Arc;

/// A raw image open for modification.
#[derive(Debug)]
struct RawMut(Arc<dyn Storage>);

/// Opens a raw image for modification.
pub(super) fn open(
    storage: Arc<dyn Storage>,
    _context: &OpenContext<'_>,
) -> Result<Box<dyn MutableLayer>> {
    Ok(Box::new(RawMut(storage)))
}

impl MutableLayer for RawMut {
    fn resize(&mut self, request: &ResizeRequest<'_>) -> Result<()> {
        let Self(storage) = self;
        let (old, new) = (storage.current_len(), request.size);
        if request.preallocation == Preallocation::Metadata {
            return Err(Error::invalid("Unsupported preallocation mode 'metadata'"));
        }
        if storage.has_fixed_len() {
            let verb = if new > old { "grow" } else { "resize" };
            return Err(Error::invalid(format!("Cannot {verb} device files")));
        }
        // The length is set at once, so that the disk never has a size in between.
        storage
            .set_len(new)
            .map_err(|e| Error::io(format!("cannot set the length to {new}"), e))?;
        let added = new.saturating_sub(old);
        let allocated = match request.preallocation {
            Preallocation::Off | Preallocation::Metadata => Ok(()),
            Preallocation::Falloc => storage.preallocate(old, added),
            Preallocation::Full => storage.fill_zeros_at(old, added),
        };
        allocated.map_err(|e| Error::io("cannot preallocate", e).at(old))?;
        storage.flush().map_err(|e| Error::io("cannot flush", e))
    }
}
