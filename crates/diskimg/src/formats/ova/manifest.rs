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
use super::files::percent_decoded;
use super::package::PackageFile;
use crate::error::{Error, Result};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Characters that an error shows of a line.
const SHOWN: usize = 80;

/// What a manifest says.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    entries: Vec<Entry>,
    /// Entries by their names: as they are, without `%20`, in lower case.
    spellings: [BTreeMap<String, Vec<usize>>; 3],
    /// The first line that is none, and its number: another's business, unless
    /// an entry is missing.
    strange: Option<(usize, String)>,
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
    pub(super) fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut manifest = Self::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim_matches(|c: char| c.is_whitespace() || c == '\0');
            match Entry::parse(line) {
                Some(entry) => manifest.add(entry),
                None if line.is_empty() => {}
                None => {
                    let shown = || (i + 1, line.chars().take(SHOWN).collect());
                    manifest.strange.get_or_insert_with(shown);
                }
            }
        }
        manifest
    }

    fn add(&mut self, entry: Entry) {
        let decoded = normal_name(&percent_decoded(&entry.name));
        let lower = decoded.to_lowercase();
        for (names, name) in self.spellings.iter_mut().zip([entry.name.clone(), decoded, lower]) {
            names.entry(name).or_default().push(self.entries.len());
        }
        self.entries.push(entry);
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What it says of a file: by its name, or as the archive has it; in another
    /// spelling only if it has no such name.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it says nothing.
    pub(super) fn of(&self, part: &PackageFile) -> Result<Vec<&Entry>> {
        let own = [part.name.clone(), part.path.clone()];
        let lower = [part.name.to_lowercase(), part.path.to_lowercase()];
        for (names, wanted) in self.spellings.iter().zip([&own, &own, &lower]) {
            let found = wanted.iter().find_map(|name| names.get(name));
            if let Some(found) = found {
                return Ok(found.iter().map(|&index| &self.entries[index]).collect());
            }
        }
        let name = &part.name;
        let message = match &self.strange {
            None => format!("it does not list '{name}'"),
            Some((line, text)) => {
                format!("it does not list '{name}'; line {line} is not understood: '{text}'")
            }
        };
        Err(Error::corrupt("manifest", message))
    }
}

/// Holds a file against what a manifest says of it. Every kind of digest is
/// taken once.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) naming both digests; what reading and
/// `tick` said.
pub(super) fn verify(
    entries: &[&Entry],
    source: &dyn Source,
    tick: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    for algorithm in [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512] {
        let mut entries = entries.iter().filter(|e| e.algorithm == algorithm).peekable();
        if entries.peek().is_none() {
            continue;
        }
        let found = algorithm.digest(source, tick)?;
        if let Some(Entry { name, digest, .. }) = entries.find(|e| e.digest != found) {
            let message = format!("it says {digest} of '{name}', which has {found}");
            return Err(Error::corrupt("manifest", message));
        }
    }
    Ok(())
}

/// The CRC-32 of all bytes, as zip archives have it.
pub(super) fn crc32(source: &dyn Source, tick: &mut dyn FnMut() -> Result<()>) -> Result<u32> {
    let mut crc = flate2::Crc::new();
    each_block(source, tick, |block| crc.update(block))?;
    Ok(crc.sum())
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
    let mut hasher = D::new();
    each_block(source, tick, |block| hasher.update(block))?;
    Ok(hex(&hasher.finalize()))
}

fn each_block(
    source: &dyn Source,
    tick: &mut dyn FnMut() -> Result<()>,
    mut each: impl FnMut(&[u8]),
) -> Result<()> {
    /// Bytes read at a time.
    const BLOCK: u64 = 1 << 20;
    let mut block = vec![0; to_usize(source.len().min(BLOCK))];
    let mut at = 0;
    while at < source.len() {
        let part = &mut block[..to_usize((source.len() - at).min(BLOCK))];
        source.read_exact_at(part, at).map_err(|e| Error::io("cannot read it", e).at(at))?;
        each(part);
        at += to_u64(part.len());
        tick()?;
    }
    Ok(())
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
    use crate::storage::source::MemorySource;

    #[test]
    fn every_writers_spelling_is_read() {
        let abc = "a9993e364706816aba3e25717850c26c9cd0d89d";
        let upper = abc.to_uppercase();
        let text = format!(
            "\u{feff}SHA1(a.ovf)= {abc}\r\n\r\nSHA1 (b (2).vmdk) = {upper}\nsha1(./d/c)={abc}\n"
        );
        let manifest = Manifest::parse(text.as_bytes());
        let names: Vec<_> = manifest.entries().iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["a.ovf", "b (2).vmdk", "d/c"]);
        let source = MemorySource::new(*b"abc");
        for entry in manifest.entries() {
            verify(&[entry], &source, &mut || Ok(())).expect("right");
        }
        assert_eq!(crc32(&source, &mut || Ok(())).expect("reads"), 0x352441c2);
    }

    fn part(name: &str, path: &str) -> PackageFile {
        let source = std::sync::Arc::new(MemorySource::new(*b"abc"));
        PackageFile { path: path.to_owned(), ..PackageFile::plain(name.to_owned(), source) }
    }

    #[test]
    fn a_file_is_found_by_every_spelling_the_exact_one_first() {
        let line = |name: &str, digit: &str| format!("SHA1({name})= {}\n", digit.repeat(40));
        let text = [line("f/a b", "0"), line("c%20d", "1"), line("E", "2"), line("e", "3")];
        let manifest = Manifest::parse(text.concat().as_bytes());
        for (name, path, digit) in [
            ("a b", "f/a b", "0"),
            ("c d", "f/c d", "1"),
            ("C D", "C D", "1"),
            ("E", "E", "2"),
            ("e", "e", "3"),
        ] {
            let entries = manifest.of(&part(name, path)).expect("listed");
            assert_eq!((entries.len(), entries[0].digest.as_str()), (1, &*digit.repeat(40)));
        }
        manifest.of(&part("g", "f/g")).expect_err("not listed");
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
    fn a_line_that_is_none_is_told_where_an_entry_is_missing() {
        for line in ["MD5(a)= 00", "SHA1(a)= 00", "SHA1 a", "SHA256(a)= zz", "hello"] {
            let manifest = Manifest::parse(line.as_bytes());
            let error = manifest.of(&part("a", "a")).expect_err(line);
            assert!(error.to_string().contains("line 1"), "{error}");
        }
    }
}
