//! Findings of operations.

#[cfg(feature = "serde")]
use serde::Serialize;

#[cfg(feature = "inspect")]
/// Declares an enum of codes with documentation, name and severity.
macro_rules! finding_codes {
    (
        $(#[doc = $about:literal])+ $type:ident, $what:literal;
        $($(#[doc = $doc:literal])+ $code:ident = $name:literal, $severity:ident;)+
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $type { $($(#[doc = $doc])+ $code,)+ }

        impl $type {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$code,)+];

            /// Returns the name, in kebab case.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$code => $name,)+ }
            }

            /// Returns the severity of findings with this code, unless the operation lowers it.
            pub const fn severity(self) -> $crate::Severity {
                match self { $(Self::$code => $crate::Severity::$severity,)+ }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::Error;

            fn from_str(name: &str) -> $crate::Result<Self> {
                Self::ALL.iter().copied().find(|code| code.name() == name).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|code| code.name()).collect();
                    $crate::Error::invalid(format!(concat!("unknown ", $what, " '{}'"), name))
                        .hint(format!(concat!("known ", $what, "s: {}"), known.join(", ")))
                })
            }
        }

        #[cfg(test)]
        mod codes {
            #[test]
            fn every_code_has_a_unique_name_that_parses_to_it() {
                type Code = super::$type;
                for (i, code) in Code::ALL.iter().enumerate() {
                    assert_eq!(code.name().parse::<Code>().expect("parses"), *code);
                    let others = &Code::ALL[..i];
                    assert!(others.iter().all(|other| other.name() != code.name()), "{code}");
                }
                assert!("no-such-code".parse::<Code>().is_err());
            }
        }
    };
}
#[cfg(feature = "inspect")]
pub(crate) use finding_codes;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Severity {
    /// For information; all readers handle it.
    Note,
    /// Some readers may not handle it, or space is wasted.
    Warning,
    /// Data is or may become corrupt, something cannot be read, or the image is unsafe.
    Error,
}

/// A finding of an operation about an image. `C` is the type of the operation's codes:
/// [`check::Code`](crate::check::Code), [`inspection::Code`](crate::inspection::Code),
/// [`preflight::Code`](crate::preflight::Code) or [`iso::FindingCode`](crate::iso::FindingCode).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[non_exhaustive]
pub struct Finding<C> {
    /// Code, for programs.
    pub code: C,
    /// Severity.
    pub severity: Severity,
    /// One-line description, for people. May contain text from the image: see
    /// [`printable`](crate::printable()).
    pub message: String,
    /// Host offset in bytes from the start of the file, if the finding has one.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub offset: Option<u64>,
    /// Path of the file inside the image (a member of an archive, a file of an ISO file system), if
    /// the finding is about one. Bytes that are not UTF-8 are replaced with U+FFFD.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub path: Option<String>,
}

impl<C> Finding<C> {
    pub(crate) fn new(code: C, severity: Severity, message: impl Into<String>) -> Self {
        Self { code, severity, message: message.into(), offset: None, path: None }
    }

    /// Sets the offset, unless there is one already.
    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.offset.get_or_insert(offset);
        self
    }

    /// Sets the path, unless there is one already.
    pub(crate) fn of(mut self, path: &[u8]) -> Self {
        self.path.get_or_insert_with(|| String::from_utf8_lossy(path).into_owned());
        self
    }
}
