//! What is found wrong in an image: by who reads it tolerantly, and by `verify`.

use crate::error::{Error, Result};
use crate::report::printable::printable;
use serde::Serialize;
use std::fmt;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Severity {
    /// Against the letter of the specification; every reader gets along with it.
    Note,
    /// Some readers stumble over it.
    Warning,
    /// Something cannot be read, or reads as something else.
    Error,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FindingCode {
    /// The two halves of a both-endian field differ (ECMA-119, 7.2.3, 7.3.3).
    EndianMismatch,
    /// A volume descriptor is not as it should be.
    Descriptor,
    /// No terminator ends the volume descriptors.
    NoTerminator,
    /// The volume is longer than the file.
    Truncated,
    /// A path table does not say what the directories say.
    PathTable,
    /// A directory record is not as it should be.
    DirectoryRecord,
    /// A directory cannot be read.
    Directory,
    /// A directory is reached in more than one way, or lies within itself.
    DirectoryLoop,
    /// A name cannot be used: it is empty, has a `/` or a NUL, or is `.` or `..`.
    Name,
    /// A name occurs twice in its directory.
    DuplicateName,
    /// A directory's records are not in order (ECMA-119, 9.3).
    Order,
    /// A system use entry is not as it should be (SUSP).
    SystemUse,
    /// A Rock Ridge entry is not as it should be (RRIP).
    RockRidge,
    /// A relocated directory is not where it should be (RRIP, 4.1.5).
    Relocation,
    /// A file's bytes lie outside the image.
    Extent,
    /// A file's bytes lie outside the volume, but in the image.
    BehindVolume,
    /// A packed file does not unpack.
    Zisofs,
    /// The boot catalog is not as it should be (El Torito).
    BootCatalog,
    /// The MBR, the GPT or the Apple partition map is not as it should be.
    Partitions,
    /// Something of UDF is not as it should be.
    Udf,
    /// The name spaces do not hold the same files.
    NameSpaces,
    /// A limit was met; what is behind it was not looked at.
    Limit,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What.
    pub code: FindingCode,
    /// How bad.
    pub severity: Severity,
    /// Where, in bytes from the start of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// In which file or directory. Undecodable bytes are shown as U+FFFD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// In words.
    pub message: String,
}

impl Finding {
    pub(crate) fn new(code: FindingCode, severity: Severity, message: impl Into<String>) -> Self {
        Self { code, severity, offset: None, path: None, message: message.into() }
    }

    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.offset.get_or_insert(offset);
        self
    }

    pub(crate) fn of(mut self, path: &[u8]) -> Self {
        self.path.get_or_insert_with(|| String::from_utf8_lossy(path).into_owned());
        self
    }

    /// The same as an error.
    pub(crate) fn into_error(self) -> Error {
        let error = Error::corrupt("ISO image", self.message);
        match self.offset {
            Some(offset) => error.at(offset),
            None => error,
        }
    }
}

impl fmt::Display for Finding {
    /// `/PATH: WHAT (at offset N)`, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        if let Some(path) = &self.path {
            line += &format!("/{path}: ");
        }
        line += &self.message;
        if let Some(offset) = self.offset {
            line += &format!(" (at offset {offset:#x})");
        }
        f.write_str(&printable(&line))
    }
}

/// Who listens to findings while something is read.
pub(crate) enum Findings<'a> {
    /// Nobody: what can be made up for is made up for.
    Ignored,
    /// The first that is no mere note is an error.
    Strict,
    /// Who reads on, but has to know if anything was lost: the first that is an error is kept.
    Lost(&'a mut Option<Finding>),
    /// They are told.
    Told(&'a mut dyn FnMut(Finding)),
}

impl Findings<'_> {
    /// Tells of a finding; made only if somebody listens.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if nothing may be made up for.
    pub(crate) fn tell(&mut self, finding: impl FnOnce() -> Finding) -> Result<()> {
        match self {
            Self::Ignored => Ok(()),
            Self::Strict => match finding() {
                Finding { severity: Severity::Note, .. } => Ok(()),
                finding => Err(finding.into_error().hint("strict reading; others may open it")),
            },
            Self::Lost(lost) => {
                if lost.is_none() {
                    **lost = Some(finding()).filter(|finding| finding.severity == Severity::Error);
                }
                Ok(())
            }
            Self::Told(listener) => {
                listener(finding());
                Ok(())
            }
        }
    }

    /// As [`warn`](Self::warn), of what is left out as `found` is more than the limit `name`.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if nothing may be made up for.
    pub(crate) fn over_limit(
        &mut self,
        offset: u64,
        name: &'static str,
        found: &str,
        most: u64,
    ) -> Result<()> {
        let error = || Error::over_limit(name, found, most);
        match self {
            Self::Strict => Err(error().at(offset)),
            _ => self.warn(FindingCode::Limit, offset, || error().to_string()),
        }
    }

    /// As [`tell`](Self::tell), of a warning.
    pub(crate) fn warn(
        &mut self,
        code: FindingCode,
        offset: u64,
        message: impl FnOnce() -> String,
    ) -> Result<()> {
        match self {
            // Nothing is lost by it.
            Self::Lost(_) => Ok(()),
            _ => self.tell(|| Finding::new(code, Severity::Warning, message()).at(offset)),
        }
    }
}
