//! The one error type: a small stable kind, and the context that a person
//! needs to act on it.

use crate::host::output::OutputError;
use std::borrow::Cow;
use std::fmt;
use std::io;
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

    /// [`ErrorKind::Limit`].
    pub fn limit(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Limit, message)
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

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
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

    /// What the operating system said.
    pub fn io_error(&self) -> Option<&io::Error> {
        self.0.source.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = &*self.0;
        if let Some(path) = &parts.path {
            write!(f, "{}: ", printable(&path.to_string_lossy()))?;
        }
        match (&parts.structure, parts.offset) {
            (Some(structure), Some(offset)) => write!(f, "{structure} at offset {offset:#x}: ")?,
            (Some(structure), None) => write!(f, "{structure}: ")?,
            (None, Some(offset)) => write!(f, "at offset {offset:#x}: ")?,
            (None, None) => {}
        }
        f.write_str(&printable(&parts.message))?;
        if let Some(source) = &parts.source {
            let text = source.to_string();
            // The number says nothing to a person, and programs have `io_error`.
            let text = text.rsplit_once(" (os error ").map_or(&*text, |(words, _)| words);
            write!(f, ": {text}")?;
        }
        if let Some(hint) = &parts.hint {
            write!(f, " ({})", printable(hint))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What `main` prints for an error that it returns: for people, too.
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind).field("message", &self.to_string()).finish()
    }
}

/// Messages quote names out of images; a terminal must not obey them.
fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
            .collect::<String>()
            .into()
    } else {
        text.into()
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
    fn control_characters_from_an_image_are_escaped() {
        let error = Error::refused("backing file '\u{1b}[2Jx'");
        assert_eq!(error.to_string(), "backing file '\\u{1b}[2Jx'");
    }
}
