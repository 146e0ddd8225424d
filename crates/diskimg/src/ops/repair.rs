//! `check` with a repair: repairs a damaged image in place.

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::mutable::RepairRequest;
use crate::open::OpenOptions;
use crate::ops::in_place::modify_file;
use crate::report::check::{CheckReport, Finding, RepairScope, RepairStage};
use crate::storage::edit::{Reopened, SavingStorage, Storage};
use crate::storage::locking::Lock;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Repairs the metadata of a damaged image in place: a builder that is configured and then run.
///
/// What the guest and internal snapshots read does not change. Damage that cannot be repaired without
/// a choice between guest data is left. If the process is killed or power is lost, the image is not
/// worse than before, and another repair completes the work.
///
/// ```no_run
/// use diskimg::Repair;
/// use diskimg::check::RepairScope;
///
/// let repaired = Repair::new(RepairScope::All)
///     .run("disk.qcow2", &mut |stage, finding| println!("{stage:?}: {}", finding.message))?;
/// if let Some(repaired) = repaired {
///     let counts = repaired.after;
///     println!("{} repaired, {} left", counts.corruptions_fixed, counts.corruptions);
/// }
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug)]
pub struct Repair {
    scope: RepairScope,
    options: OpenOptions,
    backup: Option<File>,
}

/// The result of [`Repair::run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// The format of the image.
    pub format: Format,
    /// The result of the check before the repair.
    pub before: CheckReport,
    /// The result of the check after it, with the numbers of what was repaired.
    pub after: CheckReport,
}

impl Repair {
    /// Creates a builder for a repair of this scope.
    pub fn new(scope: RepairScope) -> Self {
        Self { scope, options: OpenOptions::new(), backup: None }
    }

    /// Sets how the image is opened: format and limits. It is always locked. Its backing files are
    /// not needed. Further files of the image, the extents of a VMDK, are repaired only if the
    /// format is set.
    #[must_use]
    pub fn open_options(mut self, options: OpenOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets an empty file in which all bytes of the image are saved before they are overwritten or
    /// cut off. It stays empty if none are. Each of them is durable before the image changes.
    /// Further files of the image are not repaired then.
    ///
    /// After `diskimg backup 1`, the file has numbers of 8 bytes, the most significant first: the
    /// length of the image, and for each range that was overwritten its offset and length, followed
    /// by its bytes. Writing the ranges back in reverse order and setting the length restores the
    /// image.
    #[must_use]
    pub fn backup(mut self, file: File) -> Self {
        self.backup = Some(file);
        self
    }

    /// Checks and repairs the image at `path`, a regular file or a block device, and checks it again.
    ///
    /// Returns the results of both checks, or `None` if images of this format cannot be repaired.
    /// Calls `report` with what is found before, what is being repaired (only for qcow2) and what is
    /// left, up to [`Limits::check_findings`](crate::Limits::check_findings) of each.
    ///
    /// # Errors
    /// - [`Locked`](crate::ErrorKind::Locked) if another process uses the image;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if it is too damaged to be opened;
    /// - [`Limit`](crate::ErrorKind::Limit) if the check or the repair exceeds a limit;
    /// - [`Io`](crate::ErrorKind::Io) if reading or writing fails;
    /// - the other errors of [`OpenOptions::open`].
    pub fn run(
        &self,
        path: impl AsRef<Path>,
        report: &mut dyn FnMut(RepairStage, Finding),
    ) -> Result<Option<Repaired>> {
        modify_file(path.as_ref(), |storage, name| self.run_on(storage, name, report))
    }

    /// Repairs an image in any storage. Errors refer to the image as `name`.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn run_on(
        &self,
        storage: Arc<dyn Storage>,
        name: impl Into<String>,
        report: &mut dyn FnMut(RepairStage, Finding),
    ) -> Result<Option<Repaired>> {
        let name = name.into();
        self.repair(&storage, &name, report).map_err(|e| e.in_file(name))
    }

    fn repair(
        &self,
        storage: &Arc<dyn Storage>,
        name: &str,
        report: &mut dyn FnMut(RepairStage, Finding),
    ) -> Result<Option<Repaired>> {
        storage.lock(Lock::WRITE).map_err(|e| Error::io("cannot lock it", e))?;
        let options = self.options.clone().snapshot(None).disk(None).metadata_only(true);
        let options = options.with_extents(true);
        let options = options.repairing(self.scope == RepairScope::All);
        let open = || options.open_source(Reopened::of(storage), name);
        let image = open()?;
        let format = image.format();
        let (Some(repair), None) = (format.driver().repair, image.compression_at(0)) else {
            return Ok(None);
        };
        let Some(before) = image.check(&mut |finding| report(RepairStage::Found, finding))? else {
            return Ok(None);
        };
        let mut listed = image.limits(0).check_findings;
        drop(image);
        let mut undetected = 0;
        let repaired: Arc<dyn Storage> = match &self.backup {
            None => Arc::clone(storage),
            Some(file) => {
                let file = file.try_clone().map_err(|e| Error::io("cannot save bytes", e))?;
                Arc::new(SavingStorage::new(Arc::clone(storage), file))
            }
        };
        // What is locked here is the image's own file.
        let locks_itself = format.driver().locks_further_files;
        let repairing = options.clone().force_share(locks_itself || options.ignores_locks());
        let report_cell = std::cell::RefCell::new(&mut *report);
        repairing.repair(
            &repaired,
            repair,
            &mut RepairRequest {
                scope: self.scope,
                // A guest can write the header of any format into a raw disk, with names of files.
                further_files: !self.options.is_probed() && self.backup.is_none(),
                report: &mut |finding| {
                    undetected += 1;
                    report_cell.borrow_mut()(RepairStage::Left, finding);
                },
                repaired: &mut |finding| {
                    if listed > 0 {
                        listed -= 1;
                        report_cell.borrow_mut()(RepairStage::Repaired, finding);
                    }
                },
            },
        )?;
        let left = open()?.check(&mut |finding| report(RepairStage::Left, finding))?;
        Ok(left.map(|left| Repaired {
            format,
            before,
            after: CheckReport {
                corruptions: left.corruptions + undetected,
                corruptions_fixed: before.corruptions.saturating_sub(left.corruptions),
                leaks_fixed: before.leaks.saturating_sub(left.leaks),
                ..left
            },
        }))
    }
}
