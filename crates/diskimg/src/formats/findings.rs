//! Reporting the findings of a consistency check.

use crate::error::{Error, Result};
use crate::report::check::{CheckReport, Code, Finding};
use crate::report::finding::Severity;

/// Reports findings one by one and counts them.
pub(crate) struct Findings<'a> {
    pub(crate) report: &'a mut dyn FnMut(Finding),
    pub(crate) counts: &'a mut CheckReport,
}

impl Findings<'_> {
    pub(crate) fn found(&mut self, code: Code, message: String) {
        self.counts.count(code);
        (self.report)(Finding::of_check(code, message));
    }

    pub(crate) fn corruption(&mut self, message: String) {
        self.found(Code::Corruption, message);
    }

    /// Reports a defect that does not affect the data.
    pub(crate) fn warning(&mut self, message: String) {
        self.counts.warnings += 1;
        (self.report)(Finding::new(Code::Corruption, Severity::Warning, message));
    }

    /// Reports a structure that cannot be read, because of damage or an I/O error.
    pub(crate) fn unreadable(&mut self, what: &str, error: &Error) {
        let code = if error.is_storage_failure() { Code::CheckError } else { Code::Corruption };
        self.found(code, format!("{what}: {}", error.without_remedy()));
    }

    /// Reports the error of a part of the check that exceeds a limit.
    pub(crate) fn within_limits<T>(&mut self, outcome: Result<T>) -> Option<T> {
        let report = |error: Error| self.found(Code::CheckError, error.without_remedy());
        outcome.map_err(report).ok()
    }
}
