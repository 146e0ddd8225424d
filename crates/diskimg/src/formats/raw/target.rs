//! Writing raw.

use crate::host::sink::Sink;
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::layer::Geometry;
use crate::vocabulary::target::{CreateRequest, Slot, Target, Unit};
use std::sync::Arc;

/// Zeros are looked for, and left out, in blocks of this size: what file
/// systems allocate.
const BLOCK: u64 = 4096;

#[derive(Debug)]
struct RawTarget {
    files: [Arc<dyn Sink>; 1],
    size: u64,
    /// Zeros are written out, so that every block of the file is allocated.
    full: bool,
}

pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn Target>> {
    if request.compress {
        return Err(Error::invalid("Compression not supported for this file format"));
    }
    if request.backing.is_some() {
        return Err(Error::invalid("raw images cannot have a backing file"));
    }
    let sink = request.output.sink();
    // At once: a device that is too small shows it before anything is written.
    if !sink.is_sequential() {
        set_len(&*sink, request.size)?;
    }
    let full = match request.options.get("preallocation") {
        None | Some("off") => false,
        Some("falloc") => {
            sink.preallocate(0, request.size).map_err(|e| Error::io("cannot preallocate", e))?;
            false
        }
        // A pipe gets every byte anyway, and each in its turn.
        Some("full") => !sink.is_sequential(),
        Some(other) => {
            return Err(Error::invalid(format!(
                "Unsupported preallocation mode '{other}' for raw: off, falloc or full"
            )));
        }
    };
    Ok(Box::new(RawTarget { files: [sink], size: request.size, full }))
}

impl RawTarget {
    fn write_zeros(&self, at: u64, len: u64) -> Result<()> {
        let sink = &self.files[0];
        let outcome = if self.full {
            sink.fill_zeros_at(at, len)
        } else if sink.is_zeroed() {
            Ok(())
        } else {
            sink.write_zeros_at(at, len)
        };
        outcome.map_err(|e| Error::io("cannot write zeros", e).at(at))
    }
}

impl Target for RawTarget {
    fn geometry(&self) -> Geometry {
        Geometry { size: self.size, unit: BLOCK }
    }

    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Unit<'_>) -> Result<Option<Slot>> {
        match unit {
            Unit::Zero { len } => self.write_zeros(at, len).map(|()| None),
            Unit::Stored { len } => Ok(Some(Slot { file: 0, offset: at, len })),
            Unit::Encoded(_) => Err(Error::invalid("raw stores nothing encoded")),
        }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        set_len(&*self.files[0], self.size)
    }
}

fn set_len(sink: &dyn Sink, len: u64) -> Result<()> {
    sink.set_len(len).map_err(|e| Error::io(format!("cannot set the length to {len}"), e))
}
