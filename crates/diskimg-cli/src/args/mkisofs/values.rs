//! What options take.

use crate::args::names;
use crate::failure::Failure;
use diskimg::iso::Timestamp;
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{BootImage, Level};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::str::FromStr;

/// A word, and of which option.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'a> {
    /// As it was args, hyphens and all.
    pub(super) option: &'a str,
    /// The word.
    pub(super) word: &'a OsStr,
}

impl<'a> Value<'a> {
    /// As text.
    pub(super) fn text(&self) -> Result<&'a str, Failure> {
        self.word.to_str().ok_or_else(|| self.wrong("UTF-8"))
    }

    /// As a path of the host.
    pub(super) fn path(&self) -> PathBuf {
        self.word.into()
    }

    /// As a number: decimal, octal after 0, hexadecimal after 0x, as C has it.
    pub(super) fn number<N: TryFrom<u64> + FromStr>(&self) -> Result<N, Failure> {
        let text = self.text()?;
        let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => u64::from_str_radix(digits, 16),
            None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8),
            None => text.parse(),
        };
        let plain = !text.contains(['+', '-']);
        let number = number.ok().filter(|_| plain).and_then(|n| N::try_from(n).ok());
        number.ok_or_else(|| self.wrong("a number in range"))
    }

    /// As permissions.
    pub(super) fn mode(&self) -> Result<u32, Failure> {
        names::mode(self.text()?).ok_or_else(|| self.wrong("permissions in octal"))
    }

    /// Sees that it names the one character set there is.
    pub(super) fn utf8(&self) -> Result<(), Failure> {
        match self.text()?.to_ascii_lowercase().as_str() {
            "utf-8" | "utf8" => Ok(()),
            _ => Err(self.wrong("utf-8: names are taken as they are")),
        }
    }

    /// The word is something else than `wanted`.
    pub(super) fn wrong(&self, wanted: &str) -> Failure {
        let Self { option, word } = self;
        Failure::error(format!("{option} {}: expecting {wanted}", word.to_string_lossy()))
    }
}

/// `-iso-level`.
pub(super) fn level(value: &Value<'_>) -> Result<Level, Failure> {
    match value.text()? {
        "1" => Ok(Level::One),
        "2" => Ok(Level::Two),
        "3" => Ok(Level::Three),
        _ => Err(value.wrong("1, 2 or 3")),
    }
}

/// `-eltorito-platform`.
pub(super) fn platform(value: &Value<'_>) -> Result<Platform, Failure> {
    Ok(match value.text()?.to_ascii_lowercase().as_str() {
        "x86" => Platform::Bios,
        "ppc" => Platform::PowerPc,
        "mac" => Platform::Mac,
        "efi" => Platform::Efi,
        _ => {
            match value.number::<u8>().map_err(|_| value.wrong("x86, PPC, Mac, efi or a number"))? {
                0 => Platform::Bios,
                1 => Platform::PowerPc,
                2 => Platform::Mac,
                0xef => Platform::Efi,
                other => Platform::Other(other),
            }
        }
    })
}

/// What is loaded: a path in the image or, in xorriso's words, an appended partition:
/// `--interval:appended_partition_2:all::`, or with `_start_1s_size_2d` behind the number.
pub(super) fn boot_image(text: &str) -> Result<BootImage, Failure> {
    let Some(interval) = text.strip_prefix("--interval:") else {
        return Ok(BootImage::File(text.trim_start_matches('/').to_owned()));
    };
    let number = interval
        .strip_prefix("appended_partition_")
        .and_then(|rest| rest.strip_suffix(":all::"))
        .map(|rest| rest.split_once("_start_").map_or(rest, |(number, _)| number))
        .and_then(|number| number.parse().ok());
    number.map(BootImage::AppendedPartition).ok_or_else(|| {
        Failure::error(format!(
            "the boot image {text} is not supported \
             (of all intervals only --interval:appended_partition_N:all:: is)"
        ))
    })
}

/// A partition's type: a number below 256, or one of two GUIDs, as text or as its bytes.
pub(super) fn partition_kind(value: &Value<'_>) -> Result<u8, Failure> {
    const EFI_SYSTEM: [&str; 2] =
        ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "28732ac11ff8d211ba4b00a0c93ec93b"];
    const BASIC_DATA: [&str; 2] =
        ["ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "a2a0d0ebe5b9334487c068b6b72699c7"];
    let text = value.text()?.to_ascii_lowercase();
    if EFI_SYSTEM.contains(&text.as_str()) {
        return Ok(0xef);
    }
    if BASIC_DATA.contains(&text.as_str()) {
        return Ok(0x07);
    }
    // Hexadecimal with or without 0x, as fdisk shows types.
    let digits = text.strip_prefix("0x").unwrap_or(&text);
    u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')).ok_or_else(|| {
        value.wrong(
            "a partition type such as 0xef, or the GUID of an EFI system or basic data partition",
        )
    })
}

/// Sixteen digits, YYYYMMDDhhmmsscc, in UTC.
pub(super) fn moment(value: &Value<'_>) -> Result<Timestamp, Failure> {
    digits(value.text()?).ok_or_else(|| value.wrong("YYYYMMDDhhmmsscc"))
}

/// The time of all files: as of a volume, or `=` and seconds since 1970. `None` leaves each
/// file its own.
pub(super) fn file_moment(value: &Value<'_>) -> Result<Option<Timestamp>, Failure> {
    let text = value.text()?;
    if ["", "default"].contains(&text) {
        return Ok(None);
    }
    let seconds =
        text.strip_prefix('=').map(|seconds| seconds.parse().map(Timestamp::from_seconds));
    let found = match seconds {
        Some(seconds) => seconds.ok(),
        None => digits(text),
    };
    found.map(Some).ok_or_else(|| value.wrong("YYYYMMDDhhmmsscc or =SECONDS"))
}

fn digits(text: &str) -> Option<Timestamp> {
    if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<i8>().ok();
    let year = text[..4].parse().ok()?;
    let nanoseconds = i32::from(number(14..16)?) * 10_000_000;
    let civil = jiff::civil::DateTime::new(
        year,
        number(4..6)?,
        number(6..8)?,
        number(8..10)?,
        number(10..12)?,
        number(12..14)?,
        nanoseconds,
    );
    let moment = jiff::tz::TimeZone::UTC.to_timestamp(civil.ok()?).ok()?;
    let mut stamp = Timestamp::from_seconds(moment.as_second());
    stamp.nanoseconds = moment.subsec_nanosecond().unsigned_abs();
    Some(stamp)
}

/// A pattern that matches nothing but this path.
pub(super) fn literal_pattern(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    for c in path.chars() {
        if ['*', '?', '[', ']', '\\'].contains(&c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}
