//! A disk of any layout, through two formats and back.

use crate::exercise::conforms;
use crate::samples::convert;
use arbitrary::{Arbitrary, Unstructured};
use diskimg::storage::source::{MemorySource, Source};
use diskimg::{ErrorKind, Format, OpenOptions};
use std::sync::Arc;

/// Bytes of a disk, at most.
const MOST: u32 = 1 << 20;

/// What a stretch of a disk holds.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Fill {
    Zeros,
    Byte(u8),
    Pattern(u8),
    Noise(u16),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
struct Run {
    at: u32,
    len: u32,
    fill: Fill,
}

/// A format, and how to write it.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Form {
    Raw,
    Qcow2 {
        cluster_bits: u8,
        refcount_order: u8,
        old: bool,
        extended: bool,
        zstd: bool,
        compress: bool,
        preallocated: bool,
    },
    Sparse {
        version_3: bool,
    },
    Stream,
    Ova,
}

impl Form {
    fn format(self) -> Format {
        match self {
            Self::Raw => Format::Raw,
            Self::Qcow2 { .. } => Format::Qcow2,
            Self::Sparse { .. } | Self::Stream => Format::Vmdk,
            Self::Ova => Format::Ova,
        }
    }

    fn compress(self) -> bool {
        match self {
            Self::Qcow2 { compress, preallocated, .. } => compress && !preallocated,
            Self::Stream | Self::Ova => true,
            Self::Raw | Self::Sparse { .. } => false,
        }
    }

    fn options(self) -> String {
        match self {
            Self::Raw | Self::Ova => String::new(),
            Self::Qcow2 {
                cluster_bits, refcount_order, old, extended, zstd, preallocated, ..
            } => {
                let extended = extended && !old;
                let (least, range) = if extended { (14, 6) } else { (9, 11) };
                let bits = least + cluster_bits % range;
                let mut options = format!("cluster_size={}", 1u32 << bits);
                if old {
                    options += ",compat=0.10";
                } else {
                    options += &format!(",refcount_bits={}", 1 << (refcount_order % 7));
                    options += if extended { ",extended_l2=on" } else { "" };
                    options += if zstd { ",compression_type=zstd" } else { "" };
                }
                options += if preallocated { ",preallocation=metadata" } else { "" };
                options
            }
            Self::Sparse { version_3: true } => "subformat=monolithicSparse,zeroed_grain=on".into(),
            Self::Sparse { version_3: false } => "subformat=monolithicSparse".into(),
            Self::Stream => "subformat=streamOptimized".into(),
        }
    }
}

#[derive(Debug, Arbitrary)]
struct Trip {
    sectors: u16,
    forms: [Form; 2],
    stretches: Vec<Run>,
}

impl Trip {
    fn disk(&self) -> Vec<u8> {
        let len = (u32::from(self.sectors) * 512).clamp(512, MOST);
        let mut disk = vec![0; len as usize];
        for stretch in self.stretches.iter().take(12) {
            let at = stretch.at % len;
            let part = &mut disk[at as usize..(at + (stretch.len % len).min(len - at)) as usize];
            match stretch.fill {
                Fill::Zeros => part.fill(0),
                Fill::Byte(byte) => part.fill(byte),
                Fill::Pattern(step) => {
                    let words = |i: usize| b"round trip"[(i / (usize::from(step) + 1)) % 10];
                    part.iter_mut().enumerate().for_each(|(i, byte)| *byte = words(i));
                }
                Fill::Noise(seed) => {
                    let mut state = u64::from(seed) | 1;
                    for byte in part {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        *byte = (state >> 56) as u8;
                    }
                }
            }
        }
        disk
    }
}

/// Writes the disk as one format, that as the other, and both read as the disk.
pub(crate) fn round_trip(input: &[u8]) {
    let Ok(trip) = Trip::arbitrary(&mut Unstructured::new(input)) else { return };
    let disk = trip.disk();
    let (mut bytes, mut format) = (disk.clone(), Format::Raw);
    for form in trip.forms {
        let source: Arc<dyn Source> = Arc::new(MemorySource::new(bytes));
        let (to, options) = (form.format(), form.options());
        let written = convert(source, format, to, &options, form.compress());
        (bytes, format) = match written {
            Ok((bytes, _)) => (bytes, to),
            // Some options do not go together, and some formats do not hold every disk.
            Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported) => {
                return;
            }
            Err(error) => panic!("{trip:?}: {error}"),
        };
        reads_as(&bytes, format, &disk, &trip);
    }
}

/// # Panics
/// If the image is not this disk.
fn reads_as(bytes: &[u8], format: Format, disk: &[u8], trip: &Trip) {
    let source = Arc::new(MemorySource::new(bytes));
    let opened = OpenOptions::new().format(format).open_source(source, "written");
    let image = opened.unwrap_or_else(|error| panic!("{trip:?}: {error}"));
    conforms(&image);
    assert_eq!(image.size(), disk.len() as u64, "{trip:?}");
    let mut read = vec![0xa5; disk.len()];
    image.read_at(&mut read, 0).unwrap_or_else(|error| panic!("{trip:?}: {error}"));
    assert!(read == disk, "{trip:?}: other bytes");
    let mut said = Vec::new();
    let checked = image.check(&mut |finding| said.push(finding.message));
    assert!(checked.is_ok() && said.is_empty(), "{trip:?}: {said:?}");
}

/// Bytes that decode to a trip are any bytes.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    (0..24u64)
        .map(|seed| {
            let mut state = seed | 1;
            let byte = || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            };
            std::iter::repeat_with(byte).take(160).collect()
        })
        .collect()
}
