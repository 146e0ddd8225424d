//! Reading the bytes of an extent.

use crate::error::{Error, ErrorKind, Result};
use crate::model::extent::{ChainExtent, Encoded, HostOffset, Kind};
use crate::model::image::Image;
use crate::model::shared_units::SharedUnits;
use crate::storage::buffer::{self, AlignedBuffer};
use crate::storage::codec::Decoder;
use crate::storage::source::{Source, SourceError, borrow};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Largest unit of any format: a VMDK grain of 1 GiB. The formats' readers enforce the lower,
/// configurable limit on compressed units (`Limits::unit_bytes`).
const MAX_UNIT: u64 = 1 << 30;

/// Reads and decodes the bytes of extents.
///
/// Keeps buffers and codec contexts for reuse. Each thread should have its own.
#[derive(Debug, Default)]
pub struct Fetcher {
    decoder: Decoder,
    stored: AlignedBuffer,
    /// The unit decoded last: callers may read it piece by piece.
    unit: Vec<u8>,
    /// Layer and stored location of that unit.
    cached_unit: Option<(usize, Encoded)>,
    /// For each layer, the unit that could not be decoded last: its other parts cannot either.
    failed: Vec<Failed>,
    /// Units of which other fetchers need parts as well.
    shared: Option<Arc<SharedUnits>>,
}

/// A unit that cannot be decoded.
#[derive(Debug)]
struct Failed {
    depth: usize,
    encoded: Encoded,
    /// Text of the codec's error.
    reason: String,
}

impl Failed {
    fn error(&self) -> Error {
        let reason = io::Error::new(io::ErrorKind::InvalidData, self.reason.clone());
        cannot_decode(reason, self.encoded.host.offset)
    }
}

impl Fetcher {
    /// Creates a fetcher that decodes no unit of which another one has decoded a part.
    pub(crate) fn sharing(units: &Arc<SharedUnits>) -> Self {
        Self { shared: Some(Arc::clone(units)), ..Self::default() }
    }

    /// Returns true if [`fetch`](Self::fetch) would wait for a unit that another thread decodes.
    pub(crate) fn is_busy(&self, extent: &ChainExtent) -> bool {
        match (&self.shared, &extent.kind) {
            (Some(shared), Kind::Encoded(encoded)) if extent.guest != encoded.unit => {
                shared.is_busy(extent.depth, encoded)
            }
            _ => false,
        }
    }

    /// Fills `buf` with the extent's bytes. `buf` must be exactly as long as the extent.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the extent is beyond the end of its file
    /// or cannot be decoded, and [`Io`](crate::ErrorKind::Io) or
    /// [`Transient`](crate::ErrorKind::Transient) if reading fails.
    pub fn fetch(&mut self, image: &Image, extent: &ChainExtent, buf: &mut [u8]) -> Result<()> {
        self.fetch_preloaded(image, extent, buf, &())
    }

    /// As [`fetch`](Self::fetch), without reading the bytes that `preloaded` has.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub(crate) fn fetch_preloaded(
        &mut self,
        image: &Image,
        extent: &ChainExtent,
        buf: &mut [u8],
        preloaded: &dyn Preloaded,
    ) -> Result<()> {
        debug_assert_eq!(buf.len() as u64, extent.len());
        match &extent.kind {
            Kind::Zero(_) | Kind::Unallocated => {
                buf.fill(0);
                Ok(())
            }
            Kind::Data(host) => match preloaded.stored(extent.depth, host, buf.len()) {
                Some(bytes) => {
                    buf.copy_from_slice(bytes);
                    Ok(())
                }
                None => image
                    .file(extent.depth, host.file)
                    .read_exact_at(buf, host.offset)
                    .map_err(|e| Error::io("cannot read guest data", e).at(host.offset)),
            },
            Kind::Encoded(encoded) => {
                let unit = StoredUnit { image, depth: extent.depth, encoded, preloaded };
                self.fetch_encoded(unit, &extent.guest, buf)
            }
        }
        .map_err(|e| image.in_layer(e, extent.depth))
    }

    fn fetch_encoded(
        &mut self,
        stored: StoredUnit<'_>,
        range: &Range<u64>,
        buf: &mut [u8],
    ) -> Result<()> {
        let StoredUnit { depth, encoded, .. } = stored;
        if *range == encoded.unit {
            return self.decode(stored, buf);
        }
        let is_cached = self.cached_unit.as_ref().is_some_and(|(d, e)| *d == depth && e == encoded);
        if !is_cached {
            let len = encoded.unit.end - encoded.unit.start;
            if len > MAX_UNIT {
                return Err(Error::limit(format!(
                    "a compressed unit of {len} bytes; at most {MAX_UNIT} are supported"
                )));
            }
            let failed = self.failed.iter().find(|f| f.depth == depth && f.encoded == *encoded);
            if let Some(failed) = failed {
                return Err(failed.error());
            }
            if let Some(shared) = self.shared.clone() {
                let fetched =
                    shared.fetch(depth, encoded, range, buf, |unit| self.decode(stored, unit));
                return fetched.inspect_err(|error| self.remember(depth, encoded, error));
            }
            self.cached_unit = None;
            let mut unit = std::mem::take(&mut self.unit);
            buffer::resize(&mut unit, len as usize);
            let outcome = self.decode(stored, &mut unit);
            self.unit = unit;
            outcome.inspect_err(|error| self.remember(depth, encoded, error))?;
            self.cached_unit = Some((depth, encoded.clone()));
        }
        let start = (range.start - encoded.unit.start) as usize;
        buf.copy_from_slice(&self.unit[start..start + buf.len()]);
        Ok(())
    }

    /// Remembers that a unit is damaged. What cannot be read may be readable later.
    fn remember(&mut self, depth: usize, encoded: &Encoded, error: &Error) {
        if error.kind() == ErrorKind::Corrupt {
            let reason = error.io_error().map_or_else(|| error.without_remedy(), |e| e.to_string());
            self.failed.retain(|failed| failed.depth != depth);
            self.failed.push(Failed { depth, encoded: encoded.clone(), reason });
        }
    }

    fn decode(&mut self, stored: StoredUnit<'_>, unit: &mut [u8]) -> Result<()> {
        let StoredUnit { encoded, .. } = stored;
        let offset = encoded.host.offset;
        let stored = match stored.borrow()? {
            Some(bytes) => bytes,
            None => {
                stored.read(self.stored.set_len(encoded.stored as usize))?;
                &self.stored
            }
        };
        self.decoder.decode(encoded.codec, stored, unit).map_err(|e| cannot_decode(e, offset))
    }
}

/// Stored bytes that were read before they are needed.
pub(crate) trait Preloaded {
    /// Returns the `len` bytes at `host` of the layer at `depth`, if they were read.
    fn stored(&self, depth: usize, host: &HostOffset, len: usize) -> Option<&[u8]>;
}

/// Nothing was read before.
impl Preloaded for () {
    fn stored(&self, _: usize, _: &HostOffset, _: usize) -> Option<&[u8]> {
        None
    }
}

/// The stored bytes of a compressed unit. The errors do not name the layer's file.
#[derive(Clone, Copy)]
pub(crate) struct StoredUnit<'a> {
    pub(crate) image: &'a Image,
    pub(crate) depth: usize,
    pub(crate) encoded: &'a Encoded,
    pub(crate) preloaded: &'a dyn Preloaded,
}

impl<'a> StoredUnit<'a> {
    fn file(&self) -> &'a dyn Source {
        self.image.file(self.depth, self.encoded.host.file)
    }

    /// Returns the bytes if they are in memory.
    fn borrow(&self) -> Result<Option<&'a [u8]>> {
        let Encoded { host, stored, .. } = self.encoded;
        match self.preloaded.stored(self.depth, host, *stored as usize) {
            Some(bytes) => Ok(Some(bytes)),
            None => borrow(self.file(), host.offset, *stored as usize)
                .map_err(|e| cannot_read_stored(e, host.offset)),
        }
    }

    /// Fills `buf`, which must be as long as the unit is stored, without decoding.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) or [`Transient`](crate::ErrorKind::Transient) if
    /// reading fails.
    pub(crate) fn read(&self, buf: &mut [u8]) -> Result<()> {
        let host = &self.encoded.host;
        if let Some(bytes) = self.preloaded.stored(self.depth, host, buf.len()) {
            buf.copy_from_slice(bytes);
            return Ok(());
        }
        let read = self.file().read_exact_at(buf, host.offset);
        read.map_err(|e| cannot_read_stored(e, host.offset))
    }
}

fn cannot_read_stored(error: SourceError, offset: u64) -> Error {
    Error::io("cannot read compressed data", error).at(offset)
}

fn cannot_decode(error: io::Error, offset: u64) -> Error {
    Error::decode("cannot decompress", error).at(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::OpenOptions;
    use crate::storage::source::{MemorySource, Source, SourceError};
    use crate::{Convert, Format};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// Bytes in memory. Copying reads fail once `closed` is set.
    #[derive(Debug)]
    struct BorrowOnly {
        bytes: MemorySource,
        closed: AtomicBool,
    }

    impl Source for BorrowOnly {
        fn len(&self) -> u64 {
            self.bytes.len()
        }

        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
            match self.closed.load(Ordering::Relaxed) {
                true => Err(io::Error::other("copying read").into()),
                false => self.bytes.read_exact_at(buf, offset),
            }
        }

        fn as_slice(&self) -> Option<&[u8]> {
            self.bytes.as_slice()
        }
    }

    /// An image of four compressed clusters. Made here, because a published package has no test data.
    fn compressed_qcow2() -> Vec<u8> {
        let disk: Vec<u8> = (0..4_u32 << 16).map(|at| 1 + (at >> 12) as u8).collect();
        let dir = tempfile::tempdir().expect("tempdir");
        let (raw, qcow2) = (dir.path().join("disk.img"), dir.path().join("disk.qcow2"));
        std::fs::write(&raw, disk).expect("writes");
        let image = OpenOptions::new().open(&raw).expect("opens");
        Convert::new(image).format(Format::Qcow2).compress(true).run(&qcow2).expect("converts");
        std::fs::read(&qcow2).expect("reads")
    }

    #[test]
    fn a_compressed_unit_in_memory_is_decoded_without_copying_it() {
        let bytes = MemorySource::new(compressed_qcow2());
        let source = Arc::new(BorrowOnly { bytes, closed: false.into() });
        let opened = Arc::clone(&source) as Arc<dyn Source>;
        let image = OpenOptions::new().open_source(opened, "a").expect("opens");
        let extents = image.extents_in(0..image.size()).expect("maps");
        let encoded = |e: &&ChainExtent| matches!(e.kind, Kind::Encoded(_));
        let extent = extents.iter().find(encoded).expect("compressed");
        let mut expected = vec![0; extent.len() as usize];
        image.read_at(&mut expected, extent.guest.start).expect("reads");
        source.closed.store(true, Ordering::Relaxed);
        let mut unit = vec![0; expected.len()];
        Fetcher::default().fetch(&image, extent, &mut unit).expect("borrows");
        assert!(unit == expected && unit.iter().any(|&b| b != 0));
    }

    #[test]
    fn a_damaged_unit_is_not_decoded_again_for_its_other_parts() {
        let mut bytes = compressed_qcow2();
        let open = |bytes: &[u8]| {
            let bytes = MemorySource::new(bytes.to_vec());
            let source = Arc::new(CountedReads { bytes, count: AtomicUsize::new(0) });
            let opened = Arc::clone(&source) as Arc<dyn Source>;
            (source, OpenOptions::new().open_source(opened, "a").expect("opens"))
        };
        let extents = |image: &Image| {
            let extents = image.extents_in(0..image.size()).expect("maps");
            let encoded = |e: &ChainExtent| matches!(e.kind, Kind::Encoded(_));
            extents.into_iter().filter(encoded).take(2).collect::<Vec<_>>()
        };
        let (_, image) = open(&bytes);
        for extent in extents(&image) {
            let Kind::Encoded(encoded) = &extent.kind else { continue };
            bytes[encoded.host.offset as usize] = 0xff;
        }
        let (source, image) = open(&bytes);
        let mut fetcher = Fetcher::default();
        let mut buf = [0; 512];
        let (damaged, mut errors) = (extents(&image), Vec::new());
        for extent in &damaged {
            let before = source.count.load(Ordering::Relaxed);
            for part in 0..8 {
                let start = extent.guest.start + part * 512;
                let part = extent.clip(&(start..start + 512));
                let error = fetcher.fetch(&image, &part, &mut buf).expect_err("is damaged");
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                errors.push(error.without_remedy());
            }
            errors.dedup();
            assert_eq!(source.count.load(Ordering::Relaxed), before + 1);
        }
        assert_eq!(errors.len(), damaged.len(), "{errors:?}");
    }

    /// Bytes that are copied, and how often they are read.
    #[derive(Debug)]
    struct CountedReads {
        bytes: MemorySource,
        count: AtomicUsize,
    }

    impl Source for CountedReads {
        fn len(&self) -> u64 {
            self.bytes.len()
        }

        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.bytes.read_exact_at(buf, offset)
        }
    }
}
