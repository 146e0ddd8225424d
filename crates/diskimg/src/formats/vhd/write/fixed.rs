//! Writing a fixed disk: the guest's bytes, then the footer. It can also be written to a pipe.

use super::VhdSpec;
use crate::error::{Error, Result};
use crate::formats::vhd::footer::FOOTER_BYTES;
use crate::model::flat::FlatFile;
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::sink::Sink;
use std::sync::Arc;

/// A fixed disk being written.
#[derive(Debug)]
pub(super) struct FixedTarget {
    files: [Arc<dyn Sink>; 1],
    file: FlatFile,
    spec: VhdSpec,
    digest: u64,
}

impl FixedTarget {
    /// Starts a disk.
    ///
    /// # Errors
    /// As [`FlatFile::start`].
    pub(super) fn start(sink: Arc<dyn Sink>, spec: &VhdSpec) -> Result<Self> {
        let len = spec.size + FOOTER_BYTES;
        let file = FlatFile::start(Arc::clone(&sink), len, spec.preallocation)?;
        Ok(Self { files: [sink], file, spec: spec.clone(), digest: 0 })
    }
}

impl Target for FixedTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            Allocate::Zero { len } => self.file.write_zeros(at, len).map(|()| None),
            Allocate::Data { len } => Ok(Some(Slot { file: 0, offset: at, len, is_zeroed: false })),
            Allocate::Backed { .. } => Err(Error::invalid("a fixed disk has no backing file")),
            Allocate::Compressed { .. } => {
                Err(Error::invalid("a VHD cannot store compressed units"))
            }
        }
    }

    fn take_digest(&mut self, digest: u64) {
        self.digest = digest;
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let (footer, at) = (self.spec.footer(self.digest, None).encode(), self.spec.size);
        self.files[0]
            .write_all_at(&footer, at)
            .map_err(|e| Error::io("cannot write the footer", e).at(at))?;
        self.file.finish()
    }
}
