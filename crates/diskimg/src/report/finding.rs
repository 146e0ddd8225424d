//! Findings of operations.

#[cfg(feature = "serde")]
use serde::Serialize;

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
/// [`check::Code`](crate::check::Code), [`inspection::Code`](crate::inspection::Code) or
/// [`iso::FindingCode`](crate::iso::FindingCode).
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
