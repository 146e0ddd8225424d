//! The contents of a file as a [`Source`].

use crate::error::{Error, Result};
use crate::iso::node::FileExtent;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{HostFileId, Segment, Source, SourceError, check_range};
use std::fs::File;
use std::sync::Arc;

/// Extents of an image, read as one file.
#[derive(Debug)]
pub(crate) struct ExtentSource {
    image: Arc<dyn Source>,
    extents: Vec<FileExtent>,
    /// File offset of each extent; ascending.
    starts: Vec<u64>,
    len: u64,
}

impl ExtentSource {
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the total length of the extents exceeds
    /// 2^64 bytes.
    pub(crate) fn new(image: Arc<dyn Source>, extents: &[FileExtent]) -> Result<Self> {
        let extents: Vec<_> = extents.iter().copied().filter(|e| e.len > 0).collect();
        let mut starts = Vec::with_capacity(extents.len());
        let mut len = 0u64;
        for extent in &extents {
            starts.push(len);
            let end = len.checked_add(extent.len);
            let too_long = || Error::corrupt("file", "its extents exceed 2^64 bytes");
            len = end.ok_or_else(too_long)?;
        }
        Ok(Self { image, extents, starts, len })
    }

    /// Returns the extent that contains `offset`, which must be within the file, and the file
    /// offset at which that extent starts.
    fn extent_at(&self, offset: u64) -> (FileExtent, u64) {
        let index = self.starts.partition_point(|&start| start <= offset) - 1;
        (self.extents[index], self.starts[index])
    }
}

impl Source for ExtentSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> Result<(), SourceError> {
        check_range(offset, buf.len(), self.len)?;
        while !buf.is_empty() {
            let (extent, start) = self.extent_at(offset);
            let inside = offset - start;
            let here = (extent.len - inside).min(to_u64(buf.len()));
            let (now, later) = buf.split_at_mut(to_usize(here));
            match extent.offset {
                Some(at) => {
                    let at = at.saturating_add(inside);
                    self.image.read_exact_at(now, at)?;
                }
                None => now.fill(0),
            }
            buf = later;
            offset += here;
        }
        Ok(())
    }

    fn segment_at(&self, offset: u64) -> Result<Segment, SourceError> {
        let (extent, start) = self.extent_at(offset);
        Ok(Segment { end: start + extent.len, hole: extent.offset.is_none() })
    }

    fn as_file(&self) -> Option<(&File, u64)> {
        match *self.extents {
            [FileExtent { offset: Some(at), .. }] => {
                self.image.as_file().map(|(file, start)| (file, start + at))
            }
            _ => None,
        }
    }

    fn identities(&self) -> Vec<HostFileId> {
        self.image.identities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    #[test]
    fn every_range_reads_as_the_concatenated_extents() {
        let image = Arc::new(MemorySource::new(*b"0123456789"));
        let extents = [(Some(7), 2), (None, 2), (Some(0), 0), (Some(1), 3)];
        let extents = extents.map(|(offset, len)| FileExtent { offset, len });
        let source = ExtentSource::new(image, &extents).expect("fits");
        let whole = b"78\0\x00123";
        for start in 0..=whole.len() {
            for end in start..=whole.len() {
                let mut buf = vec![1; end - start];
                source.read_exact_at(&mut buf, start as u64).expect("inside");
                assert_eq!(buf, whole[start..end]);
            }
        }
        assert!(source.read_exact_at(&mut [0; 2], 6).is_err());
    }
}
