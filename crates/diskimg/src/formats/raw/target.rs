//! Writing raw images.

use crate::error::{Error, Result};
use crate::model::flat::{FlatFile, Preallocation};
use crate::model::layer::DiskLayout;
use crate::model::target::{Allocate, CreateRequest, Slot, Target};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// A raw image being written.
#[derive(Debug)]
struct RawTarget {
    files: [Arc<dyn Sink>; 1],
    file: FlatFile,
    size: u64,
}

/// Starts a raw image.
pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn Target>> {
    if request.compress {
        return Err(Error::invalid("Compression not supported for this file format"));
    }
    if request.backing.is_some() {
        return Err(Error::invalid("raw images cannot have a backing file"));
    }
    let preallocation = Preallocation::parse(request.options.get("preallocation"), "raw")?;
    let sink = request.output.sink();
    let file = FlatFile::start(Arc::clone(&sink), request.size, preallocation)?;
    Ok(Box::new(RawTarget { files: [sink], file, size: request.size }))
}

impl Target for RawTarget {
    fn disk_layout(&self) -> DiskLayout {
        DiskLayout { size: self.size, cluster_size: FlatFile::BLOCK }
    }

    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn alignment(&self) -> u64 {
        FlatFile::BLOCK
    }

    fn place(&mut self, at: u64, unit: Allocate<'_>) -> Result<Option<Slot>> {
        match unit {
            Allocate::Zero { len } => self.file.write_zeros(at, len).map(|()| None),
            Allocate::Data { len } => Ok(Some(Slot { file: 0, offset: at, len })),
            Allocate::Compressed(_) => Err(Error::invalid("raw cannot store compressed units")),
        }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.file.finish()
    }
}
