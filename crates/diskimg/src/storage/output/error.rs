//! Errors of output files.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An error of one of an output's files.
#[derive(Debug)]
pub struct OutputError {
    pub(crate) path: Option<PathBuf>,
    pub(crate) error: io::Error,
    /// The operation was refused to protect an existing file.
    pub(crate) refused: bool,
    pub(crate) hint: Option<Cow<'static, str>>,
}

/// Result of an operation on an output.
pub type Result<T> = std::result::Result<T, OutputError>;

impl OutputError {
    /// Creates an error that concerns the file at `path`.
    pub fn new(path: Option<PathBuf>, error: io::Error) -> Self {
        Self { path, error, refused: false, hint: None }
    }

    pub(super) fn refused(path: &Path, why: impl Into<String>) -> Self {
        Self {
            path: Some(path.to_owned()),
            error: io::Error::new(io::ErrorKind::PermissionDenied, why.into()),
            refused: true,
            hint: Some("choose another name".into()),
        }
    }

    /// Returns the path of the file; `None` for a writer.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns the error of the system or the reason for the refusal.
    pub fn io_error(&self) -> &io::Error {
        &self.error
    }
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        write!(f, "{}", self.error)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for OutputError {
    // `Display` has the text of `error` itself.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Adds the path of a file to an error.
pub(super) trait Concerning<T> {
    fn concerning(self, path: &Path) -> Result<T>;
}

impl<T> Concerning<T> for io::Result<T> {
    fn concerning(self, path: &Path) -> Result<T> {
        self.map_err(|error| OutputError {
            path: Some(path.to_owned()),
            error,
            refused: false,
            hint: None,
        })
    }
}
