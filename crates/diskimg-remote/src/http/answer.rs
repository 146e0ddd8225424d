//! What a response to a request for a range means: RFC 9110, sections 14 and 15.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use ureq::http::{HeaderMap, HeaderValue, header};

/// The answer to the first request.
pub(crate) enum Answer {
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
    /// The server does not answer ranges: the whole file, and its length in bytes if that is stated.
    Whole(Box<dyn Read + Send>, Option<u64>),
}

/// What identifies the contents of a file at a time: RFC 9110, section 8.8.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Version {
    /// The `ETag`, which may be a weak one.
    etag: Option<HeaderValue>,
    /// The date of `Last-Modified`, as the server wrote it.
    modified: Option<HeaderValue>,
}

impl Version {
    /// Returns the version in the headers of a response.
    ///
    /// # Errors
    /// Returns an error if there are several different ones.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Unexpected> {
        let only = |name| {
            let mut values = headers.get_all(name).iter();
            let first = values.next().cloned();
            match values.all(|other| Some(other) == first.as_ref()) {
                true => Ok(first),
                false => Err(Unexpected("the server states several versions of the file".into())),
            }
        };
        Ok(Self { etag: only(header::ETAG)?, modified: only(header::LAST_MODIFIED)? })
    }

    /// Returns true if another response is of the same version: it must repeat the strong `ETag`, or
    /// without one the weak one and the date.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        let is_repeated = |own: &Option<HeaderValue>, other| own.is_none() || own == other;
        let has_date = self.strong().is_some() || is_repeated(&self.modified, &other.modified);
        is_repeated(&self.etag, &other.etag) && has_date
    }

    /// Returns the `ETag` if it is a strong one, which identifies bytes.
    fn strong(&self) -> Option<&HeaderValue> {
        self.etag.as_ref().filter(|etag| etag.as_bytes().starts_with(b"\""))
    }

    /// Returns the header of a request for this version alone. A weak `ETag` cannot be required:
    /// section 13.1.1.
    pub(crate) fn condition(&self) -> Option<(header::HeaderName, &HeaderValue)> {
        match (self.strong(), &self.modified) {
            (Some(etag), _) => Some((header::IF_MATCH, etag)),
            (None, Some(date)) => Some((header::IF_UNMODIFIED_SINCE, date)),
            (None, None) => None,
        }
    }
}

/// Verifies that the body of a response is the file as it is.
///
/// # Errors
/// Returns an error if it is compressed, or encoded in another way.
pub(crate) fn require_plain(headers: &HeaderMap) -> Result<(), Unexpected> {
    let other = |name, plain: &str| {
        let mut values = headers.get_all(name).iter();
        values.find(|value| !value.as_bytes().eq_ignore_ascii_case(plain.as_bytes())).cloned()
    };
    let found = other(header::CONTENT_ENCODING, "identity");
    match found.or_else(|| other(header::TRANSFER_ENCODING, "chunked")) {
        None => Ok(()),
        Some(value) => {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            Err(Unexpected(format!("the server encodes the file ({value})")))
        }
    }
}

/// A `Content-Range` header: RFC 9110, section 14.4.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// The bytes of the response; `None` if the range cannot be satisfied.
    pub(crate) range: Option<Range<u64>>,
    /// Length of the file in bytes, if the server knows it.
    pub(crate) total: Option<u64>,
}

impl ContentRange {
    /// Parses the value of a header.
    pub(crate) fn parse(value: &str) -> Option<Self> {
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
        // No file is longer, and what is computed with such lengths does not overflow.
        if total.is_some_and(|total| total > i64::MAX as u64) {
            return None;
        }
        let fits = match (&range, total) {
            (Some(range), Some(total)) => range.end <= total,
            (None, None) => false,
            _ => true,
        };
        fits.then_some(Self { range, total })
    }

    /// Returns the parsed header of a response.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::CONTENT_RANGE).iter();
        let only = values.next().filter(|_| values.next().is_none())?;
        Self::parse(only.to_str().ok()?)
    }
}

/// A response that has another meaning than expected.
#[derive(Debug)]
pub(crate) struct Unexpected(pub(crate) String);

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
            "bytes 0-9/18446744073709551615",
            "bytes 0-9/9223372036854775808",
            "bytes -9/100",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    fn headers(pairs: &[(&str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: header::HeaderName = name.parse().expect("is valid");
            headers.append(name, HeaderValue::from_bytes(value).expect("is valid"));
        }
        headers
    }

    #[test]
    fn a_version_must_be_repeated() {
        let version = |pairs: &[(&str, &[u8])]| Version::of(&headers(pairs)).expect("is one");
        let first = version(&[("etag", b"\"a\""), ("last-modified", b"x")]);
        assert!(first.matches(&first));
        assert!(first.matches(&version(&[("etag", b"\"a\""), ("last-modified", b"y")])));
        for other in [
            &[("etag", &b"\"b\""[..]), ("last-modified", b"x")][..],
            &[("etag", b"W/\"a\"")],
            &[("last-modified", b"x")],
            &[],
        ] {
            assert!(!first.matches(&version(other)), "{other:?}");
        }
        let weak = version(&[("etag", b"W/\"\xe9\"")]);
        assert!(weak.matches(&weak) && !weak.matches(&version(&[("etag", b"W/\"\xe8\"")])));
        let both = version(&[("etag", b"W/\"a\""), ("last-modified", b"x")]);
        assert!(!both.matches(&version(&[("etag", b"W/\"a\""), ("last-modified", b"y")])));
        let dated = version(&[("last-modified", b"x")]);
        assert!(dated.matches(&dated) && !dated.matches(&version(&[])));
        assert!(version(&[]).matches(&first));
        assert!(Version::of(&headers(&[("etag", b"\"a\""), ("etag", b"\"b\"")])).is_err());
    }

    #[test]
    fn a_weak_etag_is_not_required() {
        let condition = |pairs: &[(&str, &[u8])]| {
            let version = Version::of(&headers(pairs)).expect("is one");
            version.condition().map(|(name, value)| (name, value.as_bytes().to_vec()))
        };
        let date: (&str, &[u8]) = ("last-modified", b"today");
        let strong = condition(&[("etag", b"\"a\""), date]);
        assert_eq!(strong, Some((header::IF_MATCH, b"\"a\"".to_vec())));
        let weak = condition(&[("etag", b"W/\"a\""), date]);
        assert_eq!(weak, Some((header::IF_UNMODIFIED_SINCE, b"today".to_vec())));
        assert_eq!(condition(&[("etag", b"W/\"a\"")]), None);
    }

    #[test]
    fn encoded_bodies_are_refused() {
        let plain = |pairs: &[(&str, &[u8])]| require_plain(&headers(pairs)).is_ok();
        assert!(plain(&[]) && plain(&[("content-encoding", b"Identity")]));
        assert!(plain(&[("transfer-encoding", b"chunked")]));
        for value in [&b"gzip"[..], b"x-gzip", b"\xe9", b""] {
            assert!(!plain(&[("content-encoding", value)]), "{value:?}");
            assert!(!plain(&[("content-encoding", b"identity"), ("content-encoding", value)]));
        }
        assert!(!plain(&[("transfer-encoding", b"gzip, chunked")]));
    }
}
