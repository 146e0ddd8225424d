//! The result of a consistency check.

use crate::report::finding::Severity;
#[cfg(feature = "serde")]
use serde::Serialize;

/// Code of a finding of a consistency check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Code {
    /// Metadata is inconsistent: data is or may become corrupt.
    Corruption,
    /// Allocated space that is not used. Data is not affected.
    Leak,
    /// A part of the image could not be checked.
    CheckError,
}

impl Code {
    const fn severity(self) -> Severity {
        match self {
            Self::Leak => Severity::Warning,
            Self::Corruption | Self::CheckError => Severity::Error,
        }
    }
}

/// A finding of a consistency check.
pub type Finding = crate::Finding<Code>;

impl Finding {
    /// Creates a finding with the severity of its code.
    pub(crate) fn of_check(code: Code, message: String) -> Self {
        Self::new(code, code.severity(), message)
    }
}

/// Counts of a completed check. Serializes with the keys of `qemu-img check --output=json`. Counts
/// of zero are omitted, except `check_errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct CheckReport {
    /// Number of structures that could not be checked.
    pub check_errors: u64,
    /// Host offset of the end of the last allocated cluster, in bytes.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_none_or_zero"))]
    pub image_end_offset: Option<u64>,
    /// Number of inconsistencies.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_zero"))]
    pub corruptions: u64,
    /// Number of allocated clusters without references.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_zero"))]
    pub leaks: u64,
    /// Number of defects that may prevent some programs from reading the image, but do not affect
    /// its data.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_zero"))]
    pub warnings: u64,
    /// Number of findings that were counted, but not reported because there are too many: see
    /// [`Limits::check_findings`](crate::Limits::check_findings).
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_zero"))]
    pub omitted_findings: u64,
    /// Number of clusters of the virtual disk.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_zero"))]
    pub total_clusters: u64,
    /// Number of clusters allocated in the image.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_zero"))]
    pub allocated_clusters: u64,
    /// Number of clusters that do not directly follow the previous cluster in the file.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_zero"))]
    pub fragmented_clusters: u64,
    /// Number of compressed clusters.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_zero"))]
    pub compressed_clusters: u64,
}

impl CheckReport {
    /// Counts a finding.
    pub fn count(&mut self, code: Code) {
        match code {
            Code::Corruption => self.corruptions += 1,
            Code::Leak => self.leaks += 1,
            Code::CheckError => self.check_errors += 1,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_none_or_zero(n: &Option<u64>) -> bool {
    n.is_none_or(|n| n == 0)
}
