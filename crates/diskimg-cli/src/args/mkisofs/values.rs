//! Parsing of option values.

use crate::args::names;
use crate::failure::Failure;
use diskimg::iso::Timestamp;
use diskimg::iso::boot::Platform;
use diskimg::iso::write::{
    BootImage, Charset, CylinderAlignment, Interval, Level, PartitionContents, PartitionKind,
};
use diskimg::partition::Guid;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::str::FromStr;

/// The value of an option.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'a> {
    /// The option as given, including hyphens.
    pub(super) option: &'a str,
    /// The value as given.
    pub(super) arg: &'a OsStr,
}

impl<'a> Value<'a> {
    /// Returns the value as text.
    pub(super) fn text(&self) -> Result<&'a str, Failure> {
        self.arg.to_str().ok_or_else(|| self.invalid("UTF-8"))
    }

    /// Returns the value as a host path.
    pub(super) fn path(&self) -> PathBuf {
        self.arg.into()
    }

    /// Parses a number: decimal, octal after `0`, hexadecimal after `0x`, as in C.
    pub(super) fn number<N: TryFrom<u64>>(&self) -> Result<N, Failure> {
        let text = self.text()?;
        let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => u64::from_str_radix(digits, 16),
            None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8),
            None => text.parse(),
        };
        let plain = !text.contains(['+', '-']);
        let number = number.ok().filter(|_| plain).and_then(|n| N::try_from(n).ok());
        number.ok_or_else(|| self.invalid("a number in range"))
    }

    /// Parses a number with an optional sign, in decimal.
    pub(super) fn signed<N: FromStr>(&self) -> Result<N, Failure> {
        self.text()?.parse().map_err(|_| self.invalid("a number in range"))
    }

    /// Returns the value as a host file, or as a part of one in xorriso's syntax,
    /// `--interval:local_fs:0-32767:zero_mbrpt:FILE`.
    pub(super) fn contents(&self) -> Result<PartitionContents, Failure> {
        match self.arg.to_str().filter(|text| Interval::is_interval(text)) {
            None => Ok(PartitionContents::File(self.path())),
            Some(text) => Ok(PartitionContents::Interval(text.parse()?)),
        }
    }

    /// Parses permissions.
    pub(super) fn mode(&self) -> Result<u32, Failure> {
        names::octal_mode(self.text()?).ok_or_else(|| self.invalid("permissions in octal"))
    }

    /// Parses the name of a character set.
    pub(super) fn charset(&self) -> Result<Charset, Failure> {
        let charset = Charset::from_name(self.text()?);
        charset.ok_or_else(|| self.invalid("a known character set such as utf-8 or iso8859-1"))
    }

    /// Checks that the value is the only supported one.
    pub(super) fn only(&self, supported: &str) -> Result<(), Failure> {
        match self.text()? {
            text if text == supported => Ok(()),
            _ => Err(self.invalid(&format!("{supported}, the only supported value"))),
        }
    }

    /// Returns the error for a value that is not `expected`.
    pub(super) fn invalid(&self, expected: &str) -> Failure {
        let Self { option, arg } = self;
        Failure::error(format!("{option} {}: expected {expected}", arg.to_string_lossy()))
    }
}

/// Parses the value of `-iso-level`.
pub(super) fn level(value: &Value<'_>) -> Result<Level, Failure> {
    match value.text()? {
        "1" => Ok(Level::One),
        "2" => Ok(Level::Two),
        "3" => Ok(Level::Three),
        "4" => Ok(Level::Four),
        _ => Err(value.invalid("1, 2, 3 or 4")),
    }
}

/// Parses the value of `-eltorito-platform`.
pub(super) fn platform(value: &Value<'_>) -> Result<Platform, Failure> {
    Ok(match value.text()?.to_ascii_lowercase().as_str() {
        "x86" => Platform::Bios,
        "ppc" => Platform::PowerPc,
        "mac" => Platform::Mac,
        "efi" => Platform::Efi,
        _ => {
            match value
                .number::<u8>()
                .map_err(|_| value.invalid("x86, PPC, Mac, efi or a number"))?
            {
                0 => Platform::Bios,
                1 => Platform::PowerPc,
                2 => Platform::Mac,
                0xef => Platform::Efi,
                other => Platform::Other(other),
            }
        }
    })
}

/// Parses a boot image: a path in the image, or an appended partition in xorriso's syntax,
/// `--interval:appended_partition_2:all::`, where `_start_1s_size_2d` may follow the number.
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
            "the boot image {text} is not supported (a boot image is a file in the image or \
             --interval:appended_partition_N:all::)"
        ))
    })
}

/// Parses a partition type: a name, an MBR type in hexadecimal, or a GUID as text or as raw bytes.
/// Returns the type in an MBR and, for a GUID, in a GPT.
pub(super) fn partition_kinds(value: &Value<'_>) -> Result<(u8, Option<Guid>), Failure> {
    let text = value.text()?;
    if let Ok(guid) = text.parse::<Guid>() {
        return Ok((if guid == Guid::EFI_SYSTEM { 0xef } else { 0x83 }, Some(guid)));
    }
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "fat12" => return Ok((0x01, None)),
        "fat16" => return Ok((0x06, None)),
        "linux" => return Ok((0x83, None)),
        _ => {}
    }
    // The prefix 0x is optional, as in fdisk.
    let digits = lower.strip_prefix("0x").unwrap_or(&lower);
    let kind = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
    let kind = kind.ok_or_else(|| value.invalid("a partition type such as 0xef, or a GUID"))?;
    Ok((kind, None))
}

/// Parses the value of `-iso_mbr_part_type`. Returns `None` for the default.
pub(super) fn volume_kind(value: &Value<'_>) -> Result<Option<PartitionKind>, Failure> {
    let text = value.text()?;
    if text == "default" {
        return Ok(None);
    }
    if let Ok(guid) = text.parse() {
        return Ok(Some(PartitionKind::Gpt(guid)));
    }
    let kind = value.number().map_err(|_| value.invalid("default, a number up to 255, or a GUID"));
    Ok(Some(PartitionKind::Mbr(kind?)))
}

/// Parses the value of `-partition_cyl_align`.
pub(super) fn cylinder_alignment(value: &Value<'_>) -> Result<CylinderAlignment, Failure> {
    value.text()?.parse().map_err(|_| value.invalid("auto, on, all or off"))
}

/// Parses a number up to `max`.
pub(super) fn number_up_to(value: &Value<'_>, max: u8) -> Result<u8, Failure> {
    let number = value.number::<u8>().ok().filter(|&number| number <= max);
    number.ok_or_else(|| value.invalid(&format!("a number up to {max}")))
}

/// Parses the value of `-eltorito-id`: a text of up to 28 bytes, or 56 hexadecimal digits.
pub(super) fn boot_identifier(value: &Value<'_>) -> Result<Vec<u8>, Failure> {
    let text = value.text()?;
    let bytes = match hex(text).filter(|bytes| bytes.len() == 28) {
        Some(bytes) => bytes,
        None => text.as_bytes().to_vec(),
    };
    if bytes.len() > 28 {
        return Err(value.invalid("up to 28 bytes, or 56 hexadecimal digits"));
    }
    Ok(bytes)
}

/// Parses the value of `-eltorito-selcrit`: up to 40 hexadecimal digits.
pub(super) fn selection_criteria(value: &Value<'_>) -> Result<Vec<u8>, Failure> {
    let bytes = hex(value.text()?).filter(|bytes| bytes.len() <= 20);
    bytes.ok_or_else(|| value.invalid("up to 40 hexadecimal digits"))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| {
        let digits = std::str::from_utf8(pair).ok().filter(|_| pair.len() == 2)?;
        u8::from_str_radix(digits, 16).ok().filter(|_| pair[0] != b'+')
    });
    pairs.collect()
}

/// Returns the GUID that xorriso derives from a volume's date: its 16 digits, with the last two
/// moved and the bits of a random GUID.
pub(super) fn guid_of_date(time: Timestamp) -> Guid {
    let seconds = jiff::Timestamp::from_second(time.seconds).unwrap_or_default();
    let digits = seconds.strftime("%Y%m%d%H%M%S").to_string();
    let digits = format!("{digits}{:02}", time.nanoseconds / 10_000_000);
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip((0..9).chain(14..16).chain(9..14)) {
        *to = digits.as_bytes().get(from).copied().unwrap_or(b'0');
    }
    bytes[7] = bytes[7] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Guid(bytes)
}

/// Parses a date in UTC: 16 digits, `YYYYMMDDhhmmsscc`.
pub(super) fn date(value: &Value<'_>) -> Result<Timestamp, Failure> {
    parse_date(value.text()?).ok_or_else(|| value.invalid("YYYYMMDDhhmmsscc"))
}

/// Parses the date of all files: as [`date`], or `=` and seconds since 1970. Returns `None` if
/// every file keeps its own date.
pub(super) fn file_date(value: &Value<'_>) -> Result<Option<Timestamp>, Failure> {
    let text = value.text()?;
    if ["", "default"].contains(&text) {
        return Ok(None);
    }
    let seconds =
        text.strip_prefix('=').map(|seconds| seconds.parse().map(Timestamp::from_seconds));
    let date = match seconds {
        Some(seconds) => seconds.ok(),
        None => parse_date(text),
    };
    date.map(Some).ok_or_else(|| value.invalid("YYYYMMDDhhmmsscc or =SECONDS"))
}

fn parse_date(text: &str) -> Option<Timestamp> {
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

/// Returns a pattern that matches only this name or path.
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
