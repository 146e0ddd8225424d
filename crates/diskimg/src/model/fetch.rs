//! Reading the bytes of an extent.

use crate::error::{Error, Result};
use crate::model::extent::{ChainExtent, Encoded, Kind};
use crate::model::image::Image;
use crate::storage::buffer::AlignedBuffer;
use crate::storage::codec::Decoder;
use crate::storage::source::borrow;
use std::io;
use std::ops::Range;

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
}

impl Fetcher {
    /// Fills `buf` with the extent's bytes. `buf` must be exactly as long as the extent.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the extent is beyond the end of its file
    /// or cannot be decoded, and [`Io`](crate::ErrorKind::Io) if reading fails.
    pub fn fetch(&mut self, image: &Image, extent: &ChainExtent, buf: &mut [u8]) -> Result<()> {
        debug_assert_eq!(buf.len() as u64, extent.len());
        match &extent.kind {
            Kind::Zero(_) | Kind::Unallocated => {
                buf.fill(0);
                Ok(())
            }
            Kind::Data(host) => {
                let file = image.file(extent.depth, host.file);
                file.read_exact_at(buf, host.offset)
                    .map_err(|e| Error::io("cannot read guest data", e).at(host.offset))
            }
            Kind::Encoded(encoded) => {
                self.fetch_encoded(image, extent.depth, encoded, &extent.guest, buf)
            }
        }
        .map_err(|e| image.in_layer(e, extent.depth))
    }

    fn fetch_encoded(
        &mut self,
        image: &Image,
        depth: usize,
        encoded: &Encoded,
        range: &Range<u64>,
        buf: &mut [u8],
    ) -> Result<()> {
        if *range == encoded.unit {
            return self.decode(image, depth, encoded, buf);
        }
        let is_cached = self.cached_unit.as_ref().is_some_and(|(d, e)| *d == depth && e == encoded);
        if !is_cached {
            let len = encoded.unit.end - encoded.unit.start;
            if len > MAX_UNIT {
                return Err(Error::limit(format!(
                    "a compressed unit of {len} bytes; at most {MAX_UNIT} are supported"
                )));
            }
            self.cached_unit = None;
            let mut unit = std::mem::take(&mut self.unit);
            unit.resize(len as usize, 0);
            let outcome = self.decode(image, depth, encoded, &mut unit);
            self.unit = unit;
            outcome?;
            self.cached_unit = Some((depth, encoded.clone()));
        }
        let start = (range.start - encoded.unit.start) as usize;
        buf.copy_from_slice(&self.unit[start..start + buf.len()]);
        Ok(())
    }

    fn decode(
        &mut self,
        image: &Image,
        depth: usize,
        encoded: &Encoded,
        unit: &mut [u8],
    ) -> Result<()> {
        let file = image.file(depth, encoded.host.file);
        let offset = encoded.host.offset;
        let borrowed = borrow(file, offset, encoded.stored as usize);
        let stored = match borrowed.map_err(|e| cannot_read_stored(e, offset))? {
            Some(stored) => stored,
            None => {
                let stored = self.stored.set_len(encoded.stored as usize);
                read_stored(image, depth, encoded, stored)?;
                &self.stored
            }
        };
        self.decoder
            .decode(encoded.codec, stored, unit)
            .map_err(|e| Error::io("cannot decompress", e).at(offset))
    }
}

/// Fills `buf` with the stored bytes of a compressed unit, without decoding them. `buf` must be
/// `encoded.stored` bytes long.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if reading fails. The error does not name the layer's file.
pub(crate) fn read_stored(
    image: &Image,
    depth: usize,
    encoded: &Encoded,
    buf: &mut [u8],
) -> Result<()> {
    let offset = encoded.host.offset;
    let file = image.file(depth, encoded.host.file);
    file.read_exact_at(buf, offset).map_err(|e| cannot_read_stored(e, offset))
}

fn cannot_read_stored(error: io::Error, offset: u64) -> Error {
    Error::io("cannot read compressed data", error).at(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::OpenOptions;
    use crate::storage::source::{MemorySource, Source};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

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

        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            match self.closed.load(Ordering::Relaxed) {
                true => Err(io::Error::other("copying read")),
                false => self.bytes.read_exact_at(buf, offset),
            }
        }

        fn as_slice(&self) -> Option<&[u8]> {
            self.bytes.as_slice()
        }
    }

    #[test]
    fn a_compressed_unit_in_memory_is_decoded_without_copying_it() {
        let testdata = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/ext4-zlib.qcow2");
        let bytes = MemorySource::new(std::fs::read(testdata).expect("reads"));
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
}
