//! What the kernels work on: made here, the same every time.

use diskimg::storage::source::Source;
use diskimg::{Convert, Durability, Format, Image, OpenOptions, Options};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// The size of a qcow2 cluster and of a VMDK grain, by default.
pub(crate) const UNIT: usize = 64 << 10;

/// What the converter asks for at a time.
pub(crate) const WINDOW: u64 = 128 << 20;

/// A unit that is compressed to about a third, as files are: words, the
/// shorter ones more often.
pub(crate) fn unit() -> Vec<u8> {
    let mut random = Random(1);
    let words: Vec<Vec<u8>> = (0..2000)
        .map(|i| (0..2 + i / 250 + random.below(4)).map(|_| random.letter()).collect())
        .collect();
    let mut unit = Vec::with_capacity(UNIT + 32);
    while unit.len() < UNIT {
        let most = 1 + random.below(words.len());
        unit.extend_from_slice(&words[random.below(most)]);
        unit.push(b' ');
    }
    unit.truncate(UNIT);
    unit
}

/// Numbers that look like chance.
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

/// A disk in stretches of `stride` bytes. It takes no space.
#[derive(Debug)]
struct Striped {
    size: u64,
    stride: u64,
    /// Every second stretch is zeros: no two make one extent.
    holes: bool,
}

impl Source for Striped {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for part in chunks_to(buf, self.stride, offset) {
            let stripe = at / self.stride;
            let hole = self.holes && stripe % 2 == 1;
            part.fill(if hole { 0 } else { 1 + (stripe % 255) as u8 });
            at += part.len() as u64;
        }
        Ok(())
    }
}

/// `buf`, which starts at `offset`, cut at multiples of `stride`.
fn chunks_to(mut buf: &mut [u8], stride: u64, offset: u64) -> impl Iterator<Item = &mut [u8]> {
    let mut first = (stride - offset % stride) as usize;
    std::iter::from_fn(move || {
        let len = first.min(buf.len());
        first = stride as usize;
        (len > 0).then(|| buf.split_off_mut(..len))?
    })
}

/// An image in a folder of its own.
pub(crate) struct Sample {
    path: PathBuf,
    format: Format,
    _folder: TempDir,
}

impl Sample {
    /// A disk of `size` bytes, striped, in this format and with these options;
    /// with "compress" among them, compressed.
    pub(crate) fn striped(size: u64, stride: u64, format: Format, options: &str) -> Self {
        Self::of(Striped { size, stride, holes: true }, format, options)
    }

    /// A disk of `size` bytes that are all stored.
    pub(crate) fn filled(size: u64, format: Format) -> Self {
        Self::of(Striped { size, stride: UNIT as u64, holes: false }, format, "")
    }

    fn of(disk: Striped, format: Format, options: &str) -> Self {
        let raw = OpenOptions::new().format(Format::Raw);
        let image = raw.open_source(Arc::new(disk), "striped").expect("a raw disk is any bytes");
        let (options, compress) = match options.strip_prefix("compress") {
            Some(rest) => (rest.trim_start_matches(','), true),
            None => (options, false),
        };
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sample");
        Convert::new(image)
            .format(format)
            .options(Options::parse(options).expect("options"))
            .compress(compress)
            .durability(Durability::Cached)
            .run(&path)
            .expect("a converted image");
        Self { path, format, _folder: folder }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// It, open.
    pub(crate) fn open(&self) -> Image {
        OpenOptions::new().format(self.format).open(&self.path).expect("our own image opens")
    }
}
