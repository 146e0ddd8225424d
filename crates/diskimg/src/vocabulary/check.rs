//! What a consistency check finds.

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

/// The counts of a finished check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// Places that could not be checked.
    pub check_errors: u64,
    /// Contradictions.
    pub corruptions: u64,
    /// Allocated units that nothing refers to.
    pub leaks: u64,
    /// Host offset behind the last unit in use, in bytes.
    pub image_end_offset: Option<u64>,
    /// Units of the virtual disk.
    pub total_clusters: u64,
    /// Units that the image holds.
    pub allocated_clusters: u64,
    /// Units that do not follow their predecessor on the host.
    pub fragmented_clusters: u64,
    /// Compressed units.
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
