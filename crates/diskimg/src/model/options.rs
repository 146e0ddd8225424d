//! Create options (`-o name=value,…`): their specifications and given values.

use crate::error::{Error, Result};
use crate::remedy::Remedy;
use std::fmt;

/// Type of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionKind {
    /// Any text.
    Text,
    /// A number of bytes with an optional suffix (see [`parse_size`]).
    Size,
    /// An unsigned integer.
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

/// Option for the compression level of a new image, in formats that support compression.
pub(crate) const COMPRESSION_LEVEL: OptionSpec = OptionSpec::new(
    "compression_level",
    OptionKind::Number,
    "Compression level: 1 (fastest) to 9 (smallest)",
);

/// Option to turn off copy-on-write for the files of a new image.
pub(crate) const NOCOW: OptionSpec = OptionSpec::new(
    "nocow",
    OptionKind::Switch,
    "Turn off copy-on-write (btrfs; ignored by other file systems)",
);

/// Option for the unit in which the file system allocates space for the files of a new image.
pub(crate) const EXTENT_SIZE_HINT: OptionSpec = OptionSpec::new(
    "extent_size_hint",
    OptionKind::Size,
    "Extent size hint for the image file, 0 for none (XFS; ignored by other file systems)",
);

/// Specification of one create option of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OptionSpec {
    /// Name.
    pub name: &'static str,
    /// Type of its value.
    pub kind: OptionKind,
    /// One-line help text.
    pub help: &'static str,
    /// Default value, if it is to be shown. Giving it explicitly is the same as giving none.
    pub default: Option<&'static str>,
    /// Default value in QEMU, if it is another one. Programs that replace qemu-img set it.
    pub qemu_default: Option<&'static str>,
}

impl OptionSpec {
    /// Creates an option without a default value to show.
    pub(crate) const fn new(name: &'static str, kind: OptionKind, help: &'static str) -> Self {
        Self { name, kind, help, default: None, qemu_default: None }
    }

    /// Sets the default value.
    pub(crate) const fn default(self, value: &'static str) -> Self {
        Self { default: Some(value), ..self }
    }

    /// Sets QEMU's default value.
    #[cfg(any(feature = "vhd", feature = "vhdx"))]
    pub(crate) const fn qemu_default(self, value: &'static str) -> Self {
        Self { qemu_default: Some(value), ..self }
    }
}

/// Create options as given: names and values in order. The last value of a repeated name counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options(Vec<(String, String)>);

impl Options {
    /// Parses `name=value,name=value`. `,,` is a literal comma in a value; a name without a value
    /// is set to `on`.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) for an empty name.
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

    /// Returns true if one of the options in `text` is `help` or `?`, by which a user asks for the
    /// list of options.
    pub fn ask_for_help(text: &str) -> bool {
        split_unescaped(text).iter().any(|item| item == "help" || item == "?")
    }

    /// Sets an option, overriding earlier values.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.0.push((name.into(), value.into()));
        self
    }

    /// Appends all options of `more`, which override these.
    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Returns the last value given for `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Returns the names and values in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// Removes `name` and returns its last value.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let value = self.get(name).map(str::to_owned);
        self.0.retain(|(n, _)| n != name);
        value
    }

    /// Returns the option's value as a number of bytes.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the value is not a size.
    pub fn size(&self, name: &str) -> Result<Option<u64>> {
        self.get(name)
            .map(|v| {
                parse_size(v).ok_or_else(|| bad_value(name, "a size like 65536, 64k or 2M", v))
            })
            .transpose()
    }

    /// Returns the option's value as an unsigned integer.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the value is not an unsigned integer.
    pub fn number(&self, name: &str) -> Result<Option<u64>> {
        self.get(name)
            .map(|v| v.parse().map_err(|_| bad_value(name, "a whole number", v)))
            .transpose()
    }

    /// Returns the value of [`COMPRESSION_LEVEL`], which must be between 1 and `max`.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the level is out of range, or if it is
    /// given although the image is not `compressed`.
    pub(crate) fn compression_level(&self, max: u32, compressed: bool) -> Result<Option<u32>> {
        let name = COMPRESSION_LEVEL.name;
        match self.number(name)? {
            None => Ok(None),
            Some(_) if !compressed => Err(Error::invalid(format!("{name} requires compression"))
                .with_remedy(Remedy::Compress)),
            Some(level) if (1..=u64::from(max)).contains(&level) => Ok(Some(level as u32)),
            Some(level) => {
                Err(Error::invalid(format!("{name}={level} is not between 1 and {max}")))
            }
        }
    }

    /// Returns the option's value as a Boolean.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the value is neither `on` nor `off` nor a
    /// synonym (`yes`, `true`, `y`, `no`, `false`, `n`).
    pub fn switch(&self, name: &str) -> Result<Option<bool>> {
        self.get(name)
            .map(|v| parse_switch(v).ok_or_else(|| bad_value(name, "'on' or 'off'", v)))
            .transpose()
    }

    /// Checks the name and value of every option against `specs`.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid), naming the first unknown option or the first
    /// invalid value.
    pub fn check(&self, specs: &[OptionSpec]) -> Result<()> {
        for (name, _) in self.iter() {
            let Some(spec) = specs.iter().find(|s| s.name == name) else {
                return Err(Error::invalid(format!("Invalid parameter '{name}'"))
                    .with_remedy(Remedy::ListOptions));
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

    /// Returns the effective options: each option that is given or has a default value, once, in
    /// the order of `specs`. Sizes and numbers are converted to decimal digits.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) for an invalid size or number.
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

/// Parses a switch: `on` or `off`, or a synonym that QEMU accepts.
pub(crate) fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// Splits at single commas; `,,` is a literal comma. Empty items are left out.
pub(crate) fn split_unescaped(text: &str) -> Vec<String> {
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

/// Parses a number of bytes: decimal digits, optionally with a fraction (`1.5G`), followed by an
/// optional suffix: `b` (1), `k`, `M`, `G`, `T`, `P` or `E` (powers of 1024) in either case. Also
/// accepts hexadecimal digits after `0x`, without a suffix.
///
/// Returns `None` if `text` is not a size or does not fit in 63 bits.
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
    // As strtoull(3) does.
    let digits = digits.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let fraction: f64 = format!("0.{fraction}0").parse().ok()?;
    // There are no fractions of a byte, only of larger units; they are rounded to whole bytes.
    let part = (fraction * (1u64 << shift) as f64 + 0.5) as u64;
    let bytes = match shift {
        0 if fraction > 0.0 => return None,
        _ => whole.checked_mul(1 << shift)?.checked_add(part)?,
    };
    (bytes <= i64::MAX as u64).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_like_qemu_img_parses_them() {
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
            ("+1", Some(1)),
            (" 512", Some(512)),
            ("512 ", None),
            ("++1", None),
            ("1.5", None),
            ("0.5b", None),
            ("1024.0", Some(1024)),
            ("1024.", Some(1024)),
            ("1.0b", Some(1)),
            (".5k", Some(512)),
            (".0", Some(0)),
            (".", None),
            (".k", None),
            ("1.0.0k", None),
            ("1.7k", Some(1741)),
            ("1.3333M", Some(1_398_066)),
            ("1.999999999999999999k", Some(2048)),
            ("0x", None),
            ("0x200b", Some(8203)),
            ("512b", Some(512)),
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
    fn effective_options_are_listed_once_in_the_order_of_the_specifications() {
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
