//! Bytes that come once, in order: a pipe.

use super::FileSource;
use crate::host::{os, zeros};
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

/// Opens standard input: as it is when it is a regular file, spooled when it
/// is a pipe.
///
/// # Errors
/// As [`spool`].
pub(crate) fn stdin() -> io::Result<FileSource> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        let file = std::fs::File::from(io::stdin().as_fd().try_clone_to_owned()?);
        if os::is_positioned(&file.metadata()?) {
            return FileSource::from_file(file);
        }
        spool(file)
    }
    #[cfg(not(unix))]
    {
        spool(io::stdin().lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::source::Source;

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
    fn an_empty_stream_is_an_empty_source() {
        assert!(spool(io::empty()).expect("spools").is_empty());
    }
}
