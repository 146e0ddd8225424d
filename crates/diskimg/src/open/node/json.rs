//! `json:{…}`: the options of a node as a JSON object.

use super::options::{NodeOptions, Value};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// Maximum depth of nested objects and lists.
const MAX_DEPTH: usize = 64;

/// Maximum length of a key in bytes, with the keys of the objects that contain it. Every key below
/// an object begins with that object's key.
const MAX_KEY: usize = 1024;

/// Parses a JSON object. Keys of nested objects are joined with dots, as are indices of lists.
///
/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) if the text is not valid JSON or not an object.
pub(super) fn parse(text: &str) -> Result<NodeOptions> {
    let json: Json = serde_json::from_str(&double_quoted(text)).map_err(|e| {
        Error::invalid(format!("Could not parse the JSON options: JSON parse error, {e}"))
    })?;
    let Json::Object(members) = json else {
        return Err(Error::invalid("Invalid JSON object given"));
    };
    let mut options = NodeOptions::default();
    flatten(String::new(), Json::Object(members), &mut options, 0)?;
    Ok(options)
}

fn flatten(key: String, value: Json, options: &mut NodeOptions, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid(format!("the JSON options are nested deeper than {MAX_DEPTH}")));
    }
    if key.len() > MAX_KEY {
        return Err(Error::invalid(format!("a key of the JSON options exceeds {MAX_KEY} bytes")));
    }
    let join = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    let is_empty = match &value {
        Json::List(items) => items.is_empty(),
        Json::Object(members) => members.is_empty() && !key.is_empty(),
        Json::Null | Json::Scalar(_) => false,
    };
    if is_empty {
        return Err(Error::invalid(format!("Parameter '{key}' must not be empty")));
    }
    if options.has(&key) {
        return Err(Error::invalid(format!("Parameter '{key}' is given twice")));
    }
    match value {
        Json::Null => options.insert(key, Value::Null),
        Json::Scalar(text) => options.insert(key, Value::Text(text)),
        Json::List(items) => {
            for (index, item) in items.into_iter().enumerate() {
                flatten(join(&index.to_string()), item, options, depth + 1)?;
            }
        }
        Json::Object(members) => {
            for (name, member) in members {
                flatten(join(&name), member, options, depth + 1)?;
            }
        }
    }
    Ok(())
}

/// Converts strings in single quotes, which QEMU accepts, to standard JSON.
fn double_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                out.push('"');
            }
            (Some(open), _) if c == open => {
                quote = None;
                out.push('"');
            }
            (Some('\''), '"') => out.push_str("\\\""),
            (Some(_), '\\') => match chars.next() {
                // JSON has no escape for a single quote.
                Some('\'') => out.push('\''),
                next => out.extend(std::iter::once('\\').chain(next)),
            },
            _ => out.push(c),
        }
    }
    out
}

/// A JSON value. Unlike serde_json's, an object with two equal keys is an error.
enum Json {
    Null,
    /// A number, string or Boolean as text.
    Scalar(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Json, E> {
        Ok(Json::Scalar(if value { "on" } else { "off" }.to_owned()))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Json, E> {
        Ok(Json::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Json, E> {
        Ok(Json::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Json, E> {
        Ok(Json::Scalar(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Json, E> {
        Ok(Json::Scalar(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Json, A::Error> {
        let mut members: Vec<(String, Json)> = Vec::new();
        let mut known = HashSet::new();
        while let Some((key, value)) = map.next_entry::<String, Json>()? {
            if !known.insert(key.clone()) {
                return Err(de::Error::custom("duplicate key"));
            }
            members.push((key, value));
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::node::options::Child;

    #[test]
    fn nested_objects_and_dotted_keys_are_the_same() {
        let nested =
            parse(r#"{"driver":"raw","offset":512,"file":{"filename":"a","locking":true}}"#);
        let dotted =
            parse(r#"{'driver':'raw','offset':'512','file.filename':'a','file.locking':'on'}  "#);
        assert_eq!(nested.expect("parses"), dotted.expect("parses"));
        let mut options = parse(r#"{"backing":null,"server":[{"host":"x"}]}"#).expect("parses");
        assert_eq!(options.take_child("backing"), Some(Child::Null));
        assert_eq!(options.first_key(), Some("server.0.host"));
    }

    #[test]
    fn quotes_within_the_other_quotes_are_kept() {
        for (text, value) in [
            (r#"{"a":"it's"}"#, "it's"),
            (r#"{'a':'say "x"'}"#, r#"say "x""#),
            (r#"{'a':'it\'s'}"#, "it's"),
            (r#"{"a":"b\\"}"#, "b\\"),
            (r#"{'a':'\u00e9'}"#, "é"),
        ] {
            let mut options = parse(text).expect(text);
            assert_eq!(options.take("a").expect("text").as_deref(), Some(value), "{text}");
        }
    }

    #[test]
    fn what_is_not_an_object_is_an_error() {
        for text in ["[1]", "1", "\"x\""] {
            assert_eq!(parse(text).expect_err(text).to_string(), "Invalid JSON object given");
        }
        for text in ["", "{", "{\"a\":1,\"a\":2}", "{\"a\":{\"b\":1,\"b\":2}}", "{} x"] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.starts_with("Could not parse the JSON options: JSON parse error, "));
        }
        parse(&("{\"a\":".repeat(100) + "1" + &"}".repeat(100))).expect_err("too deep");
        let long = format!("{{\"{}\":{{\"b\":1}}}}", "a".repeat(MAX_KEY));
        parse(&long).expect_err("a long key");
    }
}
