//! Guest disks for tests, described by their content, and strategies that generate them.

use proptest::prelude::*;
use std::ops::Range;
use std::path::Path;

/// Returns incompressible bytes, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

/// The content of a run.
#[derive(Debug, Clone, Copy)]
pub enum Fill {
    /// One repeated byte.
    Byte(u8),
    /// Incompressible bytes.
    Noise(u64),
    /// Text-like bytes: compressible, but not one repeated byte.
    Words(u64),
}

/// A range of a disk and its content.
#[derive(Debug, Clone)]
pub struct Run {
    /// Guest offset in bytes.
    pub at: u64,
    /// Length in bytes; what extends beyond the end of the disk is cut off.
    pub len: u64,
    pub fill: Fill,
}

/// A disk, described by its size and content.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Size in bytes.
    pub size: u64,
    /// Later runs overwrite earlier ones; the rest is zeros.
    pub runs: Vec<Run>,
}

impl Fill {
    /// Returns `len` bytes of the content.
    pub fn bytes(self, len: usize) -> Vec<u8> {
        match self {
            Self::Byte(b) => vec![b; len],
            Self::Noise(seed) => noise(seed, len),
            Self::Words(seed) => {
                let words = noise(seed, 64);
                (0..len).map(|i| words[(i / 7 + i / 61) % 64]).collect()
            }
        }
    }
}

impl Disk {
    /// Returns the whole disk.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size as usize];
        self.read_at(&mut bytes, 0);
        bytes
    }

    /// Reads the bytes from offset `at` on; zeros beyond the end of the disk.
    pub fn read_at(&self, buf: &mut [u8], at: u64) {
        buf.fill(0);
        for run in &self.runs {
            let range = run.clip(self.size);
            let (start, end) = (range.start.max(at), range.end.min(at + buf.len() as u64));
            if start < end {
                let fill = run.fill.bytes((end - range.start) as usize);
                buf[(start - at) as usize..(end - at) as usize]
                    .copy_from_slice(&fill[(start - range.start) as usize..]);
            }
        }
    }

    /// Writes the disk as a sparse raw file.
    pub fn write(&self, path: &Path) {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = std::fs::File::create(path).unwrap();
        file.set_len(self.size).unwrap();
        for run in &self.runs {
            let range = run.clip(self.size);
            let fill = run.fill.bytes((range.end - range.start) as usize);
            file.seek(SeekFrom::Start(range.start)).unwrap();
            file.write_all(&fill).unwrap();
        }
    }
}

impl Run {
    /// Returns the part of the run that is within a disk of `size` bytes.
    pub fn clip(&self, size: u64) -> Range<u64> {
        self.at.min(size)..(self.at + self.len).min(size)
    }
}

/// Generates the content of a run.
pub fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![
        any::<u8>().prop_map(Fill::Byte),
        any::<u64>().prop_map(Fill::Noise),
        any::<u64>().prop_map(Fill::Words),
        Just(Fill::Byte(0)),
    ]
}

/// Generates sizes at the boundaries of sectors, clusters and grains, and arbitrary ones.
pub fn size(max: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(511),
        Just(512),
        Just(513),
        Just(65535),
        Just(65536),
        Just(65537),
        Just((1 << 20) - 1),
        Just(1 << 20),
        (1..=max / 65536).prop_map(|n| n * 65536),
        (1..=max / 512).prop_map(|n| n * 512),
        1..=max,
    ]
}

/// Generates a disk of up to `max` bytes.
pub fn disk(max: u64) -> impl Strategy<Value = Disk> {
    size(max).prop_flat_map(move |size| disk_of(size..=size))
}

/// Generates a disk whose size is within `sizes`, with up to eleven runs.
pub fn disk_of(sizes: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Disk> {
    sizes.prop_flat_map(|size| {
        let run = (0..size.max(1), 1..300_000u64, fill(), any::<bool>()).prop_map(
            |(at, len, fill, align)| {
                let at = if align { at / 65536 * 65536 } else { at };
                Run { at, len, fill }
            },
        );
        prop::collection::vec(run, 0..12).prop_map(move |runs| Disk { size, runs })
    })
}
