//! From an extent to its bytes.

use crate::error::{Error, Result};
use crate::model::extent::{ChainExtent, Encoded, Kind};
use crate::model::image::Image;
use crate::storage::buffer::AlignedBuffer;
use crate::storage::codec::Decoder;
use crate::storage::source::borrow;
use std::io;
use std::ops::Range;

/// The largest unit of any format: a grain of 1 GiB. How large one may be that is
/// decoded as a whole, a format's reader has seen to (`Limits::unit_bytes`).
const MAX_UNIT: u64 = 1 << 30;

/// Fetches the bytes of extents. Holds buffers and codec contexts for reuse:
/// one per thread.
#[derive(Debug, Default)]
pub struct Fetcher {
    decoder: Decoder,
    stored: AlignedBuffer,
    /// The unit decoded last, for callers that want it in pieces.
    unit: Vec<u8>,
    unit_of: Option<(usize, Encoded)>,
}

impl Fetcher {
    /// Fills `buf`, which is as long as the extent, with the extent's bytes.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the place lies behind the end
    /// of its file or does not decode, [`Io`](crate::ErrorKind::Io).
    pub fn fetch(&mut self, image: &Image, extent: &ChainExtent, buf: &mut [u8]) -> Result<()> {
        debug_assert_eq!(buf.len() as u64, extent.len());
        match &extent.kind {
            Kind::Zero(_) | Kind::Unallocated => {
                buf.fill(0);
                Ok(())
            }
            Kind::Data(place) => {
                let file = image.file(extent.depth, place.file);
                file.read_exact_at(buf, place.offset)
                    .map_err(|e| Error::io("cannot read guest data", e).at(place.offset))
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
        let known = self.unit_of.as_ref().is_some_and(|(d, e)| *d == depth && e == encoded);
        if !known {
            let len = encoded.unit.end - encoded.unit.start;
            if len > MAX_UNIT {
                return Err(Error::limit(format!("a compressed unit of {len} bytes")));
            }
            self.unit_of = None;
            let mut unit = std::mem::take(&mut self.unit);
            unit.resize(len as usize, 0);
            let outcome = self.decode(image, depth, encoded, &mut unit);
            self.unit = unit;
            outcome?;
            self.unit_of = Some((depth, encoded.clone()));
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
        let file = image.file(depth, encoded.place.file);
        let offset = encoded.place.offset;
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

/// Fills `buf`, as long as the unit is stored, with the unit as it is stored.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io); it does not name the layer.
pub(crate) fn read_stored(
    image: &Image,
    depth: usize,
    encoded: &Encoded,
    buf: &mut [u8],
) -> Result<()> {
    let offset = encoded.place.offset;
    let file = image.file(depth, encoded.place.file);
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

    /// Bytes in memory that are no longer to be copied.
    #[derive(Debug)]
    struct LendsOnly {
        bytes: MemorySource,
        closed: AtomicBool,
    }

    impl Source for LendsOnly {
        fn len(&self) -> u64 {
            self.bytes.len()
        }

        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            match self.closed.load(Ordering::Relaxed) {
                true => Err(io::Error::other("a copy")),
                false => self.bytes.read_exact_at(buf, offset),
            }
        }

        fn as_slice(&self) -> Option<&[u8]> {
            self.bytes.as_slice()
        }
    }

    #[test]
    fn a_compressed_unit_in_memory_is_decoded_where_it_lies() {
        let testdata = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/ext4-zlib.qcow2");
        let bytes = MemorySource::new(std::fs::read(testdata).expect("reads"));
        let source = Arc::new(LendsOnly { bytes, closed: false.into() });
        let opened = Arc::clone(&source) as Arc<dyn Source>;
        let image = OpenOptions::new().open_source(opened, "a").expect("opens");
        let extents = image.extents(0..image.size()).expect("maps");
        let encoded = |e: &&ChainExtent| matches!(e.kind, Kind::Encoded(_));
        let extent = extents.iter().find(encoded).expect("compressed");
        let mut expected = vec![0; extent.len() as usize];
        image.read_at(&mut expected, extent.guest.start).expect("reads");
        source.closed.store(true, Ordering::Relaxed);
        let mut unit = vec![0; expected.len()];
        Fetcher::default().fetch(&image, extent, &mut unit).expect("lent");
        assert!(unit == expected && unit.iter().any(|&b| b != 0));
    }
}
