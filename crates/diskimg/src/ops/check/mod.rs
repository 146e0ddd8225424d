//! `check`: checks the consistency of an image's metadata, and verifies the digests that it records
//! of its contents.

#[cfg(feature = "recorded-digests")]
mod digests;
#[cfg(feature = "recorded-digests")]
mod plan;

use crate::error::Result;
use crate::model::image::Image;
use crate::ops::progress::Callback;
use crate::report::check::{CheckReport, Finding};
use std::fmt;

/// Checks an image, without its backing files: a builder that is configured and then run.
///
/// The metadata is checked first, as [`Image::check`] does. If the image records digests of its
/// contents, everything that they cover is read then, in parallel, and compared with them.
///
/// ```
/// use diskimg::{Check, Image};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("disk.qcow2");
/// # diskimg::Create::new(diskimg::Format::Qcow2).size(1 << 20).run(&path)?;
/// let image = Image::open(&path)?;
/// let report = Check::new(&image).run(&mut |finding| println!("{}", finding.message))?;
/// assert_eq!(report.map(|report| report.corruptions), Some(0));
/// # Ok::<(), diskimg::Error>(())
/// ```
pub struct Check<'a> {
    image: &'a Image,
    threads: Option<usize>,
    progress: Option<Callback<'a>>,
}

impl fmt::Debug for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("image", &self.image)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl<'a> Check<'a> {
    /// Checks the top layer of `image`.
    pub fn new(image: &'a Image) -> Self {
        Self { image, threads: None, progress: None }
    }

    /// Sets the maximum number of threads, which is capped at 16. The default is the number of
    /// processors, or fewer if the address space is limited.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets a callback for progress reports and cancellation. It counts the bytes of which digests
    /// are computed, and is not called if there are none.
    #[must_use]
    pub fn progress(mut self, callback: Callback<'a>) -> Self {
        self.progress = Some(callback);
        self
    }

    /// Runs the check. Returns `None` if the format has neither a consistency check nor digests.
    /// Calls `report` for the first findings, up to
    /// [`Limits::check_findings`](crate::Limits::check_findings); the counts include all.
    ///
    /// # Errors
    /// See [`Layer::check`](crate::Layer::check); [`Cancelled`](crate::ErrorKind::Cancelled) if the
    /// callback requests it. What cannot be read is a finding.
    pub fn run(self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        self.image.check_and(report, |counts, report| self.verify_digests(counts, report))
    }

    #[cfg(feature = "recorded-digests")]
    fn verify_digests(
        &self,
        counts: Option<CheckReport>,
        report: &mut dyn FnMut(Finding),
    ) -> Result<Option<CheckReport>> {
        let recorded = self.image.layer(0).recorded_digests();
        let Some(recorded) = recorded.map_err(|e| self.image.in_layer(e, 0))? else {
            return Ok(counts);
        };
        let mut counts = counts.unwrap_or_default();
        counts.recorded_digests = Some(recorded.len() as u64);
        if !recorded.is_empty() {
            let mut findings = crate::formats::findings::Findings { report, counts: &mut counts };
            let verify = digests::Verify {
                image: &self.image.only(0),
                threads: self.threads,
                progress: self.progress,
            };
            let verified = verify.run(recorded, &mut findings)?;
            counts.verified_digests = verified;
        }
        Ok(Some(counts))
    }

    /// No format of this build records digests.
    #[cfg(not(feature = "recorded-digests"))]
    fn verify_digests(
        &self,
        counts: Option<CheckReport>,
        _: &mut dyn FnMut(Finding),
    ) -> Result<Option<CheckReport>> {
        Ok(counts)
    }
}
