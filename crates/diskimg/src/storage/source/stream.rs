//! Forward-only streams, such as pipes, as sources.

use super::temporary::TemporaryWriter;
use super::{FileSource, Source};
use crate::storage::{os, zeros};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

/// Number of bytes copied at a time, and granularity of zero detection.
const BLOCK: usize = 64 * 1024;

/// Copies a forward-only stream to a temporary file and returns it as a source.
///
/// Reading a disk image requires random access (the tables of a qcow2 can be anywhere in the file,
/// the grain directory of a streamOptimized VMDK is at its end). The temporary file is unnamed, is
/// created in [`std::env::temp_dir`] (`TMPDIR`), unless it was
/// [reserved](super::reserve_temporary_files), and is deleted with the source. Runs of zeros become
/// holes.
///
/// # Errors
/// Returns the underlying error if reading the stream or writing the temporary file fails.
pub fn spool(mut stream: impl Read) -> io::Result<Arc<dyn Source>> {
    let file = TemporaryWriter::new()?;
    let mut block = vec![0; BLOCK];
    let mut len = 0u64;
    loop {
        let filled = fill(&mut stream, &mut block)?;
        if !zeros::is_zero(&block[..filled]) {
            file.write_all_at(&block[..filled], len)?;
        }
        len += filled as u64;
        if filled < BLOCK {
            break;
        }
    }
    file.finish(len)
}

/// Reads until `buf` is full or the stream ends. Returns the number of bytes read.
pub(crate) fn fill(stream: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match stream.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Like [`spool`], but returns `None` if the stream is longer than `max` bytes.
///
/// # Errors
/// See [`spool`].
pub(crate) fn spool_up_to(stream: impl Read, max: u64) -> io::Result<Option<Arc<dyn Source>>> {
    let source = spool(stream.take(max.saturating_add(1)))?;
    Ok(Some(source).filter(|source| source.len() <= max))
}

/// Opens standard input. A regular file or block device is read directly; anything else is spooled.
///
/// # Errors
/// Returns [`io::ErrorKind::InvalidInput`] for a character device, which may be endless
/// (`/dev/zero`, a terminal), and the errors of [`spool`].
pub(crate) fn stdin() -> io::Result<Arc<dyn Source>> {
    match stdin_stream()? {
        Stdin::Positioned(source) => Ok(Arc::new(source)),
        Stdin::Stream(stream) => spool(stream),
    }
}

/// Like [`stdin`], but returns `None` if standard input is a pipe with more than `max` bytes.
///
/// # Errors
/// See [`stdin`].
pub(crate) fn stdin_up_to(max: u64) -> io::Result<Option<Arc<dyn Source>>> {
    match stdin_stream()? {
        Stdin::Positioned(source) => Ok(Some(Arc::new(source))),
        Stdin::Stream(stream) => spool_up_to(stream, max),
    }
}

/// Standard input.
enum Stdin {
    Positioned(FileSource),
    Stream(File),
}

fn stdin_stream() -> io::Result<Stdin> {
    let file = os::stdin()?;
    // Windows has no metadata of pipes and terminals.
    if file.metadata().is_ok_and(|found| os::is_seekable(&found)) {
        return FileSource::from_file(file).map(Stdin::Positioned);
    }
    if os::is_character_device(&file)? {
        let message = "it is a character device, which may be endless";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(Stdin::Stream(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that returns short reads, like a pipe.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = buf.len().min(self.0.len()).min(1000);
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn a_spooled_stream_keeps_every_byte_and_its_length() {
        let mut bytes = vec![0u8; 3 * BLOCK + 17];
        bytes[BLOCK + 5] = 7;
        *bytes.last_mut().expect("not empty") = 9;
        let source = spool(Trickle(&bytes)).expect("spools");
        assert_eq!(source.len(), bytes.len() as u64);
        let mut back = vec![1; bytes.len()];
        source.read_exact_at(&mut back, 0).expect("reads");
        assert_eq!(back, bytes);
    }

    #[test]
    fn an_endless_stream_is_read_only_up_to_the_limit() {
        assert!(spool_up_to(io::repeat(0), 1 << 20).expect("spools").is_none());
        let bytes = vec![1; 1 << 16];
        let source = spool_up_to(Trickle(&bytes), 1 << 16).expect("spools").expect("fits");
        assert_eq!(source.len(), 1 << 16);
    }

    #[test]
    fn an_empty_stream_is_an_empty_source() {
        assert!(spool(io::empty()).expect("spools").is_empty());
    }
}
