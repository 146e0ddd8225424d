//! The manifest: a digest of every file of the package, a line each.
//!
//! ```text
//!   SHA256(appliance.ovf)= 4aacc96f73bc…
//!   SHA256(appliance-disk1.vmdk)= 4a218c15a1e8…
//! ```
//!
//! Specification: DSP0243, "OVF package" (`manifest_sha1`, `manifest_sha256`,
//! `manifest_sha512`). Writers differ in blanks, case and line ends.

use super::archive::normal_name;
use crate::host::source::Source;
use crate::vocabulary::error::{Error, Result};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use std::collections::BTreeSet;
use std::fmt::Write;

/// What a manifest says.
#[derive(Debug)]
pub(super) struct Manifest {
    entries: Vec<Entry>,
}

/// What it says of one file.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it is written there, in one spelling.
    pub(super) name: String,
    pub(super) algorithm: Algorithm,
    /// Lower-case hexadecimal digits.
    pub(super) digest: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

impl Manifest {
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) for a line that is none of a manifest.
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(text);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let entries = lines.map(|(i, line)| {
            Entry::parse(line.trim()).ok_or_else(|| {
                let message = format!("line {} is not understood: '{line}'", i + 1);
                Error::corrupt("manifest", message)
            })
        });
        let entries: Vec<Entry> = entries.collect::<Result<_>>()?;
        let mut seen = BTreeSet::new();
        // Each is read as a whole: once will do.
        match entries.iter().find(|e| !seen.insert((e.algorithm, e.name.as_str()))) {
            Some(Entry { name, .. }) => {
                Err(Error::corrupt("manifest", format!("it lists '{name}' twice")))
            }
            None => Ok(Self { entries }),
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let (algorithm, rest) = line.split_once('(')?;
        // A name may have brackets of its own.
        let (name, digest) = rest.rsplit_once(')')?;
        let digest = digest.trim_start().strip_prefix('=')?.trim().to_ascii_lowercase();
        let algorithm = match algorithm.trim().to_ascii_uppercase().as_str() {
            "SHA1" | "SHA-1" => Algorithm::Sha1,
            "SHA256" | "SHA-256" => Algorithm::Sha256,
            "SHA512" | "SHA-512" => Algorithm::Sha512,
            _ => return None,
        };
        let whole = digest.len() == algorithm.digits();
        let right = whole && digest.bytes().all(|b| b.is_ascii_hexdigit());
        right.then(|| Self { name: normal_name(name), algorithm, digest })
    }

    /// True if it speaks of this file.
    pub(super) fn is_of(&self, name: &str) -> bool {
        self.name == name
    }

    /// Holds the digest against `source`'s own.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) naming both; what reading and
    /// `tick` said.
    pub(super) fn verify(
        &self,
        source: &dyn Source,
        tick: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let found = self.algorithm.digest(source, tick)?;
        if found == self.digest {
            return Ok(());
        }
        let Self { name, digest, .. } = self;
        Err(Error::corrupt("manifest", format!("it says {digest} of '{name}', which has {found}")))
    }
}

impl Algorithm {
    fn digits(self) -> usize {
        match self {
            Self::Sha1 => 40,
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    fn digest(self, source: &dyn Source, tick: &mut dyn FnMut() -> Result<()>) -> Result<String> {
        match self {
            Self::Sha1 => digest::<Sha1>(source, tick),
            Self::Sha256 => digest::<Sha256>(source, tick),
            Self::Sha512 => digest::<Sha512>(source, tick),
        }
    }
}

fn digest<D: Digest>(source: &dyn Source, tick: &mut dyn FnMut() -> Result<()>) -> Result<String> {
    /// Bytes read at a time.
    const BLOCK: u64 = 1 << 20;
    let mut hasher = D::new();
    let mut block = vec![0; source.len().min(BLOCK) as usize];
    let mut at = 0;
    while at < source.len() {
        let part = &mut block[..(source.len() - at).min(BLOCK) as usize];
        source.read_exact_at(part, at).map_err(|e| Error::io("cannot read it", e).at(at))?;
        hasher.update(&part);
        at += part.len() as u64;
        tick()?;
    }
    Ok(hex(&hasher.finalize()))
}

/// A line of a new manifest: the SHA-256 of a file.
pub(super) fn line(name: &str, digest: &[u8]) -> String {
    format!("SHA256({name})= {}\n", hex(digest))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::source::MemorySource;

    #[test]
    fn every_writers_spelling_is_read() {
        let abc = "a9993e364706816aba3e25717850c26c9cd0d89d";
        let upper = abc.to_uppercase();
        let text = format!(
            "\u{feff}SHA1(a.ovf)= {abc}\r\n\r\nSHA1 (b (2).vmdk) = {upper}\nsha1(./d/c)={abc}\n"
        );
        let manifest = Manifest::parse(text.as_bytes()).expect("parses");
        let names: Vec<_> = manifest.entries().iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["a.ovf", "b (2).vmdk", "d/c"]);
        let source = MemorySource::new(*b"abc");
        for entry in manifest.entries() {
            entry.verify(&source, &mut || Ok(())).expect("right");
        }
    }

    /// Test vectors of FIPS 180-4 ("abc").
    #[test]
    fn digests_are_the_standards() {
        let source = MemorySource::new(*b"abc");
        for (algorithm, start) in [
            (Algorithm::Sha1, "a9993e364706816a"),
            (Algorithm::Sha256, "ba7816bf8f01cfea"),
            (Algorithm::Sha512, "ddaf35a193617aba"),
        ] {
            let digest = algorithm.digest(&source, &mut || Ok(())).expect("reads");
            assert!(digest.starts_with(start) && digest.len() == algorithm.digits(), "{digest}");
        }
    }

    #[test]
    fn a_line_that_is_none_is_an_error() {
        let twice = format!("SHA1(a)= {0}\nSHA1(./a)= {0}", "0".repeat(40));
        Manifest::parse(twice.as_bytes()).expect_err("twice");
        for line in ["MD5(a)= 00", "SHA1(a)= 00", "SHA1 a", "SHA256(a)= zz", "hello"] {
            let error = Manifest::parse(line.as_bytes()).expect_err(line);
            assert!(error.to_string().contains("line 1"), "{error}");
        }
    }
}
