//! Writes a few bytes of a disk in place, whatever its format is.

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::mutable::WriteRequest;
use crate::model::target::Allocate;
use crate::open::OpenOptions;
use crate::partition::gpt::Piece;
use crate::storage::edit::{Reopened, Storage};
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Writes pieces of a disk, which do not overlap. They are durable on return. The file must be
/// locked, and the image must not be open otherwise. Errors refer to it as `name`.
///
/// # Errors
/// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the image can only be written as a
/// whole, the errors of opening it, and [`Io`](crate::ErrorKind::Io) if writing fails.
pub(super) fn write(
    storage: &Arc<dyn Storage>,
    options: &OpenOptions,
    name: &str,
    pieces: &[Piece],
) -> Result<()> {
    // Locked by the caller; the files that it names are locked when they are opened to write.
    let options = options.clone().snapshot(None).disk(None).metadata_only(false).force_share(true);
    let image = options.open_source(Reopened::of(storage), name)?;
    let (format, size) = (image.format(), image.size());
    let cannot = |e| Error::io("cannot write", e);
    if format == Format::Raw {
        for (at, bytes) in pieces {
            storage.write_all_at(bytes, *at).map_err(cannot)?;
        }
        return storage.barrier().map_err(cannot);
    }
    let whole = || Error::unsupported("an image of this kind can only be written as a whole");
    let open = format.driver().open_mutable.ok_or_else(whole)?;
    let layer = options.open_mutable(Reopened::of(storage), open)?;
    let request = WriteRequest { compress: false, hides_backing: false };
    let spec = layer.into_target(&request)?.ok_or_else(whole)?;
    let quantum = spec.quantum();
    let mut units: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (at, bytes) in pieces {
        let mut done = 0;
        while done < bytes.len() {
            let offset = at + done as u64;
            let start = offset / quantum * quantum;
            let unit = match units.entry(start) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    let mut unit = vec![0; quantum.min(size - start) as usize];
                    image.read_at(&mut unit, start)?;
                    entry.insert(unit)
                }
            };
            let inside = (offset - start) as usize;
            let len = (unit.len() - inside).min(bytes.len() - done);
            unit[inside..inside + len].copy_from_slice(&bytes[done..done + len]);
            done += len;
        }
    }
    drop(image);
    let sink: Arc<dyn Sink> = Reopened::of(storage);
    let mut target = spec.start(&mut Output::to_sink(sink))?;
    for (start, unit) in units {
        let mut done = 0;
        while done < unit.len() {
            let len = (unit.len() - done) as u64;
            let at = start + done as u64;
            let slot = target
                .place(at, Allocate::Data { len })?
                .ok_or_else(|| Error::unsupported("the image has no place for guest data"))?;
            let end = done + slot.len.min(len) as usize;
            let file = Arc::clone(&target.files()[slot.file]);
            file.write_all_at(&unit[done..end], slot.offset).map_err(cannot)?;
            done = end;
        }
    }
    target.finish()?;
    storage.barrier().map_err(cannot)
}
