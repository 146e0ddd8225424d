//! Converts a disk through two formats and compares the contents.

use crate::exercise::conforms;
use crate::samples::convert;
use arbitrary::{Arbitrary, Unstructured};
use diskimg::storage::source::{MemorySource, Source};
use diskimg::{ErrorKind, Format, OpenOptions};
use std::sync::Arc;

/// Maximum size of a disk in bytes.
const MAX_DISK: u32 = 1 << 20;

/// Contents of a run of bytes.
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

/// An output format with its options.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum OutputFormat {
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

impl OutputFormat {
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
                let (min_bits, range) = if extended { (14, 6) } else { (9, 11) };
                let bits = min_bits + cluster_bits % range;
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

/// A disk and the two formats that it is converted to.
#[derive(Debug, Arbitrary)]
struct RoundTrip {
    sectors: u16,
    formats: [OutputFormat; 2],
    runs: Vec<Run>,
}

impl RoundTrip {
    fn disk(&self) -> Vec<u8> {
        let len = (u32::from(self.sectors) * 512).clamp(512, MAX_DISK);
        let mut disk = vec![0; len as usize];
        for run in self.runs.iter().take(12) {
            let at = run.at % len;
            let part = &mut disk[at as usize..(at + (run.len % len).min(len - at)) as usize];
            match run.fill {
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

/// Converts the disk to the first format and the result to the second. Both images must have the
/// contents of the disk.
pub(crate) fn round_trip(input: &[u8]) {
    let Ok(trip) = RoundTrip::arbitrary(&mut Unstructured::new(input)) else { return };
    let disk = trip.disk();
    let (mut bytes, mut format) = (disk.clone(), Format::Raw);
    for output in trip.formats {
        let source: Arc<dyn Source> = Arc::new(MemorySource::new(bytes));
        let (to, options) = (output.format(), output.options());
        let written = convert(source, format, to, &options, output.compress());
        (bytes, format) = match written {
            Ok((bytes, _)) => (bytes, to),
            // Some options are incompatible, and some formats do not support every size.
            Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported) => {
                return;
            }
            Err(error) => panic!("{trip:?}: {error}"),
        };
        verify_contents(&bytes, format, &disk, &trip);
    }
}

/// Verifies that the image has the contents of `disk`.
fn verify_contents(bytes: &[u8], format: Format, disk: &[u8], trip: &RoundTrip) {
    let source = Arc::new(MemorySource::new(bytes));
    let opened = OpenOptions::new().format(format).open_source(source, "written");
    let image = opened.unwrap_or_else(|error| panic!("{trip:?}: {error}"));
    conforms(&image);
    assert_eq!(image.size(), disk.len() as u64, "{trip:?}");
    let mut read = vec![0xa5; disk.len()];
    image.read_at(&mut read, 0).unwrap_or_else(|error| panic!("{trip:?}: {error}"));
    assert!(read == disk, "{trip:?}: the contents differ");
    let mut findings = Vec::new();
    let checked = image.check(&mut |finding| findings.push(finding.message));
    assert!(checked.is_ok() && findings.is_empty(), "{trip:?}: {findings:?}");
}

/// Returns random bytes: any input decodes to a `RoundTrip`.
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
