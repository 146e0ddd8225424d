//! Cryptographic digests of the guest's bytes and of the output files.
//!
//! A hash takes the bytes in guest order, so placement, which sees the tasks in that order,
//! computes it. Data that was shared or copied by the kernel is read for this.

// Without the feature, no algorithm exists, so no code here is ever reached.
#![cfg_attr(not(feature = "digest"), allow(unused, unreachable_code))]

use super::input::Input;
use super::share::Origin;
use super::task::{EncodedTask, TaskRun};
use crate::error::{Error, Result};
use crate::open::external_files::StandIn;
use crate::storage::source::Source;
use crate::storage::zeros::ZEROS;
#[cfg(feature = "digest")]
use sha2::{Digest, Sha256};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

/// Bytes hashed between two calls of `tick`.
const STEP: u64 = 64 << 20;

/// Bytes read at a time.
const BLOCK: usize = 256 << 10;

/// The algorithm of a [digest](super::Convert::digest). Without the cargo feature `digest` there
/// is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DigestAlgorithm {
    /// SHA-256 (FIPS 180-4), as `sha256sum` prints it.
    #[cfg(feature = "digest")]
    Sha256,
    /// BLAKE3, 256 bits, as `b3sum` prints it. Several times faster.
    #[cfg(feature = "digest")]
    Blake3,
}

/// The digests of a conversion, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Digests {
    /// The algorithm that computed them.
    pub algorithm: DigestAlgorithm,
    /// Digest of the guest's bytes, zeros included
    /// ([`Report::guest_bytes`](super::Report::guest_bytes) bytes). Equals the digest of a raw
    /// image of the disk.
    pub guest: String,
    /// Digests of the output files, the main one first. Empty if the output was a pipe or a writer.
    pub files: Vec<FileDigest>,
}

/// The digest of an output file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileDigest {
    /// The file's name.
    pub path: PathBuf,
    /// Digest of all of its bytes.
    pub digest: String,
}

impl DigestAlgorithm {
    /// All algorithms.
    pub const ALL: &'static [Self] = &[
        #[cfg(feature = "digest")]
        Self::Sha256,
        #[cfg(feature = "digest")]
        Self::Blake3,
    ];

    /// Returns the algorithm's name: `sha256` or `blake3`.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "digest")]
            Self::Sha256 => "sha256",
            #[cfg(feature = "digest")]
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

/// The state of a digest computation.
#[derive(Debug)]
enum State {
    #[cfg(feature = "digest")]
    Sha256(Sha256),
    #[cfg(feature = "digest")]
    Blake3(Box<blake3::Hasher>),
}

impl State {
    fn new(algorithm: DigestAlgorithm) -> Self {
        match algorithm {
            #[cfg(feature = "digest")]
            DigestAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
            #[cfg(feature = "digest")]
            DigestAlgorithm::Blake3 => Self::Blake3(Box::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match *self {
            #[cfg(feature = "digest")]
            Self::Sha256(ref mut state) => state.update(bytes),
            #[cfg(feature = "digest")]
            Self::Blake3(ref mut state) => drop(state.update(bytes)),
        }
    }

    fn finish(self) -> String {
        let bytes: [u8; 32] = match self {
            #[cfg(feature = "digest")]
            Self::Sha256(state) => state.finalize().into(),
            #[cfg(feature = "digest")]
            Self::Blake3(state) => state.finalize().into(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Hashes the guest's bytes, which must be passed in guest order.
#[derive(Debug)]
pub(super) struct GuestHash<'a> {
    input: &'a Input,
    /// How many bytes remain to be hashed.
    left: u64,
    state: State,
    buf: Vec<u8>,
}

impl<'a> GuestHash<'a> {
    /// Creates a hash of the first `len` bytes of the input.
    pub(super) fn new(algorithm: DigestAlgorithm, input: &'a Input, len: u64) -> Self {
        Self { input, left: len, state: State::new(algorithm), buf: Vec::new() }
    }

    /// Returns how many of the next `len` bytes are hashed.
    fn take(&mut self, len: u64) -> u64 {
        let taken = len.min(self.left);
        self.left -= taken;
        taken
    }

    /// Hashes the next task's bytes. `tick` is called every [`STEP`] bytes of known zeros; its
    /// error is returned.
    pub(super) fn update(
        &mut self,
        task: &EncodedTask,
        tick: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        self.zeros(&task.zeros, tick)?;
        if let [TaskRun::Offloaded(range, origin)] = &*task.runs {
            let len = self.take(range.end - range.start);
            return self.unread(len, origin);
        }
        let len = self.take(task.buffers.guest.len() as u64) as usize;
        self.state.update(&task.buffers.guest[..len]);
        Ok(())
    }

    fn zeros(&mut self, range: &Range<u64>, tick: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut left = self.take(range.end - range.start);
        while left > 0 {
            if left.is_multiple_of(STEP) {
                tick()?;
            }
            // At most to the next multiple of a step, so that no tick is skipped.
            let n = left.min(ZEROS.len() as u64).min((left - 1) % STEP + 1);
            self.state.update(&ZEROS[..n as usize]);
            left -= n;
        }
        Ok(())
    }

    /// Hashes `len` bytes of the source that were not read for the conversion.
    fn unread(&mut self, len: u64, origin: &Origin) -> Result<()> {
        let image = self.input.image(origin.image);
        let source = image.file(origin.depth, origin.host.file);
        hash_range(&mut self.state, &mut self.buf, source, origin.host.offset, len)
            .map_err(|e| image.in_layer(e, origin.depth))
    }

    pub(super) fn finish(self) -> String {
        self.state.finish()
    }
}

/// Hashes the output files. `tick` is called every [`STEP`] bytes; its error is returned.
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
            let len = STEP.min(source.len().saturating_sub(at));
            hash_range(&mut state, &mut buf, source, at, len)?;
            at += len;
        }
        Ok(state.finish())
    };
    let digest_of = |(path, source): StandIn| {
        let digest = digest(&*source).map_err(|e: Error| e.in_file(&path))?;
        Ok(FileDigest { path, digest })
    };
    files.into_iter().map(digest_of).collect()
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

#[cfg(all(test, feature = "digest"))]
mod tests {
    use super::*;

    /// The expected values are the example in FIPS 180-4 and the first BLAKE3 test vector.
    #[test]
    fn digests_equal_those_of_other_tools() {
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
    fn a_long_run_of_zeros_is_hashed_in_full_and_can_be_cancelled() {
        let input = Input::concatenate(Vec::new(), 512).expect("empty");
        let ticks = std::cell::Cell::new(0);
        let tick = || {
            ticks.set(ticks.get() + 1);
            Ok(())
        };
        let mut hash = GuestHash::new(DigestAlgorithm::Blake3, &input, u64::MAX);
        let len = 2 * STEP + 1000;
        hash.zeros(&(0..len), &tick).expect("hashes");
        assert_eq!(ticks.get(), 2);
        assert_eq!(hash.finish(), blake3::hash(&vec![0; len as usize]).to_hex().as_str());
        let mut hash = GuestHash::new(DigestAlgorithm::Blake3, &input, u64::MAX);
        hash.zeros(&(0..len), &|| Err(Error::cancelled())).expect_err("cancelled");
    }
}
