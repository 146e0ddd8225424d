//! The words by which front ends spell values: `Display` and `FromStr` for enumerations.

use crate::error::Error;
#[cfg(feature = "iso")]
use crate::iso::{
    Droppable, Namespace, Session,
    write::{CylinderAlignment, Emulation, Hide, Joliet, Level, RockRidge},
};
use crate::model::flat::Preallocation;
use crate::open::external_files::ExternalFiles;
use crate::ops::{NewSize, Reflink};
use crate::report::check::RepairScope;
use crate::report::finding::Severity;
use crate::storage::caching::Caching;
use crate::storage::output::{Durability, FileAction};
use std::fmt;
use std::str::FromStr;

/// Gives an enumeration one word for each value.
macro_rules! words {
    ($type:ty, $what:literal, $($variant:ident = $word:literal),+) => {
        impl $type {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the word for the value, which `Display` writes and `FromStr` parses.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            #[doc = concat!("Parses one of", $(" `", $word, "`",)+ ".")]
            fn from_str(word: &str) -> Result<Self, Error> {
                Self::ALL.iter().copied().find(|value| value.name() == word).ok_or_else(|| {
                    let known = [$($word),+].join(", ");
                    Error::invalid(format!("unknown {} '{word}'", $what))
                        .hint(format!("one of {known}"))
                })
            }
        }
    };
}

#[cfg(feature = "iso")]
words!(CylinderAlignment, "cylinder alignment", Auto = "auto", On = "on", All = "all", Off = "off");
#[cfg(feature = "iso")]
words!(
    Droppable,
    "part of an image",
    HfsPlus = "hfsplus",
    Partitions = "partitions",
    SystemArea = "system-area"
);
words!(RepairScope, "scope of a repair", Leaks = "leaks", All = "all");
words!(
    Preallocation,
    "preallocation mode",
    Off = "off",
    Metadata = "metadata",
    Falloc = "falloc",
    Full = "full"
);
words!(
    ExternalFiles,
    "policy for external files",
    None = "none",
    SameDir = "same-dir",
    Any = "any"
);
words!(Reflink, "reflink mode", Auto = "auto", Always = "always", Never = "never");
words!(Caching, "caching mode", Buffered = "buffered", Direct = "direct");
words!(Durability, "durability", Flushed = "flushed", Cached = "cached");
words!(FileAction, "action", Create = "create", Replace = "replace", Overwrite = "overwrite");
words!(Severity, "severity", Note = "note", Warning = "warning", Error = "error");
#[cfg(feature = "iso")]
words!(
    Namespace,
    "namespace",
    Auto = "auto",
    RockRidge = "rock-ridge",
    Joliet = "joliet",
    Iso = "iso",
    Udf = "udf"
);
#[cfg(feature = "iso")]
words!(RockRidge, "Rock Ridge mode", Rationalized = "rationalized", Preserved = "preserved");
#[cfg(feature = "iso")]
words!(Joliet, "Joliet mode", Standard = "standard", Long = "long");
#[cfg(feature = "iso")]
words!(Level, "interchange level", One = "1", Two = "2", Three = "3", Four = "4");
#[cfg(feature = "iso")]
words!(
    Hide,
    "way to hide files",
    FromPrimary = "primary",
    FromJoliet = "joliet",
    FromUdf = "udf",
    WithFlag = "flag"
);
#[cfg(feature = "iso")]
words!(Emulation, "emulation", None = "none", Floppy = "floppy", HardDisk = "hard-disk");

#[cfg(feature = "iso")]
impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.pad("last"),
            Self::First => f.pad("first"),
            Self::At(sector) => fmt::Display::fmt(sector, f),
        }
    }
}

#[cfg(feature = "iso")]
impl FromStr for Session {
    type Err = Error;

    /// Parses `last`, `first`, or the number of the session's first sector.
    fn from_str(word: &str) -> Result<Self, Error> {
        match word {
            "last" => Ok(Self::Last),
            "first" => Ok(Self::First),
            number => number.parse().map(Self::At).map_err(|_| {
                Error::invalid(format!("unknown session '{number}'"))
                    .hint("one of last, first, the number of the session's first sector")
            }),
        }
    }
}

impl fmt::Display for NewSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(size) => write!(f, "{size}"),
            Self::Grow(more) => write!(f, "+{more}"),
            Self::Shrink(fewer) => write!(f, "-{fewer}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DigestAlgorithm, Format};
    use std::fmt::Debug;

    /// Asserts that each value is parsed from its text, and returns the error for another word.
    fn round_trip<T>(all: &[T]) -> String
    where
        T: Copy + Debug + PartialEq + fmt::Display + FromStr<Err = Error>,
    {
        for value in all {
            assert_eq!(value.to_string().parse::<T>().expect("parses"), *value);
        }
        "no such word".parse::<T>().expect_err("unknown").to_string()
    }

    #[test]
    fn values_are_parsed_from_their_text_and_errors_list_the_words() {
        let unknown = "unknown reflink mode 'no such word' (one of auto, always, never)";
        assert_eq!(round_trip(Reflink::ALL), unknown);
        for (error, words) in [
            (round_trip(RepairScope::ALL), "leaks, all"),
            (round_trip(Preallocation::ALL), "off, metadata, falloc, full"),
            (round_trip(ExternalFiles::ALL), "none, same-dir, any"),
            (round_trip(Caching::ALL), "buffered, direct"),
            (round_trip(Durability::ALL), "flushed, cached"),
            (round_trip(Severity::ALL), "note, warning, error"),
            (round_trip(Format::ALL), "raw"),
            #[cfg(feature = "digest")]
            (round_trip(DigestAlgorithm::ALL), "sha256, blake3"),
            #[cfg(feature = "iso")]
            (round_trip(Namespace::ALL), "auto, rock-ridge, joliet, iso, udf"),
            #[cfg(feature = "iso")]
            (round_trip(RockRidge::ALL), "rationalized, preserved"),
            #[cfg(feature = "iso")]
            (round_trip(Joliet::ALL), "standard, long"),
            #[cfg(feature = "iso")]
            (round_trip(Level::ALL), "1, 2, 3"),
            #[cfg(feature = "iso")]
            (round_trip(Emulation::ALL), "none, floppy, hard-disk"),
            #[cfg(feature = "iso")]
            (round_trip(&[Session::Last, Session::First, Session::At(17)]), "last, first, the"),
        ] {
            assert!(error.contains("no such word") && error.contains(words), "{error}");
        }
        let sizes = [NewSize::Bytes(512), NewSize::Grow(1 << 30), NewSize::Shrink(7)];
        assert!(round_trip(&sizes).contains("+ or -"));
    }
}
