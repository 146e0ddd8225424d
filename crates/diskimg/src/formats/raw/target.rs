//! Writing raw images.

#[cfg(feature = "compressed")]
use super::packed;
use super::subformat::Subformat;
use crate::error::{Error, Result};
use crate::model::flat::{FlatFile, Preallocation};
use crate::model::target::{Allocate, CreateRequest, Slot, Target, TargetSpec};
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use std::sync::Arc;

/// A new raw image.
#[derive(Debug)]
struct RawSpec {
    size: u64,
    preallocation: Preallocation,
}

/// A raw image being written.
#[derive(Debug)]
struct RawTarget {
    files: [Arc<dyn Sink>; 1],
    file: FlatFile,
}

/// Specifies a raw image.
pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn TargetSpec>> {
    let subformat = Subformat::parse(request.options.get("subformat"))?;
    if request.compress && subformat == Subformat::Flat {
        return Err(Error::invalid("Compression not supported for this file format")
            .hint("subformat=gzip and subformat=zstd write a compressed file"));
    }
    if request.backing.is_some() {
        return Err(Error::invalid("raw images cannot have a backing file"));
    }
    if subformat != Subformat::Flat {
        #[cfg(feature = "compressed")]
        return packed::create(&request, subformat);
        #[cfg(not(feature = "compressed"))]
        return Err(Error::unsupported(
            "this build does not write compressed files (cargo feature compressed)",
        ));
    }
    request.options.compression_level(9, false)?;
    let preallocation = Preallocation::parse(request.options.get("preallocation"), "raw")?;
    Ok(Box::new(RawSpec { size: request.size, preallocation }))
}

impl TargetSpec for RawSpec {
    fn size(&self) -> u64 {
        self.size
    }

    fn quantum(&self) -> u64 {
        FlatFile::BLOCK
    }

    fn alignment(&self) -> u64 {
        FlatFile::BLOCK
    }

    fn start(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        let sink = output.sink();
        let file = FlatFile::start(Arc::clone(&sink), self.size, self.preallocation)?;
        Ok(Box::new(RawTarget { files: [sink], file }))
    }
}

impl Target for RawTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            Allocate::Zero { len } => self.file.write_zeros(at, len).map(|()| None),
            Allocate::Backed { .. } => Err(Error::invalid("raw images have no backing file")),
            Allocate::Data { len } => Ok(Some(Slot { file: 0, offset: at, len, is_zeroed: false })),
            Allocate::Compressed { .. } => Err(Error::invalid("raw cannot store compressed units")),
        }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.file.finish()
    }
}
