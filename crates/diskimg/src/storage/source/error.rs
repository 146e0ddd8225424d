//! The errors of sources.

use std::fmt;
use std::io;

/// Why bytes of a source could not be read.
///
/// The kind decides what the error says about the image: only bytes that do not exist, or that cannot
/// be decoded, are damage.
/// Storage that fails, or that cannot be reached now, has no say about the image's contents.
#[derive(Debug)]
#[non_exhaustive]
pub enum SourceError {
    /// The range is not within the source, or the underlying file was truncated.
    OutOfRange {
        /// Start of the range, in bytes.
        offset: u64,
        /// Length of the range, in bytes.
        len: u64,
        /// Length of the source, in bytes.
        source_len: u64,
    },
    /// The storage failed (EIO, for example). Reading again would fail again.
    Storage(io::Error),
    /// The source decodes what is stored, and cannot: a compressed file is damaged there.
    Damaged(io::Error),
    /// The storage could not be reached, was busy, or took too long. Reading again later may
    /// succeed.
    Transient(io::Error),
}

impl SourceError {
    /// Returns true if reading again later may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient(_))
    }

    /// Returns the `SourceError` that `error` wraps, directly or through other errors.
    pub(crate) fn find(error: &io::Error) -> Option<&Self> {
        let mut next = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
        while let Some(inner) = next {
            if let Some(found) = inner.downcast_ref() {
                return Some(found);
            }
            next = match inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(wrapped) => Some(wrapped),
                None => inner.source(),
            };
        }
        None
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { offset, len, source_len } => write!(
                f,
                "{len} bytes at offset {offset} exceed the file length of {source_len} bytes"
            ),
            Self::Storage(error) | Self::Damaged(error) | Self::Transient(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::OutOfRange { .. } => None,
            // `Display` has the text of `error` itself, but callers look for it.
            Self::Storage(error) | Self::Damaged(error) | Self::Transient(error) => Some(error),
        }
    }
}

/// An error of a lost or slow connection becomes [`Transient`](SourceError::Transient), any other
/// one [`Storage`](SourceError::Storage). A `SourceError` that was converted to an [`io::Error`] is
/// restored.
impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(original) => original,
            Err(error) if is_transient(error.kind()) => Self::Transient(error),
            Err(error) => Self::Storage(error),
        }
    }
}

/// Returns true for the kinds of errors of a lost or slow connection.
pub(crate) fn is_transient(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        kind,
        Kind::ConnectionAborted
            | Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::HostUnreachable
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::NotConnected
            | Kind::TimedOut
    )
}

impl From<io::ErrorKind> for SourceError {
    fn from(kind: io::ErrorKind) -> Self {
        io::Error::from(kind).into()
    }
}

/// [`OutOfRange`](SourceError::OutOfRange) becomes [`io::ErrorKind::UnexpectedEof`]; the other
/// errors keep their kind. [`From<io::Error>`](SourceError::from) restores the `SourceError`.
impl From<SourceError> for io::Error {
    fn from(error: SourceError) -> Self {
        let kind = match &error {
            SourceError::OutOfRange { .. } => io::ErrorKind::UnexpectedEof,
            SourceError::Storage(inner)
            | SourceError::Damaged(inner)
            | SourceError::Transient(inner) => inner.kind(),
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converting_to_an_io_error_and_back_keeps_the_kind() {
        let out_of_range = SourceError::OutOfRange { offset: 9, len: 2, source_len: 10 };
        let lost = io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed");
        let eio = io::Error::from_raw_os_error(5);
        let errors = [out_of_range, SourceError::Transient(lost), SourceError::Storage(eio)];
        for error in errors {
            let text = error.to_string();
            let kind = std::mem::discriminant(&error);
            let back = SourceError::from(io::Error::from(error));
            assert_eq!((back.to_string(), std::mem::discriminant(&back)), (text, kind));
        }
    }

    #[test]
    fn a_wrapped_error_is_found() {
        let busy = SourceError::Transient(io::Error::other("busy"));
        let outer = io::Error::other(io::Error::from(busy));
        assert!(SourceError::find(&outer).expect("is wrapped").is_transient());
        assert!(SourceError::find(&io::Error::other("damaged")).is_none());
    }
}
