//! The result of a consistency check.

use crate::report::finding::Severity;
#[cfg(feature = "serde")]
use serde::Serialize;
use std::fmt;
use std::ops::Range;

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
    /// Contents differ from a digest that the image records of them. Counted as a corruption.
    DigestMismatch,
    /// A digest that the image records cannot be verified, because its algorithm is not known. For
    /// information; not counted.
    DigestNotVerified,
}

impl Code {
    const fn severity(self) -> Severity {
        match self {
            Self::Leak => Severity::Warning,
            Self::Corruption | Self::CheckError | Self::DigestMismatch => Severity::Error,
            Self::DigestNotVerified => Severity::Note,
        }
    }
}

/// What a [`Repair`](crate::Repair) may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RepairScope {
    /// Space that is allocated without being used becomes free.
    Leaks,
    /// All damage is repaired that can be without a choice between guest data.
    All,
}

/// When a [`Repair`](crate::Repair) has found something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RepairStage {
    /// Before the repair.
    Found,
    /// During the repair: it is being repaired.
    Repaired,
    /// After it: it is left.
    Left,
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
    /// Number of inconsistencies that a repair has removed.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_zero"))]
    pub corruptions_fixed: u64,
    /// Number of allocated clusters without references that a repair has made free.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_zero"))]
    pub leaks_fixed: u64,
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
    /// Number of digests that the image records of its contents; `None` if the format has none, or
    /// if the contents were not checked ([`Image::check`](crate::Image::check)).
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub recorded_digests: Option<u64>,
    /// Number of these digests that match the contents.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_zero"))]
    pub verified_digests: u64,
}

impl CheckReport {
    /// Counts a finding.
    pub fn count(&mut self, code: Code) {
        match code {
            Code::Corruption | Code::DigestMismatch => self.corruptions += 1,
            Code::Leak => self.leaks += 1,
            Code::CheckError => self.check_errors += 1,
            Code::DigestNotVerified => {}
        }
    }
}

/// A digest that an image records of its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedDigest {
    /// Name of the structure that records it, for messages. May contain text from the image.
    pub structure: String,
    /// Host offset of the structure in bytes, in the layer's first file.
    pub offset: u64,
    /// The bytes that it is computed of.
    pub contents: DigestedBytes,
    /// The recorded value.
    pub value: DigestValue,
}

impl RecordedDigest {
    pub(crate) fn new(
        structure: impl Into<String>,
        offset: u64,
        contents: DigestedBytes,
        value: DigestValue,
    ) -> Self {
        Self { structure: structure.into(), offset, contents, value }
    }
}

/// The bytes of which a digest is computed, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DigestedBytes {
    /// Ranges of guest offsets, in bytes.
    Guest(Vec<Range<u64>>),
    /// A range of host offsets of one of the layer's files, in bytes: the bytes as they are stored.
    Host {
        /// Index into [`Layer::files`](crate::Layer::files).
        file: usize,
        /// Host offsets.
        range: Range<u64>,
    },
}

/// The value of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DigestValue {
    /// CRC-32 as in gzip and zip.
    Crc32(u32),
    /// MD5 (RFC 1321).
    Md5([u8; 16]),
    /// SHA-1 (FIPS 180-4).
    Sha1([u8; 20]),
}

impl DigestValue {
    /// Returns the name of the algorithm.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Crc32(_) => "CRC-32",
            Self::Md5(_) => "MD5",
            Self::Sha1(_) => "SHA-1",
        }
    }
}

impl fmt::Display for DigestValue {
    /// Writes the value in lower-case hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match self {
            Self::Crc32(crc) => &crc.to_be_bytes()[..],
            Self::Md5(bytes) => bytes,
            Self::Sha1(bytes) => bytes,
        };
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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
