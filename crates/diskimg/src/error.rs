//! The error type.

use crate::remedy::Remedy;
use crate::report::printable::printable;
use crate::storage::locking::LockConflict;
use crate::storage::output::{Output, OutputError};
use crate::storage::source::{SourceError, is_transient};
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Result type of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Kind of an error, by which programs can handle it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An I/O error of the operating system; see [`Error::io_error`].
    Io,
    /// The storage could not be reached, was busy, or took too long. Trying again later may
    /// succeed.
    Transient,
    /// The image is damaged: it is inconsistent, truncated, or violates its specification.
    Corrupt,
    /// The image is valid but uses a feature that is not supported.
    Unsupported,
    /// A policy forbids it, such as a reference to another file or overwriting the source.
    Refused,
    /// A limit is exceeded.
    Limit,
    /// The caller passed an invalid argument, such as an unknown option or a range beyond the end.
    Invalid,
    /// Another process uses the file in a way that conflicts: a virtual machine that writes to it,
    /// for example.
    Locked,
    /// The caller cancelled the operation.
    Cancelled,
}

/// An error with its context: path, structure, host offset, hint and remedy.
///
/// `Display` writes one line: `PATH: STRUCTURE at offset N: MESSAGE (HINT; REMEDY)`. The underlying
/// I/O error, if there is one, is the [`source`](std::error::Error::source). A program that reports
/// an error with all its sources would print its text twice if the line contained it. Therefore
/// only the alternate form (`{:#}`) contains it, after the message, as do
/// [`describe`](Self::describe) and `Debug`.
pub struct Error(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: ErrorKind,
    path: Option<PathBuf>,
    structure: Option<Cow<'static, str>>,
    offset: Option<u64>,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    remedy: Option<Remedy>,
    lost: Option<Range<u64>>,
    source: Option<io::Error>,
}

impl Error {
    /// Creates an error. `message` should state what was found and what was expected.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts {
            kind,
            path: None,
            structure: None,
            offset: None,
            message: message.into(),
            hint: None,
            remedy: None,
            lost: None,
            source: None,
        }))
    }

    /// Creates an [`ErrorKind::Corrupt`] for a structure of the image ("L1 table", "header").
    pub fn corrupt(
        structure: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::Corrupt, message).in_structure(structure)
    }

    /// Creates an [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Creates an [`ErrorKind::Refused`].
    pub fn refused(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// Creates an [`ErrorKind::Limit`] for a limit that cannot be raised, such as a limit of a
    /// format. (Errors for [`Limits`](crate::Limits) have a [remedy](Self::remedy).)
    pub fn limit(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// Creates an [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Creates an [`ErrorKind::Cancelled`].
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "stopped on request")
    }

    /// Creates an error from an error of storage. `message` states which operation failed ("cannot
    /// open").
    ///
    /// The kind is [`ErrorKind::Io`], with these exceptions: [`SourceError::OutOfRange`] (the
    /// image is truncated) and [`SourceError::Damaged`] become [`ErrorKind::Corrupt`],
    /// [`SourceError::Transient`] and an error of a lost or slow connection become
    /// [`ErrorKind::Transient`], and a [`LockConflict`] becomes [`ErrorKind::Locked`]. If `source`
    /// wraps an [`Error`], returns that error.
    pub fn io(message: impl Into<Cow<'static, str>>, source: impl Into<io::Error>) -> Self {
        // An error of this library that was returned through an io::Error has more context.
        let source = match source.into().downcast::<Self>() {
            Ok(error) => return error,
            Err(source) => source,
        };
        let (kind, source) = match source.downcast::<SourceError>() {
            Ok(SourceError::Storage(inner)) => return Self::io(message, inner),
            Ok(SourceError::Transient(inner)) => match inner.downcast::<Self>() {
                Ok(error) => return error,
                Err(inner) => (ErrorKind::Transient, inner),
            },
            Ok(SourceError::Damaged(inner)) => (ErrorKind::Corrupt, inner),
            Ok(out_of_range) => (ErrorKind::Corrupt, out_of_range.into()),
            Err(source) => match SourceError::find(&source) {
                Some(SourceError::Transient(_)) => (ErrorKind::Transient, source),
                Some(SourceError::OutOfRange { .. } | SourceError::Damaged(_)) => {
                    (ErrorKind::Corrupt, source)
                }
                None if is_transient(source.kind()) => (ErrorKind::Transient, source),
                _ => (ErrorKind::Io, source),
            },
        };
        if let Some(conflict) = source.get_ref().and_then(|inner| inner.downcast_ref()) {
            let conflict: &LockConflict = conflict;
            let hint = match conflict.holder() {
                Some(holder) => {
                    format!(
                        "another process, {} ({}), is using the file",
                        holder.pid, holder.command
                    )
                }
                None => "another process is using the file".into(),
            };
            return Self::new(ErrorKind::Locked, conflict.to_string()).hint(hint);
        }
        let mut error = Self::new(kind, message);
        error.0.source = Some(source);
        error
    }

    /// Creates an error from one that occurred while data of the image was decoded. The kind is
    /// [`ErrorKind::Corrupt`], unless the storage failed: then as for [`io`](Self::io).
    pub(crate) fn decode(message: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        // An error of this library says itself what it is.
        let source = match source.downcast::<Self>() {
            Ok(error) => return error,
            Err(source) => source,
        };
        let of_storage = source.raw_os_error().is_some() || SourceError::find(&source).is_some();
        let mut error = Self::io(message, source);
        if !of_storage && error.kind() == ErrorKind::Io {
            error.0.kind = ErrorKind::Corrupt;
        }
        error
    }

    /// Converts an error of an output. `message` is the same as for [`io`](Self::io).
    pub(crate) fn output(message: impl Into<Cow<'static, str>>, error: OutputError) -> Self {
        let OutputError { path, error, refused, hint } = error;
        let mut converted = match refused {
            true => Self::refused(error.to_string()),
            false => Self::io(message, error),
        };
        converted.0.path = path;
        converted.0.hint = hint;
        converted
    }

    /// Adds what the operation on `output` lost by failing.
    pub(crate) fn with_loss_of(self, output: &Output) -> Self {
        match output.loss() {
            Some(loss) => self.prepend_hint(loss),
            None => self,
        }
    }

    /// Sets the structure of the image, unless one is set.
    #[must_use]
    pub fn in_structure(mut self, structure: impl Into<Cow<'static, str>>) -> Self {
        self.0.structure.get_or_insert_with(|| structure.into());
        self
    }

    /// Sets the host offset in bytes from the start of the file, unless one is set.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Sets the path of the file, unless one is set.
    #[must_use]
    pub fn in_file(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_owned());
        self
    }

    /// Sets the range of guest bytes that cannot be read because of this error, unless one is set.
    /// Bytes outside the range may be readable.
    #[must_use]
    pub fn losing(mut self, guest: Range<u64>) -> Self {
        self.0.lost.get_or_insert(guest);
        self
    }

    /// Clips the range of lost guest bytes to `range`.
    #[must_use]
    pub(crate) fn losing_within(mut self, range: &Range<u64>) -> Self {
        let clip = |offset: u64| offset.clamp(range.start, range.end);
        self.0.lost = self.0.lost.map(|lost| clip(lost.start)..clip(lost.end));
        self
    }

    /// Translates the range of lost guest bytes from a part to the whole: offset `from` of the part
    /// is offset `at` of the whole.
    #[must_use]
    pub(crate) fn moved(mut self, from: u64, at: u64) -> Self {
        let moved = |offset: u64| offset.saturating_sub(from).saturating_add(at);
        self.0.lost = self.0.lost.map(|lost| moved(lost.start)..moved(lost.end));
        self
    }

    /// Sets the hint: what the user can do about the error.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Returns the hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Adds text before the hint.
    #[must_use]
    pub(crate) fn prepend_hint(self, text: String) -> Self {
        match self.0.hint.clone() {
            Some(hint) => self.hint(format!("{text}; {hint}")),
            None => self.hint(text),
        }
    }

    /// Adds text before the message.
    #[must_use]
    pub(crate) fn prefixed(mut self, text: &str) -> Self {
        self.0.message = format!("{text}: {}", self.0.message).into();
        self
    }

    /// Removes the lost range, where its offsets do not apply.
    pub(crate) fn clear_lost(mut self) -> Self {
        self.0.lost = None;
        self
    }

    /// Removes the remedy, where it does not apply.
    #[must_use]
    pub(crate) fn clear_remedy(mut self) -> Self {
        self.0.remedy = None;
        self
    }

    /// Sets the remedy: what the caller can change so that the operation succeeds.
    #[must_use]
    pub fn with_remedy(mut self, remedy: Remedy) -> Self {
        self.0.remedy = Some(remedy);
        self
    }

    /// Returns the text of [`describe`](Self::describe) without the remedy, for findings, which are
    /// not tied to a front end.
    pub(crate) fn without_remedy(&self) -> String {
        self.describe(|_| None)
    }

    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the path of the file.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Returns the structure of the image ("L2 table").
    pub fn structure(&self) -> Option<&str> {
        self.0.structure.as_deref()
    }

    /// Returns the host offset in bytes.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// Returns the name of the field of [`Limits`](crate::Limits) that is exceeded, if the limit
    /// can be raised.
    pub fn exceeded(&self) -> Option<&'static str> {
        match self.0.remedy {
            Some(Remedy::RaiseLimit(name)) => Some(name),
            _ => None,
        }
    }

    /// Returns what the caller can change so that the operation succeeds, if known.
    pub fn remedy(&self) -> Option<Remedy> {
        self.0.remedy
    }

    /// Returns the error in one line, with the text of the underlying I/O error and with the remedy
    /// formatted by `word`. If `word` returns `None`, the remedy is omitted.
    ///
    /// ```
    /// # use diskimg::{Image, Remedy};
    /// # let error = diskimg::Limits::default().set("none", 1).unwrap_err();
    /// let text = error.describe(|remedy| match remedy {
    ///     Remedy::RaiseLimit(name) => Some(format!("--limit {name}=N raises the limit")),
    ///     other => Some(other.to_string()),
    /// });
    /// # assert_eq!(text, format!("{error:#}"));
    /// ```
    pub fn describe(&self, word: impl FnOnce(Remedy) -> Option<String>) -> String {
        // Any part may contain text from an untrusted image.
        printable(&self.line(true, word)).into_owned()
    }

    /// Returns the range of guest bytes of the layer that cannot be read because of this error, if
    /// known.
    pub fn lost(&self) -> Option<Range<u64>> {
        self.0.lost.clone()
    }

    /// Returns true for an error of the storage, which does not mean that the image is damaged.
    pub(crate) fn is_storage_failure(&self) -> bool {
        matches!(self.kind(), ErrorKind::Io | ErrorKind::Transient)
    }

    /// Returns the underlying I/O error.
    pub fn io_error(&self) -> Option<&io::Error> {
        self.0.source.as_ref()
    }
}

/// For a source that interprets the bytes of another one, such as an image that is read like a file.
/// [`Error::io`] restores the error.
impl From<Error> for SourceError {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Transient => Self::Transient(io::Error::other(error)),
            _ => Self::Storage(io::Error::other(error)),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.line(f.alternate(), |remedy| Some(remedy.to_string()))))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.io_error().map(|error| error as _)
    }
}

impl Error {
    fn line(&self, with_source: bool, word: impl FnOnce(Remedy) -> Option<String>) -> String {
        let parts = &*self.0;
        let mut line = String::new();
        if let Some(path) = &parts.path {
            line += &format!("{}: ", path.display());
        }
        line += &match (&parts.structure, parts.offset) {
            (Some(structure), Some(offset)) => format!("{structure} at offset {offset:#x}: "),
            (Some(structure), None) => format!("{structure}: "),
            (None, Some(offset)) => format!("at offset {offset:#x}: "),
            (None, None) => String::new(),
        };
        line += &parts.message;
        if let Some(source) = parts.source.as_ref().filter(|_| with_source) {
            let text = source.to_string();
            // The number is not useful to people, and programs can use `io_error`.
            let text = text.rsplit_once(" (os error ").map_or(&*text, |(words, _)| words);
            line += &format!(": {text}");
        }
        let remedy = parts.remedy.and_then(word);
        let advice: Vec<&str> =
            parts.hint.as_deref().into_iter().chain(remedy.as_deref()).collect();
        if !advice.is_empty() {
            line += &format!(" ({})", advice.join("; "));
        }
        line
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `main` prints an error that it returns with `Debug`, so make it readable.
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind).field("message", &format!("{self:#}")).finish()
    }
}

/// Adds context to the error of a result.
pub(crate) trait Context<T> {
    /// Sets the path of the file, unless one is set or `path` is `None`.
    fn in_file(self, path: Option<&Path>) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn in_file(self, path: Option<&Path>) -> Result<T> {
        self.map_err(|e| match path {
            Some(path) => e.in_file(path),
            None => e,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_writes_path_structure_offset_message_and_hint_in_one_line() {
        let error = Error::corrupt("L1 table", "entry 3 points beyond the end of the file")
            .at(0x30000)
            .in_file("a.qcow2")
            .hint("the file may be truncated");
        assert_eq!(
            error.to_string(),
            "a.qcow2: L1 table at offset 0x30000: entry 3 points beyond the end of the file \
             (the file may be truncated)"
        );
    }

    #[test]
    fn control_characters_are_escaped_in_every_part() {
        let bad = || "\u{1b}[2Jx\u{202e}";
        let error = Error::refused(bad()).in_structure(bad()).in_file(bad()).hint(bad());
        let good = "\\u{1b}[2Jx\\u{202e}";
        assert_eq!(error.to_string(), format!("{good}: {good}: {good} ({good})"));
        let error = Error::io("cannot open", io::Error::other(bad()));
        assert_eq!(format!("{error:#}"), format!("cannot open: {good}"));
    }

    #[test]
    fn a_chain_of_errors_contains_each_text_once() {
        let missing = std::fs::File::open("missing/disk.img").expect_err("does not exist");
        let (code, text) = (missing.raw_os_error(), missing.to_string());
        let error = Error::io("cannot open", missing).in_file("disk.img").hint("try another");
        let first: &(dyn std::error::Error + 'static) = &error;
        let chain: Vec<_> = std::iter::successors(Some(first), |error| error.source()).collect();
        let texts: Vec<_> = chain.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["disk.img: cannot open (try another)", &text]);
        let source = chain[1].downcast_ref::<io::Error>().expect("an I/O error");
        assert_eq!(source.raw_os_error(), code);
        let words = text.split(" (os error").next().expect("text");
        assert_eq!(format!("{error:#}"), format!("disk.img: cannot open: {words} (try another)"));

        // In an I/O error, as a reader of the guest's bytes returns it.
        let wrapped = io::Error::other(error);
        assert_eq!(wrapped.to_string(), texts[0]);
        let source = std::error::Error::source(&wrapped).expect("the same source");
        assert_eq!(source.to_string(), text);
    }
}
