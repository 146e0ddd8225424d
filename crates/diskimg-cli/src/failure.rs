//! Why a command ended early, and what the caller is told.

use diskimg::ErrorKind;
use std::io;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    Usage {
        /// The subcommand, where there is one.
        command: Option<String>,
        /// What is wrong with it.
        message: String,
    },
    /// It could not be done.
    Error {
        /// One line.
        message: String,
        /// The exit code.
        code: u8,
    },
    /// None: the user only wanted to know this, on standard output.
    Show(String),
    /// The user asked to stop.
    Interrupted,
    /// Whoever read our output has gone.
    Hangup,
}

impl Failure {
    /// Exit code 1 with this message.
    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self::Error { message: message.into(), code: 1 }
    }

    /// The same failure under another exit code; a signal and a closed pipe
    /// keep their own.
    pub(crate) fn with_code(self, code: u8) -> Self {
        match self {
            Self::Error { message, .. } => Self::Error { message, code },
            other => other,
        }
    }

    /// The command line of `command` makes no sense.
    pub(crate) fn usage(command: &str, message: impl Into<String>) -> Self {
        Self::Usage { command: Some(command.to_owned()), message: message.into() }
    }

    /// A wrong command line is that of `command`, unless it is said to be another's.
    pub(crate) fn of_command(self, name: Option<&str>) -> Self {
        match self {
            Self::Usage { command: None, message } => {
                Self::Usage { command: name.map(str::to_owned), message }
            }
            other => other,
        }
    }

    /// Part of qemu-img's grammar that this program does not have.
    pub(crate) fn not_supported(what: &str) -> Self {
        Self::error(format!("{what} is not supported"))
    }
}

impl From<diskimg::Error> for Failure {
    fn from(error: diskimg::Error) -> Self {
        let hangup = error.io_error().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
        match error.kind() {
            ErrorKind::Cancelled => Self::Interrupted,
            _ if hangup => Self::Hangup,
            _ => Self::error(error.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    /// Of writing to our own standard output: all other I/O is the library's.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Hangup,
            _ => Self::error(format!("cannot write to standard output: {error}")),
        }
    }
}
