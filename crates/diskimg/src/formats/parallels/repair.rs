//! Repairing an image in place.
//!
//! ```text
//!   damage                                          is repaired so
//!   cluster at the end of the file, cut off         the file becomes longer
//!   entry of the table that is not in the file      see below
//!   entries with the same cluster, if all others    all but the first get copies of it, at the end
//!     are in the file
//!   start of the data area, lost format extension   corrected in the header
//!   not closed                                      closed, without its extension
//!   space at the end of the file that is not used   cut off, if nothing else is wrong
//!
//!   an entry that is not in the file                becomes
//!   it is the only one, no file could have had it,  that place
//!     and one bit differs from the place of exactly
//!     one unused cluster with data
//!   none of the above, and no unused space has      0: nothing can be what it meant
//!     data
//!   none of the above                               left
//! ```
//!
//! Clusters that overlap in part are left. Bundles are not repaired.

mod survey;

use super::SECTOR;
use super::edit::require_writable;
use super::header::{CLOSED, HEADER_BYTES, Header};
use super::layer::Parallels;
use crate::error::{Error, Result};
use crate::model::layer::Layer;
use crate::model::mutable::RepairRequest;
use crate::open::OpenContext;
use crate::report::check::RepairScope;
use crate::storage::edit::{Edit, Edits, Reopened, Storage};
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::sync::Arc;
use survey::Survey;

/// Bytes that are copied together.
const CHUNK: u64 = 1 << 20;

/// Repairs an image that is one file.
pub(super) fn repair(
    storage: &Arc<dyn Storage>,
    context: &OpenContext<'_>,
    request: &mut RepairRequest<'_>,
) -> Result<()> {
    let repair = Repair { storage, context };
    if request.scope == RepairScope::All {
        repair.complete_last_cluster()?;
        repair.restore_entries()?;
        repair.remove_entries()?;
        repair.copy_shared_clusters()?;
    }
    repair.correct_header(request.scope)?;
    repair.cut_off()
}

struct Repair<'a> {
    storage: &'a Arc<dyn Storage>,
    context: &'a OpenContext<'a>,
}

impl Repair<'_> {
    fn open(&self) -> Result<Parallels> {
        Parallels::open(Reopened::of(self.storage), self.context)
    }

    /// Calls `f` with what the table of the image refers to, if it is one file.
    fn survey(&self, f: impl FnOnce(&Survey<'_>) -> Result<()>) -> Result<()> {
        let image = self.open()?;
        match image.single() {
            Some(single) => f(&Survey::of(single, self.context.limits)?),
            None => Ok(()),
        }
    }

    fn apply(&self, phases: impl IntoIterator<Item = Vec<Edit>>) -> Result<()> {
        let mut edits = Edits::new();
        for phase in phases {
            edits.phase(phase);
        }
        edits.apply(&**self.storage).map_err(|e| Error::io("cannot modify the image", e))
    }

    /// Makes the file as long as its last cluster, of which only the first bytes are there. They
    /// are followed by zeros, as QEMU reads them.
    fn complete_last_cluster(&self) -> Result<()> {
        self.survey(|survey| match survey.end_of_last_cluster() {
            Some(end) if !self.storage.has_fixed_len() => self.apply([vec![Edit::SetLen(end)]]),
            _ => Ok(()),
        })
    }

    fn restore_entries(&self) -> Result<()> {
        self.survey(|survey| self.apply([write_entries(survey.restored()?)]))
    }

    fn remove_entries(&self) -> Result<()> {
        self.survey(|survey| self.apply([write_entries(survey.removed()?)]))
    }

    /// Gives each entry its own cluster, with the bytes that it had.
    fn copy_shared_clusters(&self) -> Result<()> {
        self.survey(|survey| {
            let (header, shared) = (survey.header(), survey.shared());
            let cluster = header.cluster_bytes;
            // A table can have entries for much more than can be stored.
            let most = self.storage.current_len() / cluster;
            if !survey.knows_unused()
                || shared.is_empty()
                || to_u64(shared.len()) > most
                || self.storage.has_fixed_len()
            {
                return Ok(());
            }
            let mut end = survey.end_for_clusters(self.storage.current_len());
            let mut entries = Vec::new();
            for (index, start) in shared {
                let Ok(entry) = u32::try_from(end / header.entry_unit()) else { break };
                self.copy(start, end, cluster)?;
                entries.push((index, entry));
                end += cluster;
            }
            let flushed = self.storage.barrier();
            flushed.map_err(|e| Error::io("cannot modify the image", e))?;
            self.apply([write_entries(entries)])
        })
    }

    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        let mut buf = vec![0; to_usize(CHUNK.min(len))];
        for done in (0..len).step_by(to_usize(CHUNK)) {
            let part = &mut buf[..to_usize(CHUNK.min(len - done))];
            let at = from + done;
            let read = self.storage.read_exact_at(part, at);
            read.map_err(|e| Error::io("cannot read a cluster", e).at(at))?;
            let written = self.storage.write_all_at(part, to + done);
            written.map_err(|e| Error::io("cannot write a cluster", e).at(to + done))?;
        }
        Ok(())
    }

    /// Corrects the header, and marks the image as closed if the check finds nothing else but
    /// leaks. The extension of an image that was not closed may describe old data: it is dropped.
    fn correct_header(&self, scope: RepairScope) -> Result<()> {
        let image = self.open()?;
        let Some(counts) = image.check(&mut |_| {})? else { return Ok(()) };
        let Some(single) = image.single() else { return Ok(()) };
        let clusters = &single.clusters;
        let old = &clusters.header;
        let (mut new, mut corrected) = (old.clone(), u64::from(old.is_dirty()));
        if scope == RepairScope::All {
            if old.data_off_problem(clusters.source.len()).is_some() {
                new.data_off = to_u32(clusters.data_base() / SECTOR);
                corrected += 1;
            }
            let mut starts = clusters.table.iter().filter_map(|&entry| clusters.host_of(entry));
            if starts.any(|start| clusters.overlaps_extension(start)) {
                new.extension_at = None;
                corrected += 1;
            }
        }
        let is_consistent = counts.corruptions == corrected && counts.check_errors == 0;
        if old.is_dirty() && is_consistent && require_writable(single).is_ok() {
            new = Header { in_use: CLOSED, extension_at: None, flags: 0, ..new };
        }
        let write = (new != *old).then(|| Edit::Write { offset: 0, bytes: new.encode().to_vec() });
        self.apply([write.into_iter().collect()])
    }

    /// Makes the file end where what is used ends, if nothing else is wrong.
    fn cut_off(&self) -> Result<()> {
        let image = self.open()?;
        let Some(counts) = image.check(&mut |_| {})? else { return Ok(()) };
        let is_consistent = counts.corruptions == 0 && counts.check_errors == 0;
        let is_known = image.single().is_some_and(|single| match &single.extension {
            Ok(extension) => extension.as_ref().is_none_or(|found| found.unknown.is_empty()),
            Err(_) => false,
        });
        // Features of the format extension that are not known may use the space.
        if !is_known || !is_consistent || counts.leaks == 0 {
            return Ok(());
        }
        let is_shorter = |&end: &u64| end < self.storage.current_len();
        let end = counts.image_end_offset.filter(is_shorter);
        let end = end.filter(|_| !self.storage.has_fixed_len());
        self.apply([end.map(Edit::SetLen).into_iter().collect()])
    }
}

fn write_entries(entries: Vec<(u64, u32)>) -> Vec<Edit> {
    let write = |(index, entry): (u64, u32)| Edit::Write {
        offset: HEADER_BYTES + index * 4,
        bytes: entry.to_le_bytes().to_vec(),
    };
    entries.into_iter().map(write).collect()
}
