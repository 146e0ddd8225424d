//! Parsing of values of xorriso's commands.

use super::super::values::Value;
use super::job::Setting;
use crate::failure::Failure;
use diskimg::iso::write::{CreateOptions, Joliet, Level};

/// Sectors of zeros that xorriso appends by default: 300 KiB.
pub(super) const PADDING: u32 = 150;

/// Parses `on` or `off`.
pub(super) fn switch(value: &Value<'_>) -> Result<bool, Failure> {
    match value.text()?.split(':').next() {
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        _ => Err(value.invalid("on or off")),
    }
}

/// Parses a number of bytes: `k`, `m`, `g` for powers of 1024, `s` for sectors of 2048 bytes, `d`
/// for 512.
pub(super) fn bytes(value: &Value<'_>) -> Result<u64, Failure> {
    let text = value.text()?.to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "d" => 512,
        "s" => 2048,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err(value.invalid("a number of bytes")),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    number.ok_or_else(|| value.invalid("a number of bytes"))
}

/// Parses the value of `-padding`: a number of bytes, or whether padding is part of the volume,
/// which it always is. Returns sectors.
pub(super) fn padding(value: &Value<'_>) -> Result<Option<u32>, Failure> {
    match value.text()? {
        "included" | "appended" => Ok(None),
        "default" => Ok(Some(PADDING)),
        _ => {
            let sectors = bytes(value)?.div_ceil(2048);
            u32::try_from(sectors).map(Some).map_err(|_| value.invalid("a smaller number"))
        }
    }
}

/// Words of `-compliance` that describe what is always so, or has no effect on readers.
const COMPLIANCE_NO_EFFECT: &[&str] = &[
    "always_gmt",
    "clear",
    "deep_paths",
    "default",
    "joliet_long_paths",
    "joliet_rec_mtime",
    "joliet_utf16",
    "long_names",
    "long_paths",
    "new_rr",
    "no_emul_toc",
    "no_j_force_dots",
    "old_rrip",
    "rec_mtime",
    "aaip_susp_1_10",
];

/// Parses the value of `-compliance`: words separated by `:` or `,`.
pub(super) fn compliance(value: &Value<'_>) -> Result<Vec<Setting>, Failure> {
    let words = value.text()?.split([':', ',']).filter(|word| !matches!(*word, "" | "on"));
    words.map(|word| compliance_word(value, word)).filter_map(Result::transpose).collect()
}

fn compliance_word(value: &Value<'_>, word: &str) -> Result<Option<Setting>, Failure> {
    let bare = word.strip_suffix("_off").unwrap_or(word);
    let on = bare == word;
    let rule = |apply: fn(&mut CreateOptions, bool)| Some(Setting::new(move |o| apply(o, on)));
    Ok(match bare {
        "joliet_long_names" => rule(|o, on| {
            if on {
                o.joliet = o.joliet.map(|_| Joliet::Long);
            }
        }),
        "lowercase" => rule(|o, on| o.names.lowercase = on),
        "7bit_ascii" | "allow_full_ascii" => rule(|o, on| o.names.relaxed = on),
        "omit_version" | "only_iso_version" => rule(|o, on| o.names.omit_version = on),
        "no_force_dots" => rule(|o, on| o.names.omit_period = on),
        "untranslated_names" => rule(|o, on| o.names.untranslated = on),
        "iso_9660_1999" => {
            rule(|o, on| o.names.level = if on { Level::Four } else { Level::Three })
        }
        "iso_9660_level=1" => rule(|o, _| o.names.level = Level::One),
        "iso_9660_level=2" => rule(|o, _| o.names.level = Level::Two),
        "iso_9660_level=3" => rule(|o, _| o.names.level = Level::Three),
        _ if COMPLIANCE_NO_EFFECT.contains(&bare) => None,
        _ => return Err(Failure::not_supported(&format!("{} {word}", value.option))),
    })
}

/// A change of permissions, as in chmod(1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModeChange(Vec<Clause>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clause {
    /// The bits that may change.
    who: u32,
    operator: char,
    bits: u32,
    /// `X`: execute, for directories and files that someone may execute.
    conditional: bool,
}

impl ModeChange {
    /// Parses permissions in octal or in symbols such as `u+w,go-rwx`.
    pub(super) fn parse(value: &Value<'_>) -> Result<Self, Failure> {
        let text = value.text()?;
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits = value.mode()?;
            return Ok(Self(vec![Clause { who: 0o7777, operator: '=', bits, conditional: false }]));
        }
        let clauses: Option<Vec<_>> = text.split(',').map(clause).collect();
        clauses.map(Self).ok_or_else(|| value.invalid("permissions such as 0644 or a+r,u+w"))
    }

    /// Returns the new permissions.
    pub(crate) fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        self.0.iter().fold(mode, |mode, clause| {
            let execute = clause.conditional && (is_dir || mode & 0o111 != 0);
            let bits = clause.bits | if execute { 0o111 & clause.who } else { 0 };
            match clause.operator {
                '+' => mode | bits,
                '-' => mode & !bits,
                _ => mode & !clause.who | bits,
            }
        })
    }
}

fn clause(text: &str) -> Option<Clause> {
    let at = text.find(['+', '-', '='])?;
    let (who, rest) = text.split_at(at);
    let mut mask = if who.is_empty() { 0o777 } else { 0 };
    for c in who.chars() {
        mask |= match c {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    let mut chars = rest.chars();
    let operator = chars.next()?;
    let (mut bits, mut conditional) = (0, false);
    for c in chars {
        match c {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            's' => bits |= 0o6000,
            't' => bits |= 0o1000,
            'X' => conditional = true,
            _ => return None,
        }
    }
    Some(Clause { who: mask, operator, bits: bits & mask, conditional })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_change_as_with_chmod() {
        let change = |text: &str, mode, is_dir| {
            let value = Value { option: "-chmod", arg: text.as_ref() };
            ModeChange::parse(&value).map(|change| change.apply(mode, is_dir)).ok()
        };
        for (text, mode, is_dir, expected) in [
            ("0755", 0o644, false, 0o755),
            ("u+w,go-rwx", 0o444, false, 0o600),
            ("a+rX", 0o200, true, 0o755),
            ("a+rX", 0o600, false, 0o644),
            ("+x", 0o644, false, 0o755),
            ("go=", 0o777, false, 0o700),
            ("u+s", 0o755, false, 0o4755),
        ] {
            assert_eq!(change(text, mode, is_dir), Some(expected), "{text}");
        }
        for text in ["", "rw", "a+q", "z+r", "999"] {
            assert_eq!(change(text, 0o644, false), None, "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [("0", Some(0)), ("300k", Some(307_200)), ("16s", Some(32_768))] {
            let value = Value { option: "-padding", arg: text.as_ref() };
            assert_eq!(bytes(&value).ok(), expected, "{text}");
        }
        assert!(bytes(&Value { option: "-padding", arg: "1q".as_ref() }).is_err());
    }
}
