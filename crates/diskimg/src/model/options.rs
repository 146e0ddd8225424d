//! Create options (`-o name=value,…`): what each format takes, and the values given.

use crate::error::{Error, Result};
use std::fmt;

/// The kind of value that an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionKind {
    /// Any text.
    Text,
    /// A number of bytes, with an optional suffix (see [`parse_size`]).
    Size,
    /// A whole number.
    Number,
    /// `on` or `off`.
    Switch,
}

impl fmt::Display for OptionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "<str>",
            Self::Size => "<size>",
            Self::Number => "<num>",
            Self::Switch => "<bool (on/off)>",
        })
    }
}

/// How hard a new image's units are compressed, in formats that compress.
pub(crate) const COMPRESSION_LEVEL: OptionSpec = OptionSpec::new(
    "compression_level",
    OptionKind::Number,
    "How hard to compress: 1 (fastest) to 9 (smallest), with zstd to 19",
);

/// One create option of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionSpec {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: OptionKind,
    /// One line of help.
    pub help: &'static str,
    /// The value in effect where none is given, if it is to be told. It means
    /// the same as giving nothing.
    pub default: Option<&'static str>,
}

impl OptionSpec {
    /// An option without a default to tell.
    pub(crate) const fn new(name: &'static str, kind: OptionKind, help: &'static str) -> Self {
        Self { name, kind, help, default: None }
    }

    /// With this default.
    pub(crate) const fn default(self, value: &'static str) -> Self {
        Self { default: Some(value), ..self }
    }
}

/// Create options as given: names and values in order, a later one overriding an earlier.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options(Vec<(String, String)>);

impl Options {
    /// Reads `name=value,name=value`. A doubled comma is a comma in a value; a
    /// name alone means `on`.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for an empty name.
    pub fn parse(text: &str) -> Result<Self> {
        let mut options = Self::default();
        for item in split_unescaped(text) {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name, value),
                None => (item.as_str(), "on"),
            };
            if name.is_empty() {
                return Err(Error::invalid(format!(
                    "Invalid parameter '{item}' in options '{text}'"
                )));
            }
            options.set(name, value);
        }
        Ok(options)
    }

    /// Sets an option.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.0.push((name.into(), value.into()));
        self
    }

    /// Adds all of `more`, which override these.
    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// The last value given for `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Names and values as given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// Removes `name` and gives the last value it had.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let value = self.get(name).map(str::to_owned);
        self.0.retain(|(n, _)| n != name);
        value
    }

    /// The option as a number of bytes.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if it is none.
    pub fn size(&self, name: &str) -> Result<Option<u64>> {
        self.get(name)
            .map(|v| {
                parse_size(v).ok_or_else(|| bad_value(name, "a size like 65536, 64k or 2M", v))
            })
            .transpose()
    }

    /// The option as a whole number.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if it is none.
    pub fn number(&self, name: &str) -> Result<Option<u64>> {
        self.get(name)
            .map(|v| v.parse().map_err(|_| bad_value(name, "a whole number", v)))
            .transpose()
    }

    /// The level of [`COMPRESSION_LEVEL`], from 1 to `most`.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if it is out of range, or if nothing is
    /// `compressed`.
    pub(crate) fn compression_level(&self, most: u32, compressed: bool) -> Result<Option<u32>> {
        let name = COMPRESSION_LEVEL.name;
        match self.number(name)? {
            None => Ok(None),
            Some(_) if !compressed => {
                Err(Error::invalid(format!("{name} says how to compress, and nothing is"))
                    .hint("-c, Convert::compress"))
            }
            Some(level) if (1..=u64::from(most)).contains(&level) => Ok(Some(level as u32)),
            Some(level) => Err(Error::invalid(format!("{name}={level}: 1 to {most} are possible"))),
        }
    }

    /// The option as a switch.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if it is neither on nor off.
    pub fn switch(&self, name: &str) -> Result<Option<bool>> {
        self.get(name)
            .map(|v| match v {
                "on" | "yes" | "true" | "y" => Ok(true),
                "off" | "no" | "false" | "n" => Ok(false),
                _ => Err(bad_value(name, "'on' or 'off'", v)),
            })
            .transpose()
    }

    /// Checks every option against `specs`: names and kinds of values.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid), naming the first that does not fit.
    pub fn check(&self, format: &str, specs: &[OptionSpec]) -> Result<()> {
        for (name, _) in self.iter() {
            let Some(spec) = specs.iter().find(|s| s.name == name) else {
                return Err(Error::invalid(format!("Invalid parameter '{name}'"))
                    .hint(format!("`-o help` lists the options of {format}")));
            };
            match spec.kind {
                OptionKind::Text => {}
                OptionKind::Size => drop(self.size(name)?),
                OptionKind::Number => drop(self.number(name)?),
                OptionKind::Switch => drop(self.switch(name)?),
            }
        }
        Ok(())
    }

    /// What is in effect: each option that is given, or has a default, once, in
    /// the order of `specs`. Sizes and numbers are in plain digits.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a size or number that is none.
    pub fn in_effect(&self, specs: &[OptionSpec]) -> Result<Self> {
        let mut effective = Self::default();
        for spec in specs {
            let digits = match spec.kind {
                OptionKind::Size => self.size(spec.name)?,
                OptionKind::Number => self.number(spec.name)?,
                OptionKind::Text | OptionKind::Switch => None,
            };
            match (digits, self.get(spec.name).or(spec.default)) {
                (Some(digits), _) => drop(effective.set(spec.name, digits.to_string())),
                (None, Some(value)) => drop(effective.set(spec.name, value)),
                (None, None) => {}
            }
        }
        Ok(effective)
    }
}

fn bad_value(name: &str, wanted: &str, got: &str) -> Error {
    Error::invalid(format!("Parameter '{name}' expects {wanted}, not '{got}'"))
}

/// Splits at single commas; a doubled one stands for itself.
fn split_unescaped(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            (',', Some(',')) => {
                chars.next();
                items.last_mut().expect("never empty").push(',');
            }
            (',', _) => items.push(String::new()),
            _ => items.last_mut().expect("never empty").push(c),
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

/// Reads a number of bytes: digits, optionally with a fraction (`1.5G`), and a
/// suffix `b` (1), `k`/`K`, `M`, `G`, `T`, `P`, `E` (powers of 1024).
/// `None` if it is not one, or does not fit in 63 bits.
pub fn parse_size(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok().filter(|&n| n <= i64::MAX as u64);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "b" | "B" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        "p" | "P" => 50,
        "e" | "E" => 60,
        _ => return None,
    };
    let bytes = match digits.split_once('.') {
        None => digits.parse::<u64>().ok()?.checked_mul(1 << shift)?,
        Some((whole, fraction)) => {
            if !fraction.bytes().all(|b| b.is_ascii_digit()) || fraction.len() > 15 || shift == 0 {
                return None;
            }
            let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
            let digits = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
            let part = (digits << shift) / 10u128.pow(fraction.len() as u32);
            whole.checked_add(u64::try_from(part).ok()?)?
        }
    };
    (bytes <= i64::MAX as u64 && !digits.starts_with('+')).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_qemu_img_reads_them() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("64k", Some(65536)),
            ("2M", Some(2 << 20)),
            ("1.5G", Some(3 << 29)),
            ("0x200", Some(512)),
            ("7E", Some(7 << 60)),
            ("8E", None),
            ("", None),
            ("k", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("1x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn a_doubled_comma_is_part_of_the_value() {
        let options = Options::parse("a=1,,2,b=x,c").expect("parses");
        let given: Vec<_> = options.iter().collect();
        assert_eq!(given, [("a", "1,2"), ("b", "x"), ("c", "on")]);
    }

    #[test]
    fn the_last_value_wins() {
        let options = Options::parse("a=1,a=2").expect("parses");
        assert_eq!(options.get("a"), Some("2"));
    }

    #[test]
    fn what_is_in_effect_comes_once_in_the_order_of_the_table() {
        const SPECS: [OptionSpec; 4] = [
            OptionSpec::new("b", OptionKind::Size, "").default("512"),
            OptionSpec::new("c", OptionKind::Text, "").default("x"),
            OptionSpec::new("a", OptionKind::Number, ""),
            OptionSpec::new("d", OptionKind::Switch, ""),
        ];
        let effective = |text| {
            let options = Options::parse(text).and_then(|o| o.in_effect(&SPECS)).expect("fits");
            options.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(effective(""), "b=512 c=x");
        assert_eq!(effective("d=yes,a=7,c=y,b=1,b=1.5k"), "b=1536 c=y a=7 d=yes");
    }
}
