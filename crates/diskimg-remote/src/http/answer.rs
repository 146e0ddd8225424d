//! What a response to a request for a range means: RFC 9110, sections 14 and 15.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use ureq::http::{HeaderMap, header};

/// The answer to the first request.
pub(super) enum Answer {
    /// The server answers ranges.
    Part {
        /// Length of the file in bytes.
        total: u64,
        version: Version,
        /// The first bytes.
        body: Vec<u8>,
    },
    /// The file is empty.
    Empty,
    /// The server does not answer ranges: the whole file.
    Whole(Box<dyn Read + Send>),
}

/// What identifies the contents of a file at a time: RFC 9110, section 8.8.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Version {
    /// A strong `ETag`.
    pub(super) etag: Option<String>,
    /// The date of `Last-Modified`, as the server wrote it.
    pub(super) modified: Option<String>,
}

impl Version {
    /// Returns the version in the headers of a response.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text =
            |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // A weak one does not identify bytes.
        let etag = text(header::ETAG).filter(|etag| etag.starts_with('"'));
        Self { etag, modified: text(header::LAST_MODIFIED) }
    }

    /// Returns true if the version of another response differs for certain. A response may leave a
    /// header out.
    pub(super) fn differs(&self, other: &Self) -> bool {
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        match (&self.etag, &other.etag) {
            (Some(a), Some(b)) => a != b,
            _ => differ(&self.modified, &other.modified),
        }
    }

    /// Returns the header of a request for this version alone.
    pub(super) fn condition(&self) -> Option<(header::HeaderName, &str)> {
        match (&self.etag, &self.modified) {
            (Some(etag), _) => Some((header::IF_MATCH, etag)),
            (None, Some(date)) => Some((header::IF_UNMODIFIED_SINCE, date)),
            (None, None) => None,
        }
    }
}

/// A `Content-Range` header: RFC 9110, section 14.4.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// The bytes of the response; `None` if the range cannot be satisfied.
    pub(super) range: Option<Range<u64>>,
    /// Length of the file in bytes, if the server knows it.
    pub(super) total: Option<u64>,
}

impl ContentRange {
    /// Parses the value of a header.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if is_number { text.parse::<u64>().ok() } else { None }
        };
        let (unit, rest) = value.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = rest.trim().split_once('/')?;
        let total = match total {
            "*" => None,
            total => Some(number(total)?),
        };
        let range = match range {
            "*" => None,
            range => {
                let (first, last) = range.split_once('-')?;
                let (first, last) = (number(first)?, number(last)?);
                let end = last.checked_add(1).filter(|_| first <= last)?;
                Some(first..end)
            }
        };
        let fits = match (&range, total) {
            (Some(range), Some(total)) => range.end <= total,
            (None, None) => false,
            _ => true,
        };
        fits.then_some(Self { range, total })
    }

    /// Returns the parsed header of a response.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(header::CONTENT_RANGE)?.to_str().ok()?)
    }
}

/// A response that has another meaning than expected.
#[derive(Debug)]
pub(super) struct Unexpected(pub(super) String);

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unexpected {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_parsed_strictly() {
        let parse = |text| ContentRange::parse(text);
        let found = |range, total| Some(ContentRange { range, total });
        assert_eq!(parse("bytes 0-9/100"), found(Some(0..10), Some(100)));
        assert_eq!(parse("Bytes 5-5/6"), found(Some(5..6), Some(6)));
        assert_eq!(parse("bytes 0-9/*"), found(Some(0..10), None));
        assert_eq!(parse("bytes */0"), found(None, Some(0)));
        for wrong in [
            "",
            "bytes",
            "bytes 0-9",
            "bytes 9-0/100",
            "bytes 0-100/100",
            "bytes +0-9/100",
            "bytes 0-18446744073709551615/*",
            "bytes 0-99999999999999999999/*",
            "bytes */*",
            "items 0-9/100",
            "bytes 0-9/100/2",
            "bytes -9/100",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn versions_differ_by_the_strongest_header_that_both_have() {
        let version = |etag: Option<&str>, modified: Option<&str>| Version {
            etag: etag.map(str::to_owned),
            modified: modified.map(str::to_owned),
        };
        let (a, b) = (version(Some("\"a\""), Some("x")), version(Some("\"b\""), Some("x")));
        assert!(a.differs(&b) && !a.differs(&a));
        assert!(!a.differs(&version(Some("\"a\""), Some("y"))), "the ETag decides");
        assert!(a.differs(&version(None, Some("y"))));
        assert!(!a.differs(&version(None, None)));
    }

    #[test]
    fn a_weak_etag_identifies_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, "W/\"a\"".parse().expect("is valid"));
        headers.insert(header::LAST_MODIFIED, "today".parse().expect("is valid"));
        let version = Version::of(&headers);
        assert_eq!(version.condition(), Some((header::IF_UNMODIFIED_SINCE, "today")));
        headers.insert(header::ETAG, "\"a\"".parse().expect("is valid"));
        assert_eq!(Version::of(&headers).condition(), Some((header::IF_MATCH, "\"a\"")));
    }
}
