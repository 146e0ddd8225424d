//! `metadata.json` of a box, as far as it is about disks.
//!
//! What is not needed is skipped without being stored, so that memory does not depend on it.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// Maximum number of disks that are kept. Others are counted.
const MAX_DISKS: usize = 1 << 16;

/// A disk of the archive: its member's name, and its format, if it is stated.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) format: Option<String>,
}

/// What `metadata.json` says about disks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The disks that it lists.
    pub(super) disks: Vec<Found>,
    /// Number of disks that it lists.
    pub(super) listed: u64,
    /// The format of the disk that it does not list.
    pub(super) format: Option<String>,
}

impl Metadata {
    /// Parses the file. Values that have other types than expected are ignored.
    ///
    /// # Errors
    /// Returns what is wrong if it is not valid JSON.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        // What is skipped must be valid as well.
        let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        serde_json::from_str(text).map(|Lenient(metadata)| metadata).map_err(|e| e.to_string())
    }
}

/// A key of an object. Of several members with the same key, the last one counts.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Disks,
    Format,
    Path,
    #[serde(other)]
    Other,
}

/// A value of which one type is expected. One of another type is the default value.
trait Expected: Default {
    fn text(_: &str) -> Self {
        Self::default()
    }

    fn list<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }

    fn object<'de, A: MapAccess<'de>>(mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }
}

impl Expected for Option<String> {
    fn text(text: &str) -> Self {
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl Expected for Option<Found> {
    fn object<'de, A: MapAccess<'de>>(mut members: A) -> Result<Self, A::Error> {
        let (mut name, mut format) = (None, None);
        while let Some(key) = members.next_key()? {
            match key {
                Key::Path => Lenient(name) = members.next_value()?,
                Key::Format => Lenient(format) = members.next_value()?,
                Key::Disks | Key::Other => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(name.map(|name| Found { name, format }))
    }
}

/// The list of disks, and their number.
#[derive(Default)]
struct Disks(Vec<Found>, u64);

impl Expected for Disks {
    fn list<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Self, A::Error> {
        let mut disks = Self::default();
        while let Some(Lenient(item)) = items.next_element::<Lenient<Option<Found>>>()? {
            let Some(disk) = item else { continue };
            disks.1 += 1;
            if disks.0.len() < MAX_DISKS {
                disks.0.push(disk);
            }
        }
        Ok(disks)
    }
}

impl Expected for Metadata {
    fn object<'de, A: MapAccess<'de>>(mut members: A) -> Result<Self, A::Error> {
        let mut metadata = Self::default();
        while let Some(key) = members.next_key()? {
            match key {
                Key::Disks => {
                    let Lenient(Disks(disks, listed)) = members.next_value()?;
                    (metadata.disks, metadata.listed) = (disks, listed);
                }
                Key::Format => Lenient(metadata.format) = members.next_value()?,
                Key::Path | Key::Other => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(metadata)
    }
}

/// A value of any type.
struct Lenient<T>(T);

impl<'de, T: Expected> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor(PhantomData)).map(Self)
    }
}

struct ValueVisitor<T>(PhantomData<T>);

impl<'de, T: Expected> Visitor<'de> for ValueVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<T, A::Error> {
        T::list(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
        T::object(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, format: Option<&str>) -> Found {
        Found { name: name.to_owned(), format: format.map(str::to_owned) }
    }

    #[test]
    fn disks_are_listed_and_everything_else_is_skipped() {
        let parse = |text: &str| Metadata::parse(text.as_bytes());
        let metadata = parse(
            r#"{"x": [{"": 0}, null, 1.5e3, -1], "format": "qcow2", "disks": [7, {"format": "raw",
            "path": "a"}, {"path": ""}, {"path": 1}, "b", {"path": "c", "format": [], "d": {}}]}"#,
        );
        let disks = vec![found("a", Some("raw")), found("c", None)];
        assert_eq!(metadata, Ok(Metadata { disks, listed: 2, format: Some("qcow2".into()) }));
        let last = parse(r#"{"format": "a", "format": "b", "disks": [{"path": "x"}], "disks": 1}"#);
        assert_eq!(last, Ok(Metadata { format: Some("b".into()), ..Metadata::default() }));
        for other in ["null", "true", "[1, {}]", "\"format\"", "-1", "1.5", "{}"] {
            assert_eq!(parse(other), Ok(Metadata::default()), "{other}");
        }
        for invalid in ["", "{", "{\"a\": 1,}", "{} {}", "{a: 1}"] {
            parse(invalid).expect_err(invalid);
        }
        Metadata::parse(b"{\"a\": \"\xff\"}").expect_err("not UTF-8");
    }

    #[test]
    fn a_list_that_is_too_long_is_counted() {
        let item = r#"{"path":"a"},"#;
        let count = MAX_DISKS + 10;
        let text = format!("{{\"disks\":[{}{{}}]}}", item.repeat(count));
        let metadata = Metadata::parse(text.as_bytes()).expect("is valid");
        assert_eq!((metadata.disks.len(), metadata.listed), (MAX_DISKS, count as u64));
    }
}
