//! From an extent to its bytes.

use crate::host::codec::Decoder;
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::extent::{ChainExtent, Encoded, Kind};
use crate::vocabulary::image::Image;
use std::ops::Range;

/// The largest unit that is decoded as a whole: a bound on what a hostile
/// header can make us allocate. The largest qcow2 cluster is 2 MiB.
const MAX_UNIT: u64 = 64 << 20;

/// Fetches the bytes of extents. Holds buffers and codec contexts for reuse:
/// one per thread.
#[derive(Debug, Default)]
pub struct Fetcher {
    decoder: Decoder,
    stored: Vec<u8>,
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
            Kind::Zero(_) | Kind::Parent => {
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
        self.stored.resize(encoded.stored as usize, 0);
        read_stored(image, depth, encoded, &mut self.stored)?;
        self.decoder
            .decode(encoded.codec, &self.stored, unit)
            .map_err(|e| Error::io("cannot decompress", e).at(encoded.place.offset))
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
    image
        .file(depth, encoded.place.file)
        .read_exact_at(buf, offset)
        .map_err(|e| Error::io("cannot read compressed data", e).at(offset))
}
