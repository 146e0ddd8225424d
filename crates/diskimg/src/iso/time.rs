//! Timestamps, as ISO 9660 and Rock Ridge record them.

use crate::storage::number::{to_u8, to_u32};
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time, in UTC. Ordered by time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds within the second; less than 1,000,000,000.
    pub nanoseconds: u32,
}

/// Seconds per day.
const DAY: i64 = 86_400;

/// Seconds in 15 minutes, the unit of a recorded offset from UTC.
const QUARTER: i64 = 900;

impl Timestamp {
    /// Creates a timestamp from the number of seconds since 1970-01-01T00:00:00Z.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }

    /// Decodes the seven bytes of a directory record: years since 1900, month, day, hour, minute,
    /// second, offset from UTC in 15-minute intervals (ECMA-119, 9.1.5). Returns `None` if no valid
    /// time is recorded.
    pub(crate) fn from_record(bytes: &[u8; 7]) -> Option<Self> {
        let &[year, month, day, hour, minute, second, zone] = bytes;
        let civil = [1900 + i64::from(year), month.into(), day.into()];
        Self::from_civil(civil, [hour.into(), minute.into(), second.into()], 0, zone.cast_signed())
    }

    /// Encodes as seven bytes (ECMA-119, 9.1.5), in UTC, clamped to the range that they can
    /// represent.
    pub(crate) fn to_record(self) -> [u8; 7] {
        let first = Self::civil_seconds([1900, 1, 1], [0, 0, 0]);
        let last = Self::civil_seconds([2155, 12, 31], [23, 59, 59]);
        let ([year, month, day], [hour, minute, second]) =
            Self::from_seconds(self.seconds.clamp(first, last)).civil();
        [to_u8(year - 1900), to_u8(month), to_u8(day), to_u8(hour), to_u8(minute), to_u8(second), 0]
    }

    /// Decodes the seventeen bytes of a volume descriptor: sixteen digits, the last two of them
    /// hundredths of a second, and the offset from UTC (ECMA-119, 8.4.26.1). Returns `None` if no
    /// valid time is recorded.
    pub(crate) fn from_digits(bytes: &[u8; 17]) -> Option<Self> {
        let number = |range: std::ops::Range<usize>| {
            bytes[range].iter().try_fold(0i64, |n, &digit| {
                digit.is_ascii_digit().then(|| n * 10 + i64::from(digit - b'0'))
            })
        };
        let civil = [number(0..4)?, number(4..6)?, number(6..8)?];
        let clock = [number(8..10)?, number(10..12)?, number(12..14)?];
        let hundredths = to_u32(number(14..16)?);
        Self::from_civil(civil, clock, hundredths * 10_000_000, bytes[16].cast_signed())
    }

    /// Encodes as seventeen bytes (ECMA-119, 8.4.26.1), clamped to the range that they can
    /// represent, in the time zone that is `zone` times 15 minutes east of UTC. A zone out of range
    /// is recorded, but treated as UTC.
    pub(crate) fn to_digits(self, zone: i8) -> [u8; 17] {
        let first = Self::civil_seconds([1, 1, 1], [0, 0, 0]);
        let last = Self::civil_seconds([9999, 12, 31], [23, 59, 59]);
        let local = self.seconds.saturating_add(Self::offset(zone));
        let ([year, month, day], [hour, minute, second]) =
            Self::from_seconds(local.clamp(first, last)).civil();
        let hundredths = self.nanoseconds / 10_000_000;
        let digits =
            format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}{hundredths:02}\0");
        let mut bytes = Self::NO_DIGITS;
        bytes.copy_from_slice(digits.as_bytes());
        bytes[16] = zone.cast_unsigned();
        bytes
    }

    /// Returns the offset of a time zone from UTC in seconds.
    fn offset(zone: i8) -> i64 {
        if (-48..=52).contains(&zone) { i64::from(zone) * QUARTER } else { 0 }
    }

    /// The seventeen bytes for a time that is not specified (ECMA-119, 8.4.26.1).
    pub(crate) const NO_DIGITS: [u8; 17] = *b"0000000000000000\0";

    /// Creates a timestamp from year, month, day and hour, minute, second in the time zone that is
    /// `zone` times 15 minutes east of UTC. Returns `None` if a field is out of range. A zone out
    /// of range is treated as UTC.
    pub(crate) fn from_civil(
        civil: [i64; 3],
        clock: [i64; 3],
        nanoseconds: u32,
        zone: i8,
    ) -> Option<Self> {
        let [_, month, day] = civil;
        let [hour, minute, second] = clock;
        let is_valid = (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && hour < 24
            && minute < 60
            && second <= 60
            && nanoseconds < 1_000_000_000;
        is_valid.then(|| {
            let seconds = Self::civil_seconds(civil, clock) - Self::offset(zone);
            Self { seconds, nanoseconds }
        })
    }

    fn civil_seconds([year, month, day]: [i64; 3], [hour, minute, second]: [i64; 3]) -> i64 {
        // Years start in March, so that the leap day comes last; an era is 400 years.
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        days * DAY + hour * 3600 + minute * 60 + second
    }

    /// Returns year, month, day and hour, minute, second in UTC.
    pub(crate) fn civil(self) -> ([i64; 3], [i64; 3]) {
        let days = self.seconds.div_euclid(DAY) + 719_468;
        let second_of_day = self.seconds.rem_euclid(DAY);
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let clock = [second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60];
        ([year, month, day], clock)
    }
}

impl fmt::Display for Timestamp {
    /// Formats as in RFC 3339, without the fraction of a second: `2024-02-29T12:34:56Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([year, month, day], [hour, minute, second]) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let whole = |since: Duration| {
            Self::from_seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
        };
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self { nanoseconds: after.subsec_nanos(), ..whole(after) },
            Err(before) => {
                let before = before.duration();
                let whole = Self::from_seconds(-whole(before).seconds);
                match before.subsec_nanos() {
                    0 => whole,
                    n => Self { seconds: whole.seconds - 1, nanoseconds: 1_000_000_000 - n },
                }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        let whole = Duration::from_secs(timestamp.seconds.unsigned_abs());
        let base = if timestamp.seconds < 0 {
            UNIX_EPOCH.checked_sub(whole)
        } else {
            UNIX_EPOCH.checked_add(whole)
        };
        let nanoseconds = Duration::from_nanos(u64::from(timestamp.nanoseconds));
        base.and_then(|base| base.checked_add(nanoseconds)).unwrap_or(UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_round_trip_every_day() {
        let first = Timestamp::civil_seconds([1900, 1, 1], [0, 0, 0]);
        for day in 0..93_500 {
            let timestamp = Timestamp::from_seconds(first + day * DAY + day % DAY);
            assert_eq!(Timestamp::from_record(&timestamp.to_record()), Some(timestamp));
            assert_eq!(Timestamp::from_digits(&timestamp.to_digits(0)), Some(timestamp));
        }
    }

    #[test]
    fn a_known_time_has_its_known_bytes() {
        let timestamp = Timestamp { seconds: 1_709_210_096, nanoseconds: 780_000_000 };
        assert_eq!(timestamp.to_record(), [124, 2, 29, 12, 34, 56, 0]);
        assert_eq!(&timestamp.to_digits(0), b"2024022912345678\0");
        // The same time, recorded with an offset of 1 h 15 min.
        let east = [124, 2, 29, 13, 49, 56, 5];
        assert_eq!(Timestamp::from_record(&east), Some(Timestamp::from_seconds(1_709_210_096)));
    }

    #[test]
    fn invalid_times_decode_to_none() {
        assert_eq!(Timestamp::from_digits(&Timestamp::NO_DIGITS), None);
        assert_eq!(Timestamp::from_digits(&[0; 17]), None);
        assert_eq!(Timestamp::from_record(&[0; 7]), None);
        assert_eq!(Timestamp::from_record(&[124, 13, 1, 0, 0, 0, 0]), None);
    }

    #[test]
    fn conversion_to_system_time_and_back_keeps_the_timestamp() {
        for seconds in [-86_401, -1, 0, 1, 1_709_210_096] {
            let timestamp = Timestamp { seconds, nanoseconds: 250_000_000 };
            assert_eq!(Timestamp::from(SystemTime::from(timestamp)), timestamp);
        }
    }
}
