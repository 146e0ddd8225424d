//! Probing: which format the bytes of a file are in.
//!
//! ```text
//!   head (40 KiB) ──► a supported format? ──► that format
//!   tail (1.5 KiB)    a known signature?  ──► an error that names it
//!   name              otherwise           ──► raw
//! ```
//!
//! A file in a format that is recognized but not supported is never read as a raw disk.

use crate::error::{Error, ErrorKind, Result};
use crate::model::format::Format;
use crate::open::driver::{self, SIGNATURES, Signature, SignatureKind, format_by_end};
use crate::remedy::Remedy;
use crate::storage::source::Source;
use std::path::Path;

/// The parts of a file that probing looks at.
#[derive(Debug)]
pub(crate) struct ProbeBuffer<'a> {
    /// The first bytes of the file, at most [`ProbeBuffer::HEAD`].
    pub(crate) head: &'a [u8],
    /// The last bytes of the file, at most [`ProbeBuffer::TAIL`]; they may overlap `head`.
    pub(crate) tail: &'a [u8],
    /// The file's name, if it has one. A compressed appliance is recognized by its name alone.
    pub(crate) path: Option<&'a Path>,
}

impl ProbeBuffer<'_> {
    /// Length of the head: ISO 9660's first three volume descriptors or, in raw sectors of up to 2448
    /// bytes, the beginning of the first one.
    pub(crate) const HEAD: usize = 40 << 10;

    /// Length of the tail: a VMDK footer with its markers.
    pub(crate) const TAIL: usize = 1536;
}

/// Head and tail of a file.
#[derive(Default)]
pub(crate) struct ProbeBytes {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl ProbeBytes {
    /// Reads head and tail of `source`.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) or [`Transient`](crate::ErrorKind::Transient) if the
    /// source cannot be read.
    #[cfg(any(feature = "inspect", feature = "compressed"))]
    pub(crate) fn read(source: &dyn Source) -> Result<Self> {
        let mut bytes = Self::read_head(source)?;
        bytes.read_tail(source)?;
        Ok(bytes)
    }

    pub(crate) fn read_head(source: &dyn Source) -> Result<Self> {
        let mut head = vec![0; source.len().min(ProbeBuffer::HEAD as u64) as usize];
        source
            .read_exact_at(&mut head, 0)
            .map_err(|e| Error::io("cannot read its first bytes", e))?;
        Ok(Self { head, tail: Vec::new() })
    }

    fn read_tail(&mut self, source: &dyn Source) -> Result<()> {
        let len = source.len();
        let mut tail = vec![0; len.min(ProbeBuffer::TAIL as u64) as usize];
        let offset = len - tail.len() as u64;
        source
            .read_exact_at(&mut tail, offset)
            .map_err(|e| Error::io("cannot read its last bytes", e))?;
        self.tail = tail;
        Ok(())
    }

    /// The bytes of a file that has this name.
    pub(crate) fn of<'a>(&'a self, path: Option<&'a Path>) -> ProbeBuffer<'a> {
        ProbeBuffer { head: &self.head, tail: &self.tail, path }
    }
}

/// Which formats probing recognizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Probing {
    /// All formats.
    #[default]
    All,
    /// Those that QEMU recognizes, OVA, and compressed files and archives. ISO images, and image
    /// formats unknown to QEMU, are raw disks.
    LikeQemu,
}

impl Format {
    /// Returns the format of `source` by its first and last bytes, or [`Format::Raw`] if no format
    /// is recognized.
    ///
    /// A guest that controls a raw disk can write the header of any format into it. Name the
    /// format if you know it.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the bytes are in a format that is
    /// recognized but not supported (DMG, a compressed file, an archive …), and
    /// [`Io`](crate::ErrorKind::Io) or [`Transient`](crate::ErrorKind::Transient) if the source
    /// cannot be read.
    pub fn probe(source: &dyn Source) -> Result<Self> {
        Self::probe_named(source, source.path(), Probing::All)
    }

    /// Like [`probe`](Self::probe), for a file named `path`.
    pub(crate) fn probe_named(
        source: &dyn Source,
        path: Option<&Path>,
        probing: Probing,
    ) -> Result<Self> {
        let mut bytes = ProbeBytes::read_head(source)?;
        let find = |buffer: &ProbeBuffer<'_>| {
            let matches = |format: &&Self| match probing {
                Probing::All => (format.driver().probe)(buffer),
                Probing::LikeQemu => (format.driver().probe_like_qemu)(buffer),
            };
            Self::ALL.iter().find(matches).copied()
        };
        let by_head = find(&bytes.of(path));
        if let Some(format) = by_head {
            if !driver::is_of_contents(format) {
                return Ok(format);
            }
            // The first bytes of a fixed VHD, or of a DMG whose first chunk is not compressed, are
            // those of the disk: only the last ones say what the file is.
            match bytes.read_tail(source) {
                Err(error) if error.kind() == ErrorKind::Transient => return Err(error),
                _ => {}
            }
            return Ok(find(&bytes.of(path)).unwrap_or(format));
        }
        let recognized = |buffer: &ProbeBuffer<'_>| {
            let matches = |signature: &&Signature| match probing {
                Probing::LikeQemu if signature.kind == SignatureKind::Image => {
                    (signature.qemu)(buffer)
                }
                _ => (signature.matches)(buffer),
            };
            SIGNATURES.iter().find(matches)
        };
        // A guest may write the footer of another format into the last sector of an image.
        if let Some(signature) = recognized(&bytes.of(path)) {
            if signature.kind == SignatureKind::Packed {
                match bytes.read_tail(source) {
                    Err(error) if error.kind() == ErrorKind::Transient => return Err(error),
                    _ => {}
                }
                let buffer = bytes.of(path);
                if let Some(format) = format_by_end(&buffer)
                    && find(&buffer) == Some(format)
                {
                    return Ok(format);
                }
            }
            return Err(not_supported(signature));
        }
        // If the tail cannot be read, signatures in it are not seen: a disk with a damaged last
        // sector can still be converted. But what may be readable later must not make a disk of
        // another format a raw one.
        match bytes.read_tail(source) {
            Err(error) if error.kind() == ErrorKind::Transient => return Err(error),
            _ => {}
        }
        let buffer = bytes.of(path);
        if let Some(format) = find(&buffer) {
            return Ok(format);
        }
        match recognized(&buffer) {
            Some(signature) => Err(not_supported(signature)),
            None if path.is_some_and(driver::is_named_dmg) && !source.len().is_multiple_of(512) => {
                let message = "it is named as a DMG, but has no trailer and no whole sectors";
                let error = Error::unsupported(message).hint("it is probably truncated");
                Err(error.with_remedy(Remedy::NameFormatRaw))
            }
            None => Ok(Self::Raw),
        }
    }
}

fn not_supported(signature: &Signature) -> Error {
    let error = Error::unsupported(format!("it is {}, which is not supported", signature.what));
    match signature.advice {
        Some(advice) => error.hint(advice),
        None => error,
    }
    .with_remedy(Remedy::NameFormatRaw)
}
