//! What a consistency check finds.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// Data is or may become wrong.
    Corruption,
    /// Space is wasted, no harm to data.
    Leak,
    /// The check itself could not look somewhere.
    CheckError,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What, where: one line.
    pub message: String,
}

/// The counts of a finished check. The serialised form has the keys of
/// `qemu-img check --output=json`; counts that are zero are left out, but for the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    /// Places that could not be checked.
    pub check_errors: u64,
    /// Host offset behind the last unit in use, in bytes.
    #[serde(skip_serializing_if = "is_none_or_zero")]
    pub image_end_offset: Option<u64>,
    /// Contradictions.
    #[serde(skip_serializing_if = "is_zero")]
    pub corruptions: u64,
    /// Allocated units that nothing refers to.
    #[serde(skip_serializing_if = "is_zero")]
    pub leaks: u64,
    /// Units of the virtual disk.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_clusters: u64,
    /// Units that the image holds.
    #[serde(skip_serializing_if = "is_zero")]
    pub allocated_clusters: u64,
    /// Units that do not follow their predecessor on the host.
    #[serde(skip_serializing_if = "is_zero")]
    pub fragmented_clusters: u64,
    /// Compressed units.
    #[serde(skip_serializing_if = "is_zero")]
    pub compressed_clusters: u64,
}

impl CheckReport {
    /// Counts a finding.
    pub fn count(&mut self, severity: Severity) {
        match severity {
            Severity::Corruption => self.corruptions += 1,
            Severity::Leak => self.leaks += 1,
            Severity::CheckError => self.check_errors += 1,
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
