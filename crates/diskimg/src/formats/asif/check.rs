//! Checking the consistency of an ASIF image: each chunk of the file is used once.
//!
//! Chunks that nothing refers to are not reported: which of them an older directory still uses, or
//! macOS has reserved, is not known.

use super::chunks::{Chunks, Entry, Group};
use crate::error::{Error, Result};
use crate::formats::findings::Findings;
use crate::report::check::{CheckReport, Finding};
use crate::storage::number::to_usize;

/// Checks the tables and passes the findings to `report`. At most `max_bytes` of memory are used to
/// record which chunks of the file are in use.
///
/// # Errors
/// None at present: what cannot be read is a finding.
pub(super) fn check(
    chunks: &Chunks,
    max_bytes: u64,
    report: &mut dyn FnMut(Finding),
) -> Result<CheckReport> {
    let mut counts = CheckReport::default();
    let mut findings = Findings { report, counts: &mut counts };
    findings.counts.total_clusters = chunks.count();
    if let Some(other) = &chunks.directory.other {
        findings.corruption(format!("one of the two directories cannot be used: {other}"));
    }
    let bytes = chunks.file_chunks().div_ceil(64).saturating_mul(8);
    if bytes > max_bytes {
        let found = format!("counting the chunks of the file takes {bytes} bytes");
        let outcome: Result<()> = Err(Error::over_limit("check_bytes", found, max_bytes));
        findings.within_limits(outcome);
        return Ok(counts);
    }
    let used = vec![0; to_usize(bytes / 8)];
    let mut check = Check { chunks, findings, used, previous: None };
    for table in 0..chunks.directory.len() {
        if !chunks.directory.is_absent(table) {
            check.table(table);
        }
    }
    Ok(counts)
}

/// A check that is in progress.
struct Check<'a, 'b> {
    chunks: &'a Chunks,
    findings: Findings<'b>,
    /// The chunks of the file that entries refer to, one bit for each.
    used: Vec<u64>,
    /// Chunk of the file in which the chunk before is.
    previous: Option<u64>,
}

impl Check<'_, '_> {
    fn table(&mut self, table: u64) {
        let chunks = self.chunks;
        match chunks.directory.table(table) {
            Ok(Some(host)) => self.ends_at(host),
            Ok(None) => {}
            Err(error) => return self.findings.unreadable(&format!("table {table}"), &error),
        }
        for first in chunks.groups_of(table) {
            match chunks.group(first) {
                Ok(Some(group)) => self.group(&group),
                Ok(None) => {}
                // The other groups of the table are probably beyond the end of the file as well.
                Err(error) => {
                    return self.findings.unreadable(&format!("table {table}"), &error);
                }
            }
        }
    }

    fn group(&mut self, group: &Group) {
        let chunks = self.chunks;
        match chunks.bitmap(group) {
            Ok(Some(host)) => self.refer(host, &format!("the bitmap of chunk {}", group.first)),
            Ok(None) => {}
            Err(error) => {
                self.findings.unreadable(&format!("the bitmap of chunk {}", group.first), &error);
            }
        }
        for chunk in chunks.chunks_of(group) {
            let host = match chunks.entry(group, chunk) {
                Ok(Entry::Absent) => continue,
                Ok(Entry::Full(host) | Entry::Partial(host)) => host,
                Err(error) => {
                    self.findings.unreadable(&format!("chunk {chunk}"), &error);
                    continue;
                }
            };
            self.refer(host, &format!("chunk {chunk}"));
            // Beyond the end of the disk, there is metadata.
            if chunk < chunks.count() {
                self.findings.counts.allocated_clusters += 1;
                let is_apart = self.previous.is_some_and(|previous| previous + 1 != host);
                self.findings.counts.fragmented_clusters += u64::from(is_apart);
                self.previous = Some(host);
                if let Err(error) = chunks.require_readable(group, chunk) {
                    self.findings.unreadable(&format!("chunk {chunk}"), &error);
                }
            }
        }
    }

    /// Records that `what` refers to a chunk of the file.
    fn refer(&mut self, host: u64, what: &str) {
        self.ends_at(host);
        let Some(word) = self.used.get_mut(to_usize(host / 64)) else {
            return; // Beyond the end of the file, which reading it reports.
        };
        let bit = 1 << (host % 64);
        if *word & bit != 0 {
            let message = format!("{what} is in chunk {host} of the file, as another one");
            self.findings.corruption(message);
        }
        *word |= bit;
    }

    fn ends_at(&mut self, host: u64) {
        let end = host.saturating_add(1).saturating_mul(self.chunks.header.chunk_bytes);
        let last = self.findings.counts.image_end_offset.unwrap_or(0);
        self.findings.counts.image_end_offset = Some(last.max(end));
    }
}
