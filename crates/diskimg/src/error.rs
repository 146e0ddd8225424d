//! The one error type: a small stable kind, and the context that a person
//! needs to act on it.

use crate::report::printable::printable;
use crate::storage::output::OutputError;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of trouble it is: what a program decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused or failed; see [`Error::io_error`].
    Io,
    /// The image contradicts itself, its specification or its own length.
    Corrupt,
    /// The image is right but asks for something that is not implemented.
    Unsupported,
    /// A policy said no: a reference to another file, overwriting the source.
    Refused,
    /// A stated limit would be exceeded.
    Limit,
    /// The caller asked for something impossible: a bad option, a range behind the end.
    Invalid,
    /// The caller asked to stop.
    Cancelled,
}

/// An error with its context: path, structure, host offset, what to do.
///
/// `Display` gives one line: `PATH: STRUCTURE at offset N: WHAT (HINT)`.
#[derive(thiserror::Error)]
pub struct Error(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: ErrorKind,
    path: Option<PathBuf>,
    structure: Option<Cow<'static, str>>,
    offset: Option<u64>,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    limit: Option<&'static str>,
    lost: Option<Range<u64>>,
    source: Option<io::Error>,
}

impl Error {
    /// An error of the given kind. `message` says what was found and what was allowed.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts {
            kind,
            path: None,
            structure: None,
            offset: None,
            message: message.into(),
            hint: None,
            limit: None,
            lost: None,
            source: None,
        }))
    }

    /// [`ErrorKind::Corrupt`], in the named structure ("L1 table", "header").
    pub fn corrupt(
        structure: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::Corrupt, message).in_structure(structure)
    }

    /// [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// [`ErrorKind::Refused`].
    pub fn refused(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// [`ErrorKind::Limit`] that nobody can raise: a format's own, or one of what is written.
    /// What an image may demand is bounded by [`Limits`](crate::Limits).
    pub fn limit(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// [`ErrorKind::Limit`]: `found` ("a grain directory of 40 bytes") is more than `most`, which
    /// the field `name` of [`Limits`](crate::Limits) says.
    pub(crate) fn over_limit(name: &'static str, found: impl fmt::Display, most: u64) -> Self {
        debug_assert!(crate::Limits::names().contains(&name), "{name} is no limit");
        let mut error = Self::limit(format!("{found}; the limit {name} is {most}"));
        error.0.limit = Some(name);
        error.hint(format!(
            "to raise it: --limit {name}=N; in Rust Limits::{name}, in Python limits={{\"{name}\": N}}"
        ))
    }

    /// [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// [`ErrorKind::Cancelled`].
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "stopped on request")
    }

    /// [`ErrorKind::Io`]: `doing` says what was attempted ("cannot open").
    /// Running off the end of a file while reading an image's structure, or a
    /// stream that does not decode, is the image's fault:
    /// [`ErrorKind::Corrupt`].
    pub fn io(doing: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        // One of ours, which had to pass as the system's: it says more than we could.
        let source = match source.downcast::<Self>() {
            Ok(error) => return error,
            Err(source) => source,
        };
        let kind = match source.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => ErrorKind::Corrupt,
            _ => ErrorKind::Io,
        };
        let mut error = Self::new(kind, doing);
        error.0.source = Some(source);
        error
    }

    /// Trouble with one of an output's files, which is named; `doing` as for
    /// [`io`](Self::io).
    pub(crate) fn output(doing: impl Into<Cow<'static, str>>, trouble: OutputError) -> Self {
        let OutputError { path, error, refused, hint } = trouble;
        let mut named = match refused {
            true => Self::refused(error.to_string()),
            false => Self::io(doing, error),
        };
        named.0.path = path;
        named.0.hint = hint;
        named
    }

    /// Names the structure of the image, unless one is named already.
    #[must_use]
    pub fn in_structure(mut self, structure: impl Into<Cow<'static, str>>) -> Self {
        self.0.structure.get_or_insert_with(|| structure.into());
        self
    }

    /// Gives the host offset (bytes from the start of the file), unless there is one already.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Names the file, unless one is named already.
    #[must_use]
    pub fn in_file(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_owned());
        self
    }

    /// All of these guest bytes are lost for this one reason; what lies around
    /// them need not be. Unless it is said already.
    #[must_use]
    pub fn losing(mut self, guest: Range<u64>) -> Self {
        self.0.lost.get_or_insert(guest);
        self
    }

    /// The same in the terms of a whole, of which the layer's guest bytes from
    /// `from` on are a part that starts at `at`.
    #[must_use]
    pub(crate) fn moved(mut self, from: u64, at: u64) -> Self {
        let moved = |offset: u64| offset.saturating_sub(from).saturating_add(at);
        self.0.lost = self.0.lost.map(|lost| moved(lost.start)..moved(lost.end));
        self
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Says more for a person, before the hint that there is.
    #[must_use]
    pub(crate) fn remark(self, text: String) -> Self {
        match self.0.hint.clone() {
            Some(hint) => self.hint(format!("{text}; {hint}")),
            None => self.hint(text),
        }
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file concerned.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The image's structure concerned ("L2 table").
    pub fn structure(&self) -> Option<&str> {
        self.0.structure.as_deref()
    }

    /// The host offset concerned, in bytes.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The field of [`Limits`](crate::Limits) that would be exceeded, for a limit that can be raised.
    pub fn exceeded(&self) -> Option<&'static str> {
        self.0.limit
    }

    /// The guest bytes of the layer concerned that are lost as a whole, where
    /// that is known.
    pub fn lost(&self) -> Option<Range<u64>> {
        self.0.lost.clone()
    }

    /// The system failed, not the image: what is behind this error is not known, and must not
    /// be taken for damage that can be made up for.
    pub(crate) fn is_of_storage(&self) -> bool {
        self.io_error().is_some_and(|error| error.raw_os_error().is_some())
    }

    /// What the operating system said.
    pub fn io_error(&self) -> Option<&io::Error> {
        self.0.source.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Any part of it may quote the image.
        f.write_str(&printable(&self.line()))
    }
}

impl Error {
    fn line(&self) -> String {
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
        if let Some(source) = &parts.source {
            let text = source.to_string();
            // The number says nothing to a person, and programs have `io_error`.
            let text = text.rsplit_once(" (os error ").map_or(&*text, |(words, _)| words);
            line += &format!(": {text}");
        }
        if let Some(hint) = &parts.hint {
            line += &format!(" ({hint})");
        }
        line
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What `main` prints for an error that it returns: for people, too.
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind).field("message", &self.to_string()).finish()
    }
}

/// Adds context where an error passes by.
pub(crate) trait Context<T> {
    /// Names the file.
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
    fn one_line_says_file_structure_offset_what_and_what_to_do() {
        let error = Error::corrupt("L1 table", "entry 3 points behind the end of the file")
            .at(0x30000)
            .in_file("a.qcow2")
            .hint("the file may be truncated");
        assert_eq!(
            error.to_string(),
            "a.qcow2: L1 table at offset 0x30000: entry 3 points behind the end of the file \
             (the file may be truncated)"
        );
    }

    #[test]
    fn control_characters_from_an_image_are_escaped_wherever_they_stand() {
        let bad = || "\u{1b}[2Jx\u{202e}";
        let error = Error::refused(bad()).in_structure(bad()).in_file(bad()).hint(bad());
        let good = "\\u{1b}[2Jx\\u{202e}";
        assert_eq!(error.to_string(), format!("{good}: {good}: {good} ({good})"));
        let error = Error::io("cannot open", io::Error::other(bad()));
        assert_eq!(error.to_string(), format!("cannot open: {good}"));
    }
}
