//! Deterministic data and images for the benchmarks.

use diskimg::storage::source::{Source, SourceError};
use diskimg::{Convert, Durability, Format, Image, OpenOptions, Options};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Default size of qcow2 clusters and VMDK grains.
pub(crate) const UNIT: usize = 64 << 10;

/// Size of the ranges for which conversions request extents.
pub(crate) const WINDOW: u64 = 128 << 20;

/// Returns a unit of random words that compresses to about a third, like typical files.
pub(crate) fn unit() -> Vec<u8> {
    let mut random = Random(1);
    let words: Vec<Vec<u8>> = (0..2000)
        .map(|i| (0..2 + i / 250 + random.below(4)).map(|_| random.letter()).collect())
        .collect();
    let mut unit = Vec::with_capacity(UNIT + 32);
    while unit.len() < UNIT {
        let limit = 1 + random.below(words.len());
        unit.extend_from_slice(&words[random.below(limit)]);
        unit.push(b' ');
    }
    unit.truncate(UNIT);
    unit
}

/// A pseudorandom number generator (an LCG).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }

    fn letter(&mut self) -> u8 {
        b'a' + self.below(26) as u8
    }
}

/// A virtual disk in stripes of `stride` bytes, whose data is generated when read.
#[derive(Debug)]
struct Striped {
    size: u64,
    stride: u64,
    /// Whether every second stripe is zeros, so that each stripe is an extent of its own.
    holes: bool,
}

impl Source for Striped {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let mut at = offset;
        for part in split_at_stripes(buf, self.stride, offset) {
            let stripe = at / self.stride;
            let hole = self.holes && stripe % 2 == 1;
            part.fill(if hole { 0 } else { 1 + (stripe % 255) as u8 });
            at += part.len() as u64;
        }
        Ok(())
    }
}

/// Splits `buf`, which starts at `offset`, at multiples of `stride`.
fn split_at_stripes(
    mut buf: &mut [u8],
    stride: u64,
    offset: u64,
) -> impl Iterator<Item = &mut [u8]> {
    let mut first = (stride - offset % stride) as usize;
    std::iter::from_fn(move || {
        let len = first.min(buf.len());
        first = stride as usize;
        (len > 0).then(|| buf.split_off_mut(..len))?
    })
}

/// An image in a temporary directory.
pub(crate) struct Sample {
    path: PathBuf,
    format: Format,
    _dir: TempDir,
}

impl Sample {
    /// Creates an image of `size` bytes in which every second stripe is zeros. If `options` begins
    /// with
    /// `compress`, it is compressed.
    pub(crate) fn striped(size: u64, stride: u64, format: Format, options: &str) -> Self {
        Self::create(Striped { size, stride, holes: true }, format, options)
    }

    /// Creates an image of `size` bytes without zeros.
    pub(crate) fn filled(size: u64, format: Format) -> Self {
        Self::create(Striped { size, stride: UNIT as u64, holes: false }, format, "")
    }

    fn create(disk: Striped, format: Format, options: &str) -> Self {
        let raw = OpenOptions::new().format(Format::Raw);
        let image = raw.open_source(Arc::new(disk), "striped").expect("opens as raw");
        let (options, compress) = match options.strip_prefix("compress") {
            Some(rest) => (rest.trim_start_matches(','), true),
            None => (options, false),
        };
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sample");
        Convert::new(image)
            .format(format)
            .options(Options::parse(options).expect("valid options"))
            .compress(compress)
            .durability(Durability::Cached)
            .run(&path)
            .expect("converts");
        Self { path, format, _dir: dir }
    }

    /// Returns the path of the image.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the image.
    pub(crate) fn open(&self) -> Image {
        OpenOptions::new().format(self.format).open(&self.path).expect("opens")
    }
}
