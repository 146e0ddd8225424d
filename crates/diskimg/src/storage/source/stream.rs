//! Bytes that come once, in order: a pipe.

use super::{FileSource, Source};
use crate::storage::{os, zeros};
use std::io::{self, Read, Seek};

/// Bytes moved at a time; also the granularity at which zeros become holes.
const BLOCK: usize = 64 * 1024;

/// Turns a forward-only stream into a source that can be read by position.
///
/// Disk image formats seek (a qcow2 maps its first cluster from anywhere in
/// the file, a streamed VMDK keeps its directory at the end), so the stream is
/// written to an unnamed temporary file first. Runs of zeros become holes. The
/// file lives in [`std::env::temp_dir`] (`TMPDIR`) and vanishes with the source.
///
/// # Errors
/// What reading the stream or writing the temporary file said.
pub fn spool(mut stream: impl Read) -> io::Result<FileSource> {
    let mut file = tempfile::tempfile()?;
    let mut block = vec![0; BLOCK];
    let mut len = 0u64;
    loop {
        let filled = fill(&mut stream, &mut block)?;
        if !zeros::is_zero(&block[..filled]) {
            os::write_all_at(&file, &block[..filled], len)?;
        }
        len += filled as u64;
        if filled < BLOCK {
            break;
        }
    }
    file.set_len(len)?;
    file.rewind()?;
    FileSource::from_file(file)
}

/// Reads until `buf` is full or the stream ends.
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

/// As [`spool`], of no more than `most` bytes; `None` if there are more.
///
/// # Errors
/// As [`spool`].
pub(crate) fn spool_up_to(stream: impl Read, most: u64) -> io::Result<Option<FileSource>> {
    let source = spool(stream.take(most.saturating_add(1)))?;
    Ok(Some(source).filter(|source| source.len() <= most))
}

/// Opens standard input: as it is when it is a regular file, spooled when it
/// is a pipe.
///
/// # Errors
/// As [`spool`]; [`io::ErrorKind::InvalidInput`] for a character device, which
/// need not have an end (`/dev/zero`, a terminal).
pub(crate) fn stdin() -> io::Result<FileSource> {
    match stdin_stream()? {
        Stdin::Positioned(source) => Ok(source),
        Stdin::Stream(stream) => spool(stream),
    }
}

/// As [`stdin`], of no more than `most` bytes from a pipe; `None` if there are more.
///
/// # Errors
/// As [`stdin`].
pub(crate) fn stdin_up_to(most: u64) -> io::Result<Option<FileSource>> {
    match stdin_stream()? {
        Stdin::Positioned(source) => Ok(Some(source)),
        Stdin::Stream(stream) => spool_up_to(stream, most),
    }
}

/// What standard input is.
enum Stdin {
    #[cfg_attr(not(unix), allow(dead_code))]
    Positioned(FileSource),
    #[cfg(unix)]
    Stream(std::fs::File),
    #[cfg(not(unix))]
    Stream(io::StdinLock<'static>),
}

fn stdin_stream() -> io::Result<Stdin> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        use std::os::unix::fs::FileTypeExt;
        let file = std::fs::File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let metadata = file.metadata()?;
        if os::is_positioned(&metadata) {
            return FileSource::from_file(file).map(Stdin::Positioned);
        }
        if metadata.file_type().is_char_device() {
            let message = "it is a character device, which need not have an end";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Stdin::Stream(file))
    }
    #[cfg(not(unix))]
    {
        Ok(Stdin::Stream(io::stdin().lock()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that gives a few bytes at a time, as a pipe may.
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
    fn a_stream_that_goes_on_for_ever_is_left_at_the_bound() {
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
