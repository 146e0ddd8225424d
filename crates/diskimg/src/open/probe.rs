//! Probing: which format the bytes of a file are of.

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::storage::source::Source;
use std::path::Path;

/// The beginning of a file, for probing.
#[derive(Debug)]
pub(crate) struct ProbeBuffer<'a> {
    /// At most [`ProbeBuffer::BYTES`] first bytes; fewer in a shorter file.
    pub(crate) bytes: &'a [u8],
    /// The file's name, where it has one: for containers whose first bytes say
    /// only how they are packed.
    pub(crate) path: Option<&'a Path>,
}

impl ProbeBuffer<'_> {
    /// How much of a file the probes see: as far as ISO 9660's first three descriptors.
    pub(crate) const BYTES: usize = 38 << 10;
}

impl Format {
    /// The format of `source` by its first bytes; [`Format::Raw`] if nothing
    /// else fits.
    ///
    /// A guest that owns a raw disk can write any header into it. Name the
    /// format where you know it.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the first bytes cannot be read.
    pub fn probe(source: &dyn Source) -> Result<Self> {
        Self::probe_as(source, source.path(), Self::ALL)
    }

    /// As [`probe`](Self::probe), of bytes that have this name, for one of these formats.
    pub(crate) fn probe_as(
        source: &dyn Source,
        path: Option<&Path>,
        formats: &[Self],
    ) -> Result<Self> {
        let mut bytes = vec![0; source.len().min(ProbeBuffer::BYTES as u64) as usize];
        source
            .read_exact_at(&mut bytes, 0)
            .map_err(|e| Error::io("cannot read its beginning", e))?;
        let buffer = ProbeBuffer { bytes: &bytes, path };
        let found = formats.iter().find(|format| (format.driver().probe)(&buffer));
        Ok(found.copied().unwrap_or(Self::Raw))
    }
}
