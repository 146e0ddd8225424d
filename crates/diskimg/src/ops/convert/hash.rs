//! A cryptographic digest of the guest's bytes, and of the files that were written.
//!
//! The bytes of a disk have an order, and so has their hash: placement, which sees the tasks in
//! that order, feeds it. What went from file to file without being read is read for this.

use super::input::Input;
use super::share::Origin;
use super::task::{EncodedTask, TaskRun};
use crate::error::{Error, Result};
use crate::open::external_files::StandIn;
use crate::storage::source::Source;
use crate::storage::zeros::ZEROS;
use sha2::{Digest, Sha256};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

/// Bytes that are hashed between two looks at whether to stop.
const STEP: u64 = 64 << 20;

/// Bytes read at a time.
const BLOCK: usize = 256 << 10;

/// What computes a [digest](super::Convert::digest).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DigestAlgorithm {
    /// SHA-256 (FIPS 180-4), as `sha256sum` prints it.
    Sha256,
    /// BLAKE3, 256 bits, as `b3sum` prints it. Several times faster.
    Blake3,
}

/// The digests of what a conversion read and wrote, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// What computed them.
    pub algorithm: DigestAlgorithm,
    /// Of the guest's bytes, zeros included: [`Report::guest_bytes`](super::Report::guest_bytes)
    /// many. A raw image of that disk has it as a file.
    pub guest: String,
    /// Of each file that was written, the main one first. Empty where a pipe or a writer took
    /// the bytes.
    pub files: Vec<FileDigest>,
}

/// The digest of a file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// Its name.
    pub path: PathBuf,
    /// Of all of its bytes.
    pub digest: String,
}

impl DigestAlgorithm {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Sha256, Self::Blake3];

    /// Its name: `sha256`, `blake3`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        }
    }
}

impl fmt::Display for DigestAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DigestAlgorithm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|a| a.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|a| a.name()).collect();
            Error::invalid(format!("unknown digest '{name}'"))
                .hint(format!("known digests: {}", known.join(", ")))
        })
    }
}

/// A digest that grows.
#[derive(Debug)]
enum State {
    Sha256(Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl State {
    fn new(algorithm: DigestAlgorithm) -> Self {
        match algorithm {
            DigestAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
            DigestAlgorithm::Blake3 => Self::Blake3(Box::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(state) => state.update(bytes),
            Self::Blake3(state) => drop(state.update(bytes)),
        }
    }

    fn finish(self) -> String {
        let bytes: [u8; 32] = match self {
            Self::Sha256(state) => state.finalize().into(),
            Self::Blake3(state) => state.finalize().into(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Takes the guest's bytes in their order.
#[derive(Debug)]
pub(super) struct GuestHash<'a> {
    input: &'a Input,
    state: State,
    buf: Vec<u8>,
}

impl<'a> GuestHash<'a> {
    pub(super) fn new(algorithm: DigestAlgorithm, input: &'a Input) -> Self {
        Self { input, state: State::new(algorithm), buf: Vec::new() }
    }

    /// Takes the next task's bytes. `tick` is called now and then and may stop it.
    pub(super) fn take(&mut self, task: &EncodedTask, tick: &dyn Fn() -> Result<()>) -> Result<()> {
        self.zeros(&task.zeros, tick)?;
        if let [TaskRun::Offloaded(range, origin)] = &*task.runs {
            return self.unread(range.end - range.start, origin);
        }
        self.state.update(&task.buffers.guest);
        Ok(())
    }

    fn zeros(&mut self, range: &Range<u64>, tick: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut left = range.end - range.start;
        while left > 0 {
            if left.is_multiple_of(STEP) {
                tick()?;
            }
            // To the next multiple of a step, so that none is missed.
            let n = left.min(ZEROS.len() as u64).min((left - 1) % STEP + 1);
            self.state.update(&ZEROS[..n as usize]);
            left -= n;
        }
        Ok(())
    }

    /// What goes from file to file.
    fn unread(&mut self, len: u64, origin: &Origin) -> Result<()> {
        let image = self.input.image(origin.image);
        let source = image.file(origin.depth, origin.place.file);
        hash_range(&mut self.state, &mut self.buf, source, origin.place.offset, len)
            .map_err(|e| image.in_layer(e, origin.depth))
    }

    pub(super) fn finish(self) -> String {
        self.state.finish()
    }
}

/// Hashes what was written; `tick` is called now and then and may stop it.
pub(super) fn of_files(
    algorithm: DigestAlgorithm,
    files: Vec<StandIn>,
    tick: &dyn Fn() -> Result<()>,
) -> Result<Vec<FileDigest>> {
    let mut buf = Vec::new();
    let mut digest = |source: &dyn Source| {
        let mut state = State::new(algorithm);
        let mut at = 0;
        while at < source.len() {
            tick()?;
            let len = STEP.min(source.len() - at);
            hash_range(&mut state, &mut buf, source, at, len)?;
            at += len;
        }
        Ok(state.finish())
    };
    let of = |(path, source): StandIn| {
        let digest = digest(&*source).map_err(|e: Error| e.in_file(&path))?;
        Ok(FileDigest { path, digest })
    };
    files.into_iter().map(of).collect()
}

fn hash_range(
    state: &mut State,
    buf: &mut Vec<u8>,
    source: &dyn Source,
    offset: u64,
    len: u64,
) -> Result<()> {
    for done in (0..len).step_by(BLOCK) {
        buf.resize((len - done).min(BLOCK as u64) as usize, 0);
        source
            .read_exact_at(buf, offset + done)
            .map_err(|e| Error::io("cannot read the bytes to be hashed", e).at(offset + done))?;
        state.update(buf);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4's example, and BLAKE3's of its reference implementation.
    #[test]
    fn digests_are_those_that_other_tools_print() {
        let digest = |algorithm, bytes: &[u8]| {
            let mut state = State::new(algorithm);
            bytes.chunks(2).for_each(|part| state.update(part));
            state.finish()
        };
        assert_eq!(
            digest(DigestAlgorithm::Sha256, b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            digest(DigestAlgorithm::Blake3, b""),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn a_long_stretch_of_zeros_is_hashed_in_full_and_may_be_stopped() {
        let input = Input::concatenate(Vec::new(), 512).expect("empty");
        let looks = std::cell::Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            Ok(())
        };
        let mut hash = GuestHash::new(DigestAlgorithm::Blake3, &input);
        let len = 2 * STEP + 1000;
        hash.zeros(&(0..len), &look).expect("goes on");
        assert_eq!(looks.get(), 2);
        assert_eq!(hash.finish(), blake3::hash(&vec![0; len as usize]).to_hex().as_str());
        let mut hash = GuestHash::new(DigestAlgorithm::Blake3, &input);
        hash.zeros(&(0..len), &|| Err(Error::cancelled())).expect_err("stopped");
    }
}
