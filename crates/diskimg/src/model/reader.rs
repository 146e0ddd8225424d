//! The guest's bytes as a stream.

use crate::model::image::Image;
use std::io::{self, Read, Seek};

/// Reads the guest's bytes of an [`Image`]; implements [`Read`] and [`Seek`]. Returned by
/// [`Image::reader`].
///
/// ```
/// use std::io::{Read, Seek, SeekFrom};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("disk.img");
/// # std::fs::write(&path, [3; 1024]).unwrap();
/// let mut reader = diskimg::Image::open(&path)?.reader();
/// let mut sector = [0; 512];
/// reader.seek(SeekFrom::Start(512))?;
/// reader.read_exact(&mut sector)?;
/// assert_eq!(sector, [3; 512]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Reader {
    image: Image,
    /// Guest offset of the next byte, which may be beyond the end.
    position: u64,
}

impl Image {
    /// Returns a reader of the guest's bytes, positioned at the start of the disk. It holds a clone
    /// of the image.
    ///
    /// Its errors contain an [`Error`](crate::Error): [`io::Error::downcast`] returns it.
    pub fn reader(&self) -> Reader {
        Reader { image: self.clone(), position: 0 }
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.image.size().saturating_sub(self.position);
        if left == 0 {
            return Ok(0);
        }
        let n = left.min(buf.len() as u64) as usize;
        self.image.read_at(&mut buf[..n], self.position).map_err(io::Error::other)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let position = match to {
            io::SeekFrom::Start(n) => Some(n),
            io::SeekFrom::End(n) => self.image.size().checked_add_signed(n),
            io::SeekFrom::Current(n) => self.position.checked_add_signed(n),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenOptions;
    use crate::storage::source::MemorySource;
    use std::sync::Arc;

    #[test]
    fn a_reader_outlives_the_image_it_was_made_from_and_moves_between_threads() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let source = Arc::new(MemorySource::new(bytes.clone()));
        let image = OpenOptions::new().open_source(source, "a").expect("opens");
        let clone = image.clone();
        let mut reader = image.reader();
        drop(image);
        let read = std::thread::spawn(move || {
            let mut read = Vec::new();
            reader.seek(io::SeekFrom::End(-4000)).expect("seeks");
            reader.read_to_end(&mut read).expect("reads");
            assert!(reader.seek(io::SeekFrom::Current(-5001)).is_err(), "before the start");
            reader.seek(io::SeekFrom::Start(6000)).expect("seeks beyond the end");
            assert_eq!(reader.read(&mut [0; 10]).expect("reads"), 0);
            read
        });
        assert_eq!(read.join().expect("no panic"), bytes[1000..]);
        let mut first = [0; 4];
        clone.read_at(&mut first, 0).expect("the clone reads the same disk");
        assert_eq!(first, bytes[..4]);
    }
}
