//! `create`: creates empty images.

use crate::error::{Error, Result};
use crate::model::backing::Backing;
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::options::Options;
use crate::model::target::{Allocate, CreateRequest, Target, TargetSpec};
use crate::open::{OpenOptions, local_path};
use crate::ops::measure::measure_size;
use crate::ops::new_image::{
    SECTOR, max_size_cap, new_disk_size, open_backing, protect_backing, refuse_own_backing,
    set_allocation_hints, take_backing,
};
use crate::ops::plan::{self as planning, Plan};
use crate::ops::progress::{Callback, report};
use crate::remedy::Remedy;
use crate::storage::output::{Durability, Output};
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// Guest bytes placed per step. Progress is reported, and the operation can be cancelled, between
/// steps.
const STEP: u64 = 64 << 20;

/// Maximum number of steps. Steps are longer on a very large disk, whose zeros are rarely written.
const MAX_STEPS: u64 = 4096;

/// Creates an empty image: a builder that is configured and then run.
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
    backing_options: OpenOptions,
    trust_backing: bool,
    max_size: Option<u64>,
    on_start: Option<&'a dyn Fn(&Created)>,
    progress: Option<Callback<'a>>,
}

/// The result of [`Create::run`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Created {
    /// Size of the disk in bytes.
    pub size: u64,
    /// The options in effect, both given and default, in the order of [`Format::options`]. Size and
    /// backing file are as requested.
    pub options: Options,
    /// A sentence about each existing file that could not be replaced and was overwritten; see
    /// [`Output::notes`].
    pub notes: Vec<String>,
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
    /// Creates a builder for an image of this format.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            size: None,
            options: Options::default(),
            backing: None,
            backing_options: OpenOptions::new(),
            trust_backing: false,
            max_size: None,
            on_start: None,
            progress: None,
        }
    }

    /// Sets the size in bytes. The default is the size of the backing file.
    #[must_use]
    pub fn size(mut self, size: impl Into<Option<u64>>) -> Self {
        self.size = size.into();
        self
    }

    /// Sets the format's create options; see [`Format::options`].
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Sets the backing file. A relative name is resolved against the new image's directory.
    #[must_use]
    pub fn backing(mut self, backing: impl Into<Option<Backing>>) -> Self {
        self.backing = backing.into();
        self
    }

    /// Sets how the backing file is opened. Its format is that of [`backing`](Self::backing).
    #[must_use]
    pub fn backing_options(mut self, options: OpenOptions) -> Self {
        self.backing_options = options;
        self
    }

    /// Sets whether the backing file is recorded without opening it. The size is required then.
    #[must_use]
    pub fn unsafe_backing(mut self, yes: bool) -> Self {
        self.trust_backing = yes;
        self
    }

    /// Limits the bytes that the files of the image take, with the space that is reserved, but
    /// without holes. An image that exceeds it is an error of the kind
    /// [`Limit`](crate::ErrorKind::Limit).
    #[must_use]
    pub fn max_size(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_size = bytes.into();
        self
    }

    /// Sets a callback that receives size and options before the image is created. If it is called,
    /// the options have valid names and types, and the backing file could be opened, but the format
    /// may still refuse the values.
    #[must_use]
    pub fn on_start(mut self, callback: &'a dyn Fn(&Created)) -> Self {
        self.on_start = Some(callback);
        self
    }

    /// Sets a callback that receives progress and can cancel the operation. Creating an image takes
    /// long only if space is preallocated.
    #[must_use]
    pub fn progress(mut self, callback: Callback<'a>) -> Self {
        self.progress = Some(callback);
        self
    }

    /// Creates the image. An existing file is replaced when the new one is complete.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the format does not have an option or no
    /// size is known, any error from opening the backing file or from writing, and
    /// [`Cancelled`](crate::ErrorKind::Cancelled) if the callback stops the operation. No file is
    /// left behind after an error.
    pub fn run(self, path: impl AsRef<Path>) -> Result<Created> {
        let path = path.as_ref();
        let path = local_path(path).map_err(|e| e.in_file(path))?;
        self.create(&path).map_err(|e| e.in_file(&path))
    }

    /// Returns what [`run`](Self::run) would do, without creating or changing anything.
    ///
    /// # Errors
    /// The errors of [`run`](Self::run) that are known before anything is written.
    pub fn plan(mut self, path: impl AsRef<Path>) -> Result<Plan> {
        let path = path.as_ref();
        let path = local_path(path).map_err(|e| e.in_file(path))?;
        let mut plan = || {
            let (spec, base, _) = self.prepare(&path)?;
            let planned = planning::output(&path)?;
            let files = planned.files();
            let mut output = Output::to_place(Box::new(planned));
            set_allocation_hints(&mut output, &self.options)?;
            if let Some(base) = &base {
                protect_backing(&mut output, base)?;
            }
            drop(spec.start_empty(&mut output)?);
            let files = crate::storage::lock(&files).clone();
            Ok(Plan {
                format: self.format,
                guest_bytes: spec.size(),
                required_bytes: self.required(spec.size())?,
                free_bytes: planning::free_bytes(&files),
                backing: self.backing.as_ref().map(|backing| backing.name.clone()),
                files,
                warnings: Vec::new(),
            })
        };
        plan().map_err(|e: Error| e.in_file(&path))
    }

    /// Returns the number of bytes that the empty image takes.
    fn required(&self, size: u64) -> Result<u64> {
        if matches!(self.options.get("preallocation"), Some("falloc" | "full")) {
            return Ok(size);
        }
        match self.format.driver().measure {
            Some(_) => Ok(measure_size(self.format, &self.options, size)?.required),
            None => Ok(0),
        }
    }

    fn create(mut self, path: &Path) -> Result<Created> {
        let (spec, base, created) = self.prepare(path)?;
        report(self.progress, 0, spec.size())?;
        let mut output =
            Output::create(path).map_err(|e| Error::io("cannot create the output", e))?;
        if let Some(cap) = max_size_cap(self.max_size, u64::MAX) {
            output = output.capped(cap);
        }
        set_allocation_hints(&mut output, &self.options)?;
        if let Some(base) = &base {
            protect_backing(&mut output, base)?;
        }
        output.remove_leftovers();
        self.write(&*spec, &mut output).map_err(|e| e.with_loss_of(&output))?;
        let notes = output.notes();
        output
            .publish(Durability::Flushed)
            .map_err(|e| Error::output("cannot complete the output", e))?;
        Ok(Created { notes, ..created })
    }

    /// Specifies the image and opens its backing file. Calls the callback for the start.
    fn prepare(&mut self, path: &Path) -> Result<(Box<dyn TargetSpec>, Option<Image>, Created)> {
        let driver = self.format.driver();
        let create = self.format.creator()?;
        if driver.require.is_some() {
            let message =
                format!("empty images of format {} cannot be created", self.format.name());
            return Err(Error::invalid(message).with_remedy(Remedy::BuildIsoImage));
        }
        self.options.check(driver.options)?;
        let mut size = self.options.size("size")?;
        self.options.take("size");
        size = self.size.or(size);
        if self.options.get("backing_file") == Some("") {
            return Err(Error::invalid("Expected backing file name, got empty string"));
        }
        take_backing(&mut self.options, &mut self.backing);
        let mut base = None;
        if let Some(backing) = &mut self.backing
            && !self.trust_backing
        {
            let image = open_base(backing, path, &self.backing_options)?;
            refuse_own_backing(Some(path), &image)?;
            size = size.or(Some(image.size().next_multiple_of(SECTOR)));
            base = Some(image);
        }
        let size = size.ok_or_else(|| {
            Error::invalid("Image creation needs a size parameter").with_remedy(Remedy::GiveSize)
        })?;
        let options = self.in_effect(size)?;
        let created = Created { size, options, notes: Vec::new() };
        if let Some(callback) = self.on_start {
            callback(&created);
        }
        let size = new_disk_size(self.format, size)?;
        let spec = create(CreateRequest {
            size,
            options: &self.options,
            backing: self.backing.clone(),
            compress: false,
        })?;
        Ok((spec, base, Created { size, ..created }))
    }

    /// Writes the empty image.
    fn write(&self, spec: &dyn TargetSpec, output: &mut Output) -> Result<()> {
        let incomplete = |e| Error::output("cannot complete the output", e);
        if matches!(self.options.get("preallocation"), Some("falloc" | "full")) {
            output.expect_len(spec.size()).map_err(incomplete)?;
        }
        let mut target = spec.start_empty(output)?;
        self.place_all(spec, &mut *target)?;
        report(self.progress, spec.size(), spec.size())?;
        target.finish()?;
        output.flush(Durability::Flushed).map_err(incomplete)
    }

    /// Places the whole disk, as zeros or as read from the backing file. Some targets allocate
    /// space for it.
    fn place_all(&self, spec: &dyn TargetSpec, target: &mut dyn Target) -> Result<()> {
        let size = spec.size();
        for step in steps(size, spec.quantum()) {
            report(self.progress, step.start, size)?;
            let len = step.end - step.start;
            let unit = match self.backing {
                Some(_) => Allocate::Backed { len },
                None => Allocate::Zero { len },
            };
            target.place(step.start, unit)?;
        }
        Ok(())
    }

    /// Returns all options in effect, including size and backing file.
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

/// Divides a disk of `size` bytes into steps of whole clusters.
fn steps(size: u64, cluster_size: u64) -> impl Iterator<Item = Range<u64>> {
    let step = size.div_ceil(MAX_STEPS).next_multiple_of(STEP.max(cluster_size));
    let end = move |start: u64| start.saturating_add(step).min(size);
    std::iter::successors(Some(0), move |&start| Some(end(start)))
        .take_while(move |&start| start < size)
        .map(move |start| start..end(start))
}

/// Opens the backing file, whose format must be given.
fn open_base(backing: &mut Backing, path: &Path, options: &OpenOptions) -> Result<Image> {
    if backing.format.is_none() {
        return Err(Error::invalid("backing file specified without its format")
            .hint("a guest can write the header of any format into a raw disk")
            .with_remedy(Remedy::NameBackingFormat));
    }
    open_backing(backing, Some(path), options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_any_size_is_divided_into_a_bounded_number_of_steps_of_whole_clusters() {
        for size in
            [0, 1, 4096, STEP, STEP + 1, 10 << 30, (1 << 40) + 512, 1 << 62, i64::MAX as u64]
        {
            for cluster_size in [1, 65536, 2 << 20] {
                let mut at = 0;
                for step in steps(size, cluster_size) {
                    let is_next = step.start == at && step.end > at;
                    assert!(is_next && at % cluster_size == 0, "{step:?}");
                    at = step.end;
                }
                assert_eq!(at, size);
                assert!(steps(size, cluster_size).count() as u64 <= MAX_STEPS);
            }
        }
        assert_eq!(steps(10 << 30, 4096).count(), 160);
    }
}
