//! The values that the examiner and the program recorded: the sections `header` and `header2`.
//!
//! ```text
//!   1                         number of categories
//!   main                      the only one that is read
//!   a       c       n       e …         identifiers, separated by tabs
//!   a disk  case 1  1.1     John D. …   values
//! ```
//!
//! The text is compressed by zlib: ASCII in `header`, UTF-16 with a byte order mark in `header2`.

use super::read;
use super::section::{Kind, Section};
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::report::info::Value;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::io::Read;

/// How messages call the section.
const STRUCTURE: &str = "EWF header section";

/// The values, in the order of [`NAMES`].
pub(super) type Values = Vec<(&'static str, Value)>;

/// The identifiers of values and the names that `info` uses.
const NAMES: &[(&str, &str)] = &[
    ("c", "case-number"),
    ("n", "evidence-number"),
    ("a", "description"),
    ("e", "examiner"),
    ("t", "notes"),
    ("md", "model"),
    ("sn", "serial-number"),
    ("l", "device-label"),
    ("av", "software-version"),
    ("ov", "operating-system"),
    (ACQUIRED, "acquisition-date"),
    (SYSTEM, "system-date"),
];

/// The date of the acquisition.
const ACQUIRED: &str = "m";

/// The date of the computer's clock at that time.
const SYSTEM: &str = "u";

/// A password that protects nothing: programs may refuse the image without it.
const PASSWORD: &str = "p";

/// Reads the values of a section.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it cannot be decompressed,
/// [`Limit`](crate::ErrorKind::Limit) if it is too long, [`Io`](crate::ErrorKind::Io).
pub(super) fn read_values(
    section: &Section,
    source: &dyn Source,
    limits: &Limits,
) -> Result<Values> {
    let (at, max) = (section.contents.start, limits.descriptor_bytes);
    let too_long = |what: String| {
        Err(Error::over_limit("descriptor_bytes", what, max).in_structure(STRUCTURE).at(at))
    };
    if section.len() > max {
        return too_long(format!("a header section of {} bytes", section.len()));
    }
    let mut stored = vec![0; to_usize(section.len())];
    read(source, &mut stored, at, STRUCTURE)?;
    let mut bytes = Vec::new();
    flate2::read::ZlibDecoder::new(&stored[..])
        .take(max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| Error::decode("cannot decompress it", e).in_structure(STRUCTURE).at(at))?;
    if to_u64(bytes.len()) > max {
        return too_long("a header section with a longer text".to_owned());
    }
    Ok(parse(&match section.kind {
        Kind::Header2 => utf16(&bytes),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }))
}

/// Decodes UTF-16, which is little endian unless a byte order mark says otherwise.
fn utf16(bytes: &[u8]) -> String {
    let (pairs, _) = bytes.as_chunks::<2>();
    let big_endian = pairs.first() == Some(&[0xfe, 0xff]);
    let unit = |pair: &[u8; 2]| match big_endian {
        true => u16::from_be_bytes(*pair),
        false => u16::from_le_bytes(*pair),
    };
    let units = pairs.iter().map(unit).skip_while(|&unit| unit == 0xfeff);
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Returns the values in the category `main` that are not empty.
fn parse(text: &str) -> Values {
    let mut lines = text.split(['\n', '\r', '\0']).filter(|line| !line.is_empty());
    if !lines.any(|line| line == "main") {
        return Values::new();
    }
    let (identifiers, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    // The lines may be long, so they are split once. The first value of an identifier counts.
    let (mut known, mut password) = ([None; NAMES.len()], None);
    for (identifier, value) in identifiers.split('\t').zip(values.split('\t')) {
        match NAMES.iter().position(|(name, _)| *name == identifier) {
            Some(index) => known[index].get_or_insert(value.trim()),
            None if identifier == PASSWORD => password.get_or_insert(value.trim()),
            None => continue,
        };
    }
    let named = |(&(identifier, name), value): (&(&str, &'static str), Option<&str>)| {
        let value = value.filter(|value| !value.is_empty())?;
        let value = match identifier {
            ACQUIRED | SYSTEM => date(value).unwrap_or_else(|| value.to_owned()),
            _ => value.to_owned(),
        };
        Some((name, Value::Text(value)))
    };
    let mut found: Values = NAMES.iter().zip(known).filter_map(named).collect();
    if password.is_some_and(|hash| !hash.is_empty() && hash != "0") {
        found.push(("password-protected", true.into()));
    }
    found
}

/// Returns a date as ISO 8601: from seconds since 1970 UTC (`1142163845`), or from the parts of a
/// local time (`2002 3 4 10 19 59`). `None` if it is neither.
fn date(text: &str) -> Option<String> {
    let parts: Vec<u32> = text.split(' ').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match parts[..] {
        [seconds] => Some(utc(seconds)),
        [year, month, day, hour, minute, second] => {
            Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"))
        }
        _ => None,
    }
}

/// Returns the UTC of this many seconds since 1970.
fn utc(seconds: u32) -> String {
    const DAY: u32 = 86_400;
    let is_leap = |year: u32| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut days, time) = (seconds / DAY, seconds % DAY);
    let mut year = 1970;
    while days >= 365 + u32::from(is_leap(year)) {
        days -= 365 + u32::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u32::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_iso_8601() {
        for (text, iso) in [
            ("0", "1970-01-01T00:00:00Z"),
            ("1142163845", "2006-03-12T11:44:05Z"),
            ("951782400", "2000-02-29T00:00:00Z"),
            ("1735689599", "2024-12-31T23:59:59Z"),
            ("4294967295", "2106-02-07T06:28:15Z"),
            ("2002 3 4 10 19 59", "2002-03-04T10:19:59"),
        ] {
            assert_eq!(date(text).as_deref(), Some(iso), "{text}");
        }
        for text in ["", "Monday", "-1", "4294967296", "2002 3 4"] {
            assert_eq!(date(text), None, "{text}");
        }
    }

    #[test]
    fn values_are_found_by_their_identifiers() {
        let text = "3\nmain\na\tc\tp\tm\tx\tt\n a disk \t\tff\t0\tunknown\tnotes\n\nsrce\n0\t1\n";
        let expected = [
            ("description", Value::from("a disk")),
            ("notes", "notes".into()),
            ("acquisition-date", "1970-01-01T00:00:00Z".into()),
            ("password-protected", true.into()),
        ];
        assert_eq!(parse(text), expected);
        assert_eq!(parse(&text.replace('\n', "\r\n")), expected);
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(utf16(&[&[0xff, 0xfe][..], &little].concat()), text);
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(utf16(&[&[0xfe, 0xff][..], &big].concat()), text);
        for text in ["", "main", "1\nmain\na\tc", "1\nother\na\nb\n"] {
            assert_eq!(parse(text), [], "{text}");
        }
    }
}
