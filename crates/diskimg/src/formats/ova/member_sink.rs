//! A file inside the archive, while it is written.

use crate::storage::lock;
use crate::storage::number::to_u64;
use crate::storage::sink::Sink;
use sha2::{Digest, Sha256};
use std::io;
use std::sync::{Arc, Mutex};

/// Bytes of one member: they pass on to the archive, in order, and their digest
/// is taken.
///
/// It does not say [`is_sequential`](Sink::is_sequential): an image in it is a
/// file with a name and not a nameless stream. Whoever writes to it sees to the order.
#[derive(Debug)]
pub(super) struct MemberSink {
    archive: Arc<dyn Sink>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where the member starts in the archive; `None` until that is known.
    start: Option<u64>,
    len: u64,
    digest: Sha256,
}

/// A member that is complete.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// Bytes.
    pub(super) len: u64,
    /// SHA-256.
    pub(super) digest: Vec<u8>,
}

impl MemberSink {
    pub(super) fn new(archive: Arc<dyn Sink>) -> Self {
        Self { archive, state: Mutex::default() }
    }

    /// The member's first byte will be at `offset` of the archive.
    pub(super) fn start_at(&self, offset: u64) {
        lock(&self.state).start = Some(offset);
    }

    /// What it has become.
    pub(super) fn written(&self) -> Written {
        let state = lock(&self.state);
        Written { len: state.len, digest: state.digest.clone().finalize().to_vec() }
    }
}

impl State {
    fn append(&mut self, archive: &dyn Sink, buf: &[u8]) -> io::Result<()> {
        let start = self.start.ok_or_else(|| io::Error::other("its turn has not come"))?;
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
                format!("a member of an archive cannot go on at {offset} from {}", state.len),
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
                format!("a member of {} bytes cannot become one of {len}", state.len),
            )),
        }
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
    fn bytes_pass_in_order_and_are_digested() {
        let archive = Arc::new(MemorySink::new());
        let member = MemberSink::new(Arc::clone(&archive) as Arc<dyn Sink>);
        member.write_all_at(b"a", 0).expect_err("has no place yet");
        member.start_at(100);
        member.write_all_at(b"a", 0).expect("goes on");
        member.write_all_at(b"bc", 1).expect("goes on");
        for offset in [0, 2, 4] {
            member.write_all_at(b"x", offset).expect_err("out of order");
        }
        member.set_len(4).expect_err("longer");
        member.set_len(3).expect("is so");
        let Written { len, digest } = member.written();
        // FIPS 180-4: SHA-256 of "abc".
        assert_eq!((len, &digest[..4]), (3, &[0xba, 0x78, 0x16, 0xbf][..]));
        let mut bytes = [0; 3];
        archive.to_source().read_exact_at(&mut bytes, 100).expect("there");
        assert_eq!(&bytes, b"abc");
    }
}
