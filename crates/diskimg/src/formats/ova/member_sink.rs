//! A member of the archive that is being written.

use crate::storage::lock;
use crate::storage::number::to_u64;
use crate::storage::sink::Sink;
use sha2::{Digest, Sha256};
use std::io;
use std::sync::{Arc, Mutex};

/// Writes the bytes of one member to the archive, in order, and computes their digest.
///
/// [`is_sequential`](Sink::is_sequential) is false although the bytes must be written in order,
/// because format writers treat a sequential sink as a pipe, which has no file name, and a VMDK's
/// IDs depend on its name.
#[derive(Debug)]
pub(super) struct MemberSink {
    archive: Arc<dyn Sink>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Offset of the member's data in the archive; `None` until it is known.
    start: Option<u64>,
    len: u64,
    digest: Sha256,
}

/// Length and digest of a member.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// Length in bytes.
    pub(super) len: u64,
    /// SHA-256 digest.
    pub(super) digest: Vec<u8>,
}

impl MemberSink {
    pub(super) fn new(archive: Arc<dyn Sink>) -> Self {
        Self { archive, state: Mutex::default() }
    }

    /// Sets the offset of the member's first byte in the archive.
    pub(super) fn start_at(&self, offset: u64) {
        lock(&self.state).start = Some(offset);
    }

    /// Returns the length and the digest of the bytes written so far.
    pub(super) fn written(&self) -> Written {
        let state = lock(&self.state);
        Written { len: state.len, digest: state.digest.clone().finalize().to_vec() }
    }
}

impl State {
    fn append(&mut self, archive: &dyn Sink, buf: &[u8]) -> io::Result<()> {
        let start = self
            .start
            .ok_or_else(|| io::Error::other("the member's offset in the archive is not set"))?;
        archive.write_all_at(buf, start + self.len)?;
        self.digest.update(buf);
        self.len += to_u64(buf.len());
        Ok(())
    }
}

impl Sink for MemberSink {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        if offset != state.len {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "an archive member must be written in order: at offset {}, not {offset}",
                    state.len
                ),
            ));
        }
        state.append(&*self.archive, buf)
    }

    fn is_zeroed(&self) -> bool {
        false
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let state = lock(&self.state);
        match len == state.len {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("an archive member of {} bytes cannot be resized to {len}", state.len),
            )),
        }
    }

    fn start_flush(&self) {
        self.archive.start_flush();
    }

    fn flush(&self) -> io::Result<()> {
        self.archive.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sink::MemorySink;
    use crate::storage::source::Source;

    #[test]
    fn bytes_are_written_in_order_and_digested() {
        let archive = Arc::new(MemorySink::new());
        let member = MemberSink::new(Arc::clone(&archive) as Arc<dyn Sink>);
        member.write_all_at(b"a", 0).expect_err("not started");
        member.start_at(100);
        member.write_all_at(b"a", 0).expect("in order");
        member.write_all_at(b"bc", 1).expect("in order");
        for offset in [0, 2, 4] {
            member.write_all_at(b"x", offset).expect_err("out of order");
        }
        member.set_len(4).expect_err("longer");
        member.set_len(3).expect("unchanged");
        let Written { len, digest } = member.written();
        // FIPS 180-4: SHA-256 of "abc".
        assert_eq!((len, &digest[..4]), (3, &[0xba, 0x78, 0x16, 0xbf][..]));
        let mut bytes = [0; 3];
        archive.to_source().read_exact_at(&mut bytes, 100).expect("is written");
        assert_eq!(&bytes, b"abc");
    }
}
