//! Errors and other reasons for a command to end early.

use diskimg::ErrorKind;
use std::io;

/// The reason a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is invalid.
    Usage {
        /// The command, if known.
        command: Option<String>,
        /// One line that describes the error.
        message: String,
    },
    /// The command failed.
    Error {
        /// One line that describes the error.
        message: String,
        /// The exit code.
        code: u8,
    },
    /// Not an error: the arguments request this text on standard output.
    Show(String),
    /// A signal interrupted the command. The message says what was lost.
    Interrupted(Option<String>),
    /// The reader of standard output has closed it.
    Hangup,
}

impl Failure {
    /// Returns an error with exit code 1.
    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self::Error { message: message.into(), code: 1 }
    }

    /// Replaces the exit code of an error; other failures have fixed exit codes.
    pub(crate) fn with_code(self, code: u8) -> Self {
        match self {
            Self::Error { message, .. } => Self::Error { message, code },
            other => other,
        }
    }

    /// Returns an error in the command line of `command`.
    pub(crate) fn usage(command: &str, message: impl Into<String>) -> Self {
        Self::Usage { command: Some(command.to_owned()), message: message.into() }
    }

    /// Sets the command of a usage error that has none.
    pub(crate) fn of_command(self, name: Option<&str>) -> Self {
        match self {
            Self::Usage { command: None, message } => {
                Self::Usage { command: name.map(str::to_owned), message }
            }
            other => other,
        }
    }

    /// Returns the error for an option or command of another program that is not supported.
    pub(crate) fn not_supported(what: &str) -> Self {
        Self::error(format!("{what} is not supported"))
    }
}

impl From<diskimg::Error> for Failure {
    fn from(error: diskimg::Error) -> Self {
        Self::from_error(&error, crate::remedy::message)
    }
}

impl Failure {
    /// The failure for an error of the library, worded by `message`.
    pub(crate) fn from_error(
        error: &diskimg::Error,
        message: fn(&diskimg::Error) -> String,
    ) -> Self {
        let hangup = error.io_error().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
        match error.kind() {
            // A file that could not be replaced has lost its old content.
            ErrorKind::Cancelled if error.hint_text().is_some() => {
                Self::Interrupted(Some(message(error)))
            }
            ErrorKind::Cancelled => Self::Interrupted(None),
            _ if hangup => Self::Hangup,
            _ => Self::error(message(error)),
        }
    }
}

impl From<io::Error> for Failure {
    /// Converts an error of writing to standard output. Errors of other I/O are converted where
    /// they occur.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Hangup,
            _ => Self::error(format!("cannot write to standard output: {error}")),
        }
    }
}
