//! A range of bytes of a file or an image, parts of which are replaced by zeros: xorriso's
//! "interval reader".
//!
//! ```text
//!   --interval:local_fs:0-32767:zero_mbrpt,zero_gpt,440-443:/tmp/template.iso
//!              origin   range   replaced by zeros           file
//! ```

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::partition::{Apm, Gpt, mbr};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{FileSource, HostFileId, Source, SourceError, WindowSource};
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// Prefix by which xorriso tells an interval from a path.
const PREFIX: &str = "--interval:";

/// A range of bytes of a file or an image, parts of which are replaced by zeros. Parsed from
/// xorriso's notation, `--interval:ORIGIN:START-END:ZEROED:FILE`, with or without the prefix.
///
/// Numbers may have one of the suffixes k, m, g, t (powers of 1024), s (2048) and d (512). The end
/// is inclusive: `0d-0d` is the first 512 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interval {
    /// What is read.
    pub origin: IntervalOrigin,
    /// Range in bytes.
    pub range: Range<u64>,
    /// Which parts of the range are replaced by zeros.
    pub zeroed: Vec<Zeroed>,
}

/// What an [`Interval`] is a range of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IntervalOrigin {
    /// A file of the host (`local_fs`).
    File(PathBuf),
    /// The image that is being modified (`imported_iso`).
    Image,
}

/// A part of an [`Interval`] that is replaced by zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Zeroed {
    /// The partition entries of an MBR at the start of the interval, if there is one
    /// (`zero_mbrpt`).
    MbrPartitions,
    /// A GPT whose header is at byte 512 of the interval, and its entries (`zero_gpt`).
    Gpt,
    /// The entries of an Apple partition map (`zero_apm`).
    Apm,
    /// These bytes, counted from the start of the interval.
    Bytes(Range<u64>),
}

impl Interval {
    /// Returns true if `text` is an interval and not a path.
    pub fn is_interval(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Opens the interval. `image` is the image that is being modified, if there is one.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the range exceeds the file or image, or if
    /// there is no image to read from; [`Io`](crate::ErrorKind::Io) if reading fails.
    pub fn open(&self, image: Option<&Arc<dyn Source>>) -> Result<Arc<dyn Source>> {
        match &self.origin {
            IntervalOrigin::Image => {
                let message = "there is no image from which an interval can be read";
                self.of(Arc::clone(image.ok_or_else(|| Error::invalid(message))?))
            }
            IntervalOrigin::File(path) => {
                let opened = FileSource::open(path);
                let file = opened.map_err(|e| Error::io("cannot open", e).in_file(path))?;
                self.of(Arc::new(file)).map_err(|e| e.in_file(path))
            }
        }
    }

    /// Returns the interval of `source`.
    fn of(&self, source: Arc<dyn Source>) -> Result<Arc<dyn Source>> {
        let Range { start, end } = self.range;
        let len = source.len();
        if end > len {
            let message = format!("the interval of bytes {start} to {end} exceeds the {len} bytes");
            return Err(Error::invalid(message));
        }
        let window = WindowSource::new(source, start..end);
        let inner: Arc<dyn Source> = Arc::new(window.map_err(|e| Error::io("cannot read", e))?);
        let mut zeroed = Vec::new();
        for part in &self.zeroed {
            part.find(&*inner, &mut zeroed)?;
        }
        Ok(match zeroed.is_empty() {
            true => inner,
            false => Arc::new(ZeroedSource { inner, zeroed }),
        })
    }
}

impl Zeroed {
    /// Finds the bytes to be replaced in an interval.
    fn find(&self, interval: &dyn Source, found: &mut Vec<Range<u64>>) -> Result<()> {
        let mut start = vec![0; to_usize(interval.len().min(16 * SECTOR))];
        interval.read_exact_at(&mut start, 0).map_err(|e| Error::io("cannot read", e))?;
        match self {
            Self::Bytes(range) => found.push(range.clone()),
            Self::MbrPartitions => {
                if start.get(510..512) == Some(&[0x55, 0xaa]) {
                    found.push(to_u64(mbr::TABLE)..510);
                }
            }
            Self::Gpt => {
                if start.get(512..520) == Some(b"EFI PART")
                    && let Some(gpt) = Gpt::read(interval, &mut Vec::new())?
                {
                    let Range { start, end } = gpt.placement().entries();
                    let offset = |sector: u64| sector.saturating_mul(mbr::SECTOR);
                    found.extend([512..1024, offset(start)..offset(end)]);
                }
            }
            Self::Apm => {
                if let Some(apm) = Apm::parse(&start, &mut Vec::new()) {
                    let block = u64::from(apm.block_bytes);
                    found.push(block..block * (to_u64(apm.partitions.len()) + 1));
                }
            }
        }
        Ok(())
    }
}

/// A source in which some ranges are replaced by zeros.
#[derive(Debug)]
struct ZeroedSource {
    inner: Arc<dyn Source>,
    zeroed: Vec<Range<u64>>,
}

impl Source for ZeroedSource {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.inner.read_exact_at(buf, offset)?;
        let end = offset + to_u64(buf.len());
        for range in &self.zeroed {
            let (start, end) = (range.start.max(offset), range.end.min(end));
            if start < end {
                buf[to_usize(start - offset)..to_usize(end - offset)].fill(0);
            }
        }
        Ok(())
    }

    fn identities(&self) -> Vec<HostFileId> {
        self.inner.identities()
    }
}

impl FromStr for Interval {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |what: &str| {
            Error::invalid(format!("the interval '{text}' {what}"))
                .hint("the form is --interval:local_fs:START-END:ZEROED:FILE")
        };
        let mut parts = text.strip_prefix(PREFIX).unwrap_or(text).splitn(4, ':');
        let mut next = || parts.next().unwrap_or_default();
        let (origin, bytes, zeroed, file) = (next(), next(), next(), next());
        let origin = match origin {
            "local_fs" if file.is_empty() => return Err(invalid("names no file")),
            "local_fs" => IntervalOrigin::File(file.into()),
            "imported_iso" => IntervalOrigin::Image,
            _ => return Err(invalid("is neither of local_fs nor of imported_iso")),
        };
        let range = range(bytes).ok_or_else(|| invalid("has no range such as 0-32767 or 1s-9s"))?;
        let zeroed = zeroed.split(',').filter(|part| !part.is_empty()).map(|part| match part {
            "zero_mbrpt" => Some(Zeroed::MbrPartitions),
            "zero_gpt" => Some(Zeroed::Gpt),
            "zero_apm" => Some(Zeroed::Apm),
            _ => self::range(part).map(Zeroed::Bytes),
        });
        let zeroed: Option<_> = zeroed.collect();
        let expected = "replaces something other than zero_mbrpt, zero_gpt, zero_apm or START-END";
        let zeroed = zeroed.ok_or_else(|| invalid(expected))?;
        Ok(Self { origin, range, zeroed })
    }
}

/// Parses `START-END`, of which the end is inclusive.
fn range(text: &str) -> Option<Range<u64>> {
    let (start, end) = text.split_once('-')?;
    let (start, _) = scaled(start)?;
    let (last, scale) = scaled(end)?;
    let end = last.checked_add(scale)?;
    (start < end).then_some(start..end)
}

/// Parses a number with an optional suffix. Returns it in bytes, and the value of the suffix.
fn scaled(text: &str) -> Option<(u64, u64)> {
    let (digits, scale) = match text.chars().last()?.to_ascii_lowercase() {
        'k' => (&text[..text.len() - 1], 1 << 10),
        'm' => (&text[..text.len() - 1], 1 << 20),
        'g' => (&text[..text.len() - 1], 1 << 30),
        't' => (&text[..text.len() - 1], 1 << 40),
        's' => (&text[..text.len() - 1], SECTOR),
        'd' => (&text[..text.len() - 1], mbr::SECTOR),
        _ => (text, 1),
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse::<u64>().ok().filter(|_| plain)?;
    Some((number.checked_mul(scale)?, scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    fn parse(text: &str) -> Result<Interval> {
        text.parse()
    }

    #[test]
    fn the_examples_of_xorrisos_manual_are_parsed() {
        let interval =
            parse("--interval:local_fs:0-32767:zero_mbrpt,zero_gpt,440-443:/tmp/template:1.iso");
        let zeroed = vec![Zeroed::MbrPartitions, Zeroed::Gpt, Zeroed::Bytes(440..444)];
        let origin = IntervalOrigin::File("/tmp/template:1.iso".into());
        assert_eq!(interval.expect("valid"), Interval { origin, range: 0..32768, zeroed });
        let interval = parse("imported_iso:45056d-47103d::").expect("valid");
        let range = 45056 * 512..47104 * 512;
        assert_eq!((interval.origin, interval.range), (IntervalOrigin::Image, range));
        assert_eq!(parse("imported_iso:0d-0d::").expect("valid").range, 0..512);
    }

    #[test]
    fn other_texts_are_errors_that_name_them() {
        for text in [
            "local_fs:0-1::",
            "local_fs:::/file",
            "local_fs:all::/file",
            "local_fs:5-3::/file",
            "local_fs:-1-3::/file",
            "local_fs:+1-3::/file",
            "local_fs:0-1:none:/file",
            "local_fs:0-99999999999999999999t::/file",
            "local_fs:1-18446744073709551615::/file",
            "other:0-1::/file",
            "",
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }

    #[test]
    fn parts_are_replaced_wherever_a_read_begins() {
        let source: Arc<dyn Source> = Arc::new(MemorySource::new([7u8; 100]));
        let interval = parse("imported_iso:10-59:0-4,40-99:").expect("valid");
        let opened = interval.open(Some(&source)).expect("opens");
        assert_eq!(opened.len(), 50);
        let expected: Vec<u8> =
            (0..50).map(|at| if (5..40).contains(&at) { 7 } else { 0 }).collect();
        for step in [1, 3, 7, 50] {
            let mut bytes = vec![1; 50];
            for at in (0..50).step_by(step) {
                let end = (at + step).min(50);
                opened.read_exact_at(&mut bytes[at..end], at as u64).expect("inside");
            }
            assert_eq!(bytes, expected);
        }
        assert!(interval.open(None).is_err());
        assert!(parse("imported_iso:10-100::").expect("valid").open(Some(&source)).is_err());
    }

    #[test]
    fn only_the_entries_of_an_mbr_are_replaced() {
        let mut sector = vec![9; 512];
        let zero = |bytes: &[u8]| {
            let source: Arc<dyn Source> = Arc::new(MemorySource::new(bytes.to_vec()));
            let interval = parse("imported_iso:0-511:zero_mbrpt,zero_gpt,zero_apm:");
            let opened = interval.expect("valid").open(Some(&source)).expect("opens");
            let mut found = vec![0; 512];
            opened.read_exact_at(&mut found, 0).expect("inside");
            found
        };
        assert_eq!(zero(&sector), sector);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        let mut expected = sector.clone();
        expected[446..510].fill(0);
        assert_eq!(zero(&sector), expected);
    }
}
