//! The manifest: a line with a digest for every file of the package.
//!
//! ```text
//!   SHA256(appliance.ovf)= 4aacc96f73bc…
//!   SHA256(appliance-disk1.vmdk)= 4a218c15a1e8…
//! ```
//!
//! Specification: DSP0243, "OVF package" (`manifest_sha1`, `manifest_sha256`, `manifest_sha512`).
//! Writers differ in spaces, case and line ends.

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

/// Number of characters of a line that an error shows.
const SHOWN: usize = 80;

/// A parsed manifest.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    entries: Vec<Entry>,
    /// Indices of entries by name: as written, percent-decoded, and in lower case.
    by_name: [BTreeMap<String, Vec<usize>>; 3],
    /// Number and text of the first line that cannot be parsed. It is an error only if an entry is
    /// missing.
    unparsed: Option<(usize, String)>,
}

/// An entry of a manifest.
#[derive(Debug)]
pub(super) struct Entry {
    /// Normalized name of the file (see [`normal_name`]).
    pub(super) name: String,
    pub(super) algorithm: Algorithm,
    /// Lower-case hexadecimal digits.
    pub(super) digest: String,
}

/// The algorithm of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

impl Manifest {
    /// Parses a manifest. Lines that are not valid are skipped.
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
                    manifest.unparsed.get_or_insert_with(shown);
                }
            }
        }
        manifest
    }

    fn add(&mut self, entry: Entry) {
        let decoded = normal_name(&percent_decoded(&entry.name));
        let lower = decoded.to_lowercase();
        for (names, name) in self.by_name.iter_mut().zip([entry.name.clone(), decoded, lower]) {
            names.entry(name).or_default().push(self.entries.len());
        }
        self.entries.push(entry);
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the entries for a file, by its name relative to the descriptor or in the archive. An
    /// exact match takes precedence over a percent-decoded one, and that over a match that ignores
    /// case.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the file is not listed.
    pub(super) fn entries_for(&self, file: &PackageFile) -> Result<Vec<&Entry>> {
        let exact = [file.name.clone(), file.path.clone()];
        let lower = [file.name.to_lowercase(), file.path.to_lowercase()];
        for (names, wanted) in self.by_name.iter().zip([&exact, &exact, &lower]) {
            let found = wanted.iter().find_map(|name| names.get(name));
            if let Some(found) = found {
                return Ok(found.iter().map(|&index| &self.entries[index]).collect());
            }
        }
        let name = &file.name;
        let message = match &self.unparsed {
            None => format!("it does not list '{name}'"),
            Some((line, text)) => {
                format!("it does not list '{name}'; line {line} is not valid: '{text}'")
            }
        };
        Err(Error::corrupt("manifest", message))
    }
}

/// Verifies a file against its manifest entries. Each algorithm reads the file once.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if a digest differs, [`Io`](crate::ErrorKind::Io), and
/// errors of `tick`.
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
            let message = format!("the digest of '{name}' is {found}; expected {digest}");
            return Err(Error::corrupt("manifest", message));
        }
    }
    Ok(())
}

/// Computes the CRC-32 of a file, as zip archives record it.
pub(super) fn crc32(source: &dyn Source, tick: &mut dyn FnMut() -> Result<()>) -> Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    each_block(source, tick, |block| crc.update(block))?;
    Ok(crc.finalize())
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let (algorithm, rest) = line.split_once('(')?;
        // A name may contain parentheses.
        let (name, digest) = rest.rsplit_once(')')?;
        let digest = digest.trim_start().strip_prefix('=')?.trim().to_ascii_lowercase();
        let algorithm = match algorithm.trim().to_ascii_uppercase().as_str() {
            "SHA1" | "SHA-1" => Algorithm::Sha1,
            "SHA256" | "SHA-256" => Algorithm::Sha256,
            "SHA512" | "SHA-512" => Algorithm::Sha512,
            _ => return None,
        };
        let complete = digest.len() == algorithm.digits();
        let valid = complete && digest.bytes().all(|b| b.is_ascii_hexdigit());
        valid.then(|| Self { name: normal_name(name), algorithm, digest })
    }
}

impl Algorithm {
    /// Number of hexadecimal digits of a digest.
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

/// Reads a file in blocks, and calls `tick` after each.
fn each_block(
    source: &dyn Source,
    tick: &mut dyn FnMut() -> Result<()>,
    mut each: impl FnMut(&[u8]),
) -> Result<()> {
    /// Number of bytes that are read at a time.
    const BLOCK: u64 = 1 << 20;
    let mut block = vec![0; to_usize(source.len().min(BLOCK))];
    let mut at = 0;
    while at < source.len() {
        let data = &mut block[..to_usize(source.len().saturating_sub(at).min(BLOCK))];
        source.read_exact_at(data, at).map_err(|e| Error::io("cannot read it", e).at(at))?;
        each(data);
        at += to_u64(data.len());
        tick()?;
    }
    Ok(())
}

/// Returns a line of a new manifest, with the SHA-256 digest of a file.
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
    fn entries_in_the_style_of_every_writer_are_parsed() {
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
            verify(&[entry], &source, &mut || Ok(())).expect("the digest matches");
        }
        assert_eq!(crc32(&source, &mut || Ok(())).expect("reads"), 0x352441c2);
    }

    fn file(name: &str, path: &str) -> PackageFile {
        let source = std::sync::Arc::new(MemorySource::new(*b"abc"));
        PackageFile { path: path.to_owned(), ..PackageFile::plain(name.to_owned(), source) }
    }

    #[test]
    fn the_exact_name_takes_precedence_over_other_spellings() {
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
            let entries = manifest.entries_for(&file(name, path)).expect("listed");
            assert_eq!((entries.len(), entries[0].digest.as_str()), (1, &*digit.repeat(40)));
        }
        manifest.entries_for(&file("g", "f/g")).expect_err("not listed");
    }

    /// Test vectors of FIPS 180-4 ("abc").
    #[test]
    fn digests_match_the_test_vectors() {
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
    fn an_invalid_line_is_reported_if_an_entry_is_missing() {
        for line in ["MD5(a)= 00", "SHA1(a)= 00", "SHA1 a", "SHA256(a)= zz", "hello"] {
            let manifest = Manifest::parse(line.as_bytes());
            let error = manifest.entries_for(&file("a", "a")).expect_err(line);
            assert!(error.to_string().contains("line 1"), "{error}");
        }
    }
}
