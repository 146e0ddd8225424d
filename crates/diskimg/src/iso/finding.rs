//! Findings: damage to an image, found by tolerant reading and by `verify`.

use crate::error::{Error, Result};
use crate::remedy::Remedy;
use crate::report::finding::Severity;
use crate::report::printable::printable;
use serde::Serialize;
use std::fmt;

/// Kind of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FindingCode {
    /// The two halves of a both-endian field differ (ECMA-119, 7.2.3, 7.3.3).
    EndianMismatch,
    /// A volume descriptor is invalid.
    Descriptor,
    /// The volume descriptors do not end with a terminator.
    NoTerminator,
    /// The volume or a directory extends beyond the end of the image.
    Truncated,
    /// A path table does not match the directories.
    PathTable,
    /// A directory record is invalid.
    DirectoryRecord,
    /// A directory cannot be read.
    Directory,
    /// A directory is reached by more than one path, or is contained in itself.
    DirectoryLoop,
    /// A name is invalid: it is empty, contains `/` or NUL, or is `.` or `..`.
    Name,
    /// A name occurs twice in its directory.
    DuplicateName,
    /// The records of a directory are not in order (ECMA-119, 9.3).
    Order,
    /// A system use entry is invalid (SUSP).
    SystemUse,
    /// A Rock Ridge entry is invalid (RRIP).
    RockRidge,
    /// A CL entry does not refer to a directory (RRIP, 4.1.5).
    Relocation,
    /// An extent of a file is not within the image.
    Extent,
    /// A file extends beyond the end of the volume, but is within the image.
    BeyondVolume,
    /// A zisofs file cannot be decompressed.
    Zisofs,
    /// The boot catalog is invalid (El Torito).
    BootCatalog,
    /// The MBR, the GPT or the Apple partition map is invalid.
    Partitions,
    /// A UDF structure is invalid.
    Udf,
    /// The namespaces do not contain the same files.
    Namespaces,
    /// A limit was exceeded; the rest was not checked.
    Limit,
}

/// A finding about an ISO image.
pub type Finding = crate::Finding<FindingCode>;

impl Finding {
    /// Converts the finding to an error.
    pub(crate) fn into_error(self) -> Error {
        let error = Error::corrupt("ISO image", self.message);
        match self.offset {
            Some(offset) => error.at(offset),
            None => error,
        }
    }
}

impl fmt::Display for Finding {
    /// Formats as `/PATH: MESSAGE (at offset N)`, on one line.
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

/// How findings are handled while an image is read.
pub(crate) enum Findings<'a> {
    /// Findings are ignored, and reading continues.
    Ignored,
    /// The first finding that is not a note ends reading with an error.
    Strict,
    /// The first finding of severity [`Error`](Severity::Error) is stored, and reading continues.
    FirstError(&'a mut Option<Finding>),
    /// Findings are passed to a callback, and reading continues.
    Reported(&'a mut dyn FnMut(Finding)),
}

impl Findings<'_> {
    /// Reports a finding. `finding` is not called if findings are ignored.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if reading is strict.
    pub(crate) fn report(&mut self, finding: impl FnOnce() -> Finding) -> Result<()> {
        match self {
            Self::Ignored => Ok(()),
            Self::Strict => match finding() {
                Finding { severity: Severity::Note, .. } => Ok(()),
                finding => Err(finding.into_error().with_remedy(Remedy::TolerateDamage)),
            },
            Self::FirstError(first) => {
                if first.is_none() {
                    **first = Some(finding()).filter(|finding| finding.severity == Severity::Error);
                }
                Ok(())
            }
            Self::Reported(callback) => {
                callback(finding());
                Ok(())
            }
        }
    }

    /// Reports a warning that data was skipped because `found` exceeds the limit `name`.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if reading is strict.
    pub(crate) fn over_limit(
        &mut self,
        offset: u64,
        name: &'static str,
        found: &str,
        limit: u64,
    ) -> Result<()> {
        let error = || Error::over_limit(name, found, limit);
        match self {
            Self::Strict => Err(error().at(offset)),
            _ => self.warn(FindingCode::Limit, offset, || error().without_remedy()),
        }
    }

    /// Reports a warning.
    ///
    /// # Errors
    /// As [`report`](Self::report).
    pub(crate) fn warn(
        &mut self,
        code: FindingCode,
        offset: u64,
        message: impl FnOnce() -> String,
    ) -> Result<()> {
        match self {
            // A warning is not an error.
            Self::FirstError(_) => Ok(()),
            _ => self.report(|| Finding::new(code, Severity::Warning, message()).at(offset)),
        }
    }
}
