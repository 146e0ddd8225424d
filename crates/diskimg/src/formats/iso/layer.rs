//! Reading ISO images as disks. The raw format reads the bytes, or the data in the sectors of a copy
//! of a disc.

use super::facts;
use crate::error::Result;
use crate::iso::read::sectors;
use crate::iso::{IsoImage, IsoOptions};
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer};
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::open::limits::Limits;
use crate::report::check::{self, CheckReport, Finding};
use crate::report::finding::Severity;
use crate::report::info::Details;
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// An ISO image, as a disk.
#[derive(Debug)]
pub(super) struct Iso {
    raw: Arc<dyn Layer>,
    /// The image and, if it consists of raw sectors, the file itself.
    files: Vec<Arc<dyn Source>>,
    /// The layout of the raw sectors, for people.
    raw_sectors: Option<String>,
    /// Limits for reading the file system in `info` and `check`.
    limits: Limits,
}

impl Iso {
    /// Opens the image without reading its file system, so that an image with a
    /// damaged file system can be converted.
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let limits = context.limits.clone();
        let raw_sectors = sectors::layout(&*source)?.map(|layout| layout.describe());
        let image = sectors::cooked(Arc::clone(&source))?;
        let mut files = vec![Arc::clone(&image)];
        files.extend(raw_sectors.is_some().then_some(source));
        let raw = (Format::Raw.driver().open)(image, context)?;
        Ok(Self { raw, files, raw_sectors, limits })
    }

    fn file_system(&self) -> Result<IsoImage> {
        let options = IsoOptions { limits: self.limits.clone(), ..IsoOptions::default() };
        IsoImage::open(Arc::clone(&self.files[0]), &options)
    }
}

impl Sealed for Iso {}

impl Layer for Iso {
    fn format(&self) -> Format {
        Format::Iso
    }

    fn disk_layout(&self) -> DiskLayout {
        self.raw.disk_layout()
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        self.raw.next_allocated_hint(range)
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        self.raw.map(range, out)
    }

    fn details(&self) -> Details {
        let mut details = self.raw.details();
        details.children = vec![("file".into(), self.files.len() - 1)];
        let raw_sectors = self.raw_sectors.as_deref();
        details.specific.extend(raw_sectors.map(|layout| ("raw-sectors", layout.into())));
        match self.file_system().and_then(|image| Ok((image.info()?, image.truncated()))) {
            Ok((info, truncated)) => {
                details.specific.extend(facts::of(&info));
                details.notes.extend(truncated.map(|finding| finding.to_string()));
            }
            Err(error) => details
                .notes
                .push(format!("the file system cannot be read: {}", error.without_remedy())),
        }
        details
    }

    fn warnings(&self) -> Vec<String> {
        let truncated = self.file_system().ok().and_then(|image| image.truncated());
        truncated.map(|finding| finding.to_string()).into_iter().collect()
    }

    /// Verifies the file system. Its errors are counted as corruptions.
    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        let verified = self.file_system()?.verify(&mut |found| {
            if found.severity > Severity::Note {
                let code = check::Code::Corruption;
                report(Finding::new(code, found.severity, found.to_string()));
            }
        })?;
        let mut counts = CheckReport::default();
        (counts.corruptions, counts.warnings) = (verified.errors, verified.warnings);
        counts.image_end_offset = Some(self.disk_layout().size);
        Ok(Some(counts))
    }
}
