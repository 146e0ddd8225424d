//! New, empty images.

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::layer::DiskLayout;
use crate::model::options::Options;
use crate::model::target::{Allocate, Backing, CreateRequest, Target};
use crate::open::external_files::ExternalFiles;
use crate::open::limits::Limits;
use crate::open::local_path;
use crate::ops::new_image::{open_backing, protect_backing, take_backing, whole_size};
use crate::ops::progress::{Callback, report};
use crate::storage::output::{Durability, Output};
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// Where a new image's zeros are written out, so many bytes are written at a
/// time: progress is seen, and stopping is soon …
const STEP: u64 = 64 << 20;

/// … but a vast disk, whose zeros nobody writes out, has no more steps than this.
const MAX_STEPS: u64 = 4096;

/// A new image without content.
///
/// ```no_run
/// use diskimg::{Create, Format};
///
/// Create::new(Format::Qcow2).size(10 << 30).run("empty.qcow2")?;
/// # Ok::<(), diskimg::Error>(())
/// ```
pub struct Create<'a> {
    format: Format,
    size: Option<u64>,
    options: Options,
    backing: Option<Backing>,
    backing_external_files: ExternalFiles,
    backing_limits: Limits,
    trust_backing: bool,
    progress: Option<Callback<'a>>,
}

/// What was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Guest bytes.
    pub size: u64,
    /// The options in effect, given or by default, in the order of
    /// [`Format::options`]: size and backing file as they were asked for.
    pub options: Options,
}

impl fmt::Debug for Create<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Create")
            .field("format", &self.format)
            .field("size", &self.size)
            .field("options", &self.options)
            .field("backing", &self.backing)
            .finish_non_exhaustive()
    }
}

impl<'a> Create<'a> {
    /// A new image of this format.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            size: None,
            options: Options::default(),
            backing: None,
            backing_external_files: ExternalFiles::default(),
            backing_limits: Limits::default(),
            trust_backing: false,
            progress: None,
        }
    }

    /// Guest bytes; by default the backing image's.
    #[must_use]
    pub fn size(mut self, size: impl Into<Option<u64>>) -> Self {
        self.size = size.into();
        self
    }

    /// The format's create options; see [`Format::options`].
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The image it builds on. A relative name is resolved against the new
    /// image's directory.
    #[must_use]
    pub fn backing(mut self, backing: impl Into<Option<Backing>>) -> Self {
        self.backing = backing.into();
        self
    }

    /// Which files the backing image may name, in its turn.
    #[must_use]
    pub fn backing_external_files(mut self, policy: ExternalFiles) -> Self {
        self.backing_external_files = policy;
        self
    }

    /// Bounds on what the backing image may demand.
    #[must_use]
    pub fn backing_limits(mut self, limits: Limits) -> Self {
        self.backing_limits = limits;
        self
    }

    /// Records the backing file without looking at it; the size must be given then.
    #[must_use]
    pub fn unsafe_backing(mut self, yes: bool) -> Self {
        self.trust_backing = yes;
        self
    }

    /// Called as the work goes on, which takes its time where space is
    /// preallocated; may stop it.
    #[must_use]
    pub fn progress(mut self, callback: Callback<'a>) -> Self {
        self.progress = Some(callback);
        self
    }

    /// Creates the image. A file that was there is replaced when the new one
    /// is complete.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for options the format does not
    /// take or a missing size; whatever opening the backing image or writing
    /// said; [`Cancelled`](crate::ErrorKind::Cancelled). No file is left behind
    /// then.
    pub fn run(self, path: impl AsRef<Path>) -> Result<Created> {
        let path = path.as_ref();
        let path = local_path(path).map_err(|e| e.in_file(path))?;
        self.create(&path).map_err(|e| e.in_file(&path))
    }

    fn create(mut self, path: &Path) -> Result<Created> {
        let driver = self.format.driver();
        if driver.require.is_some() {
            let message = format!("an empty disk is no image of the format {}", self.format.name());
            return Err(Error::invalid(message).hint("to make one of files: iso create"));
        }
        self.options.check(self.format.name(), driver.options)?;
        let mut size = self.options.size("size")?;
        self.options.take("size");
        size = self.size.or(size);
        take_backing(&mut self.options, &mut self.backing);
        let mut base = None;
        if let Some(backing) = &mut self.backing
            && !self.trust_backing
        {
            let image =
                open_base(backing, path, self.backing_external_files, &self.backing_limits)?;
            size = size.or(Some(image.size()));
            base = Some(image);
        }
        let size = size.ok_or_else(|| {
            Error::invalid("Image creation needs a size parameter")
                .hint("give SIZE, or a backing file to take it from")
        })?;
        let options = self.in_effect(size)?;
        let size = whole_size(self.format, size)?;
        report(self.progress, 0, size)?;
        let mut output =
            Output::create(path).map_err(|e| Error::io("cannot create the output", e))?;
        if let Some(base) = &base {
            protect_backing(&mut output, base)?;
        }
        let mut target = (driver.create)(CreateRequest {
            output: &mut output,
            size,
            options: &self.options,
            backing: self.backing.clone(),
            compress: false,
        })?;
        if self.backing.is_none() {
            self.place_zeros(&mut *target)?;
        }
        report(self.progress, size, size)?;
        target.finish()?;
        output
            .commit(Durability::Flushed)
            .map_err(|e| Error::output("cannot complete the output", e))?;
        Ok(Created { size, options })
    }

    /// Preallocating formats make room where they are told of zeros.
    fn place_zeros(&self, target: &mut dyn Target) -> Result<()> {
        let DiskLayout { size, cluster_size: unit } = target.disk_layout();
        for step in steps(size, unit) {
            report(self.progress, step.start, size)?;
            target.place(step.start, Allocate::Zero { len: step.end - step.start })?;
        }
        Ok(())
    }

    /// All options in effect, size and backing file included.
    fn in_effect(&self, size: u64) -> Result<Options> {
        let mut options = self.options.clone();
        options.set("size", size.to_string());
        if let Some(backing) = &self.backing {
            options.set("backing_file", backing.name.as_str());
            if let Some(format) = &backing.format {
                options.set("backing_fmt", format.as_str());
            }
        }
        options.in_effect(self.format.options())
    }
}

/// Cuts a disk of `size` bytes into steps of whole units.
fn steps(size: u64, unit: u64) -> impl Iterator<Item = Range<u64>> {
    let step = size.div_ceil(MAX_STEPS).next_multiple_of(STEP.max(unit));
    let end = move |start: u64| start.saturating_add(step).min(size);
    std::iter::successors(Some(0), move |&start| Some(end(start)))
        .take_while(move |&start| start < size)
        .map(move |start| start..end(start))
}

/// Opens the backing image, to see that it is one and how large it is.
fn open_base(
    backing: &mut Backing,
    path: &Path,
    external_files: ExternalFiles,
    limits: &Limits,
) -> Result<Image> {
    if backing.format.is_none() {
        return Err(Error::invalid("backing file specified without its format")
            .hint("name it with -F; a format guessed from content can be the guest's choice"));
    }
    open_backing(backing, Some(path), external_files, limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_any_size_is_a_bounded_number_of_steps_of_whole_units() {
        for size in
            [0, 1, 4096, STEP, STEP + 1, 10 << 30, (1 << 40) + 512, 1 << 62, i64::MAX as u64]
        {
            for unit in [1, 65536, 2 << 20] {
                let mut at = 0;
                for step in steps(size, unit) {
                    assert!(step.start == at && step.end > at && at % unit == 0, "{step:?}");
                    at = step.end;
                }
                assert_eq!(at, size);
                assert!(steps(size, unit).count() as u64 <= MAX_STEPS);
            }
        }
        assert_eq!(steps(10 << 30, 4096).count(), 160);
    }
}
