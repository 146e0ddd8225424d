//! The options of a node as a flat map with dotted keys, and its three spellings.

use crate::error::{Error, Result};
use crate::model::options::{parse_size, parse_switch, split_unescaped};
use std::collections::BTreeMap;
use std::fmt;

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Text; numbers and switches are text, too.
    Text(String),
    /// JSON's `null`.
    Null,
}

impl Value {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null => None,
        }
    }
}

/// Options of a node that are not used yet, by their dotted keys: `file.filename`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct NodeOptions(BTreeMap<String, Value>);

/// Without the values, which may contain passwords.
impl fmt::Debug for NodeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What a node has for a child.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Child {
    /// Options of a node.
    Node(NodeOptions),
    /// The name of a node that is defined elsewhere.
    Reference(String),
    /// Explicitly none.
    Null,
}

impl NodeOptions {
    /// Parses `key=value,key=value`. `,,` is a literal comma in a value; `key` alone is `key=on`,
    /// `nokey` is `key=off`. The first item may be the value of `file`. The last of equal keys
    /// counts.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) for an empty key.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut options = Self::default();
        for (number, item) in split_unescaped(text).into_iter().enumerate() {
            let (key, value) = match item.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None if number == 0 => ("file".to_owned(), item),
                None => match item.strip_prefix("no") {
                    Some(key) if !key.is_empty() => (key.to_owned(), "off".to_owned()),
                    _ => (item, "on".to_owned()),
                },
            };
            if key.is_empty() {
                return Err(Error::invalid(format!("Invalid parameter '{key}'")));
            }
            options.0.insert(key, Value::Text(value));
        }
        Ok(options)
    }

    /// Adds an option.
    pub(super) fn insert(&mut self, key: impl Into<String>, value: Value) {
        self.0.insert(key.into(), value);
    }

    /// Removes an option and returns its text.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the value is `null`.
    pub(super) fn take(&mut self, key: &str) -> Result<Option<String>> {
        match self.0.remove(key) {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Err(Error::invalid(format!("Parameter '{key}' must not be null"))),
            None => Ok(None),
        }
    }

    /// Removes a number of bytes and returns it.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the value is not a size.
    pub(super) fn take_size(&mut self, key: &str) -> Result<Option<u64>> {
        let Some(text) = self.take(key)? else { return Ok(None) };
        let size = parse_size(&text).ok_or_else(|| {
            Error::invalid(format!("Parameter '{key}' expects a non-negative number below 2^64"))
                .hint("it may end in k, M, G, T, P or E")
        })?;
        Ok(Some(size))
    }

    /// Removes a switch and returns it.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the value is neither `on` nor `off` nor a
    /// synonym.
    pub(super) fn take_switch(&mut self, key: &str) -> Result<Option<bool>> {
        let Some(text) = self.take(key)? else { return Ok(None) };
        let switch = parse_switch(&text)
            .ok_or_else(|| Error::invalid(format!("Parameter '{key}' expects 'on' or 'off'")))?;
        Ok(Some(switch))
    }

    /// Returns true if the option is set.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Returns true if no option is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes options that have no effect here.
    pub(super) fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.0.remove(*key);
        }
    }

    /// Removes all options of the child `name`.
    pub(super) fn take_child(&mut self, name: &str) -> Option<Child> {
        match self.0.remove(name) {
            Some(Value::Null) => return Some(Child::Null),
            Some(Value::Text(text)) => return Some(Child::Reference(text)),
            None => {}
        }
        let prefix = format!("{name}.");
        let keys: Vec<_> = self.0.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
        let mut child = Self::default();
        for key in keys {
            if let Some(value) = self.0.remove(&key) {
                child.insert(&key[prefix.len()..], value);
            }
        }
        (!child.0.is_empty()).then_some(Child::Node(child))
    }

    /// Returns true if the child `name` is the name of a node.
    pub(super) fn has_reference(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(Value::Text(_)))
    }

    /// Returns the values of the option `name` of all nodes.
    pub(super) fn texts(&self, name: &str) -> Vec<&str> {
        let is_named = |key: &str| key.rsplit('.').next() == Some(name);
        let named = self.0.iter().filter(|(key, _)| is_named(key));
        named.filter_map(|(_, value)| value.text()).collect()
    }

    /// Returns an option that is left over.
    pub(super) fn first_key(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, Value)> {
        NodeOptions::parse(text).expect(text).0.into_iter().collect()
    }

    #[test]
    fn commas_in_values_are_doubled() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (given, key, value) in [
            ("file.filename=a,,b", "file.filename", "a,b"),
            ("file.filename=,,a", "file.filename", ",a"),
            ("file.filename=a,,", "file.filename", "a,"),
            ("file.filename=a,,,,b", "file.filename", "a,,b"),
            ("file.filename=a=b", "file.filename", "a=b"),
            ("file.filename=", "file.filename", ""),
            ("file.filename=x,file.filename=y", "file.filename", "y"),
            ("a.img", "file", "a.img"),
        ] {
            assert_eq!(parsed(given), [(key.to_owned(), text(value))], "{given}");
        }
        let switches = parsed("driver=raw,read-only,noforce-share");
        assert_eq!(switches.len(), 3);
        assert_eq!(switches[1], ("force-share".to_owned(), text("off")));
        assert_eq!(switches[2], ("read-only".to_owned(), text("on")));
        NodeOptions::parse("=x").expect_err("no key");
    }

    #[test]
    fn children_take_the_keys_with_their_prefix() {
        let mut options = NodeOptions::parse("driver=raw,file.driver=file,file.filename=a,filex=1")
            .expect("parses");
        let Some(Child::Node(mut file)) = options.take_child("file") else { panic!("{options:?}") };
        assert_eq!(file.take("filename").expect("text").as_deref(), Some("a"));
        assert_eq!(file.first_key(), Some("driver"));
        assert_eq!(options.take_child("backing"), None);
        options.insert("backing", Value::Null);
        assert_eq!(options.take_child("backing"), Some(Child::Null));
        options.insert("backing", Value::Text("x".to_owned()));
        assert_eq!(options.take_child("backing"), Some(Child::Reference("x".to_owned())));
        assert_eq!(options.take("driver").expect("text").as_deref(), Some("raw"));
        assert_eq!(options.first_key(), Some("filex"));
    }
}
