//! `amend`: changes the options of an existing image in place.

use super::in_place::modify_file;
use super::progress::{self, Callback};
use crate::error::{Error, Result};
use crate::model::mutable::{AmendRequest, Amended};
use crate::model::options::Options;
use crate::open::OpenOptions;
use crate::open::driver::{Amending, Driver};
use crate::storage::edit::{Reopened, Storage};
use crate::storage::locking::Lock;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Changes the options of an existing image in place: a builder that is configured and then run.
///
/// [`Format::amend_options`](crate::Format::amend_options) lists them: for qcow2, the version
/// (`compat`), `refcount_bits`, `lazy_refcounts`, `data_file`, `data_file_raw` and `size`. Those that
/// are not given stay as they are, and so does the size if `size` is 0. What the guest and internal
/// snapshots read does not change, except that a smaller `size` deletes the data beyond.
///
/// If the process is killed or power is lost, the image has the old or the new options. The size is
/// changed separately, so that it may be the new one although the other options are the old ones, or
/// the other way around.
///
/// ```no_run
/// use diskimg::{Amend, Options};
///
/// Amend::new(Options::parse("compat=0.10")?).run("disk.qcow2")?;
/// # Ok::<(), diskimg::Error>(())
/// ```
pub struct Amend<'a> {
    options: Options,
    open_options: OpenOptions,
    progress: Option<Callback<'a>>,
}

impl fmt::Debug for Amend<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amend").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<'a> Amend<'a> {
    /// Creates a builder that sets these options.
    pub fn new(options: Options) -> Self {
        Self { options, open_options: OpenOptions::new(), progress: None }
    }

    /// Sets how the image is opened: format, external files and limits. It is always locked. Its
    /// backing files are opened only if the size changes.
    #[must_use]
    pub fn open_options(mut self, options: OpenOptions) -> Self {
        self.open_options = options;
        self
    }

    /// Sets a progress callback. It counts the entries of tables, not bytes.
    #[must_use]
    pub fn progress(mut self, callback: Callback<'a>) -> Self {
        self.progress = Some(callback);
        self
    }

    /// Changes the options of the image at `path`, a regular file or a block device. An image that
    /// was not closed properly is repaired before.
    ///
    /// # Errors
    /// - [`Locked`](crate::ErrorKind::Locked) if another process uses the image;
    /// - [`Invalid`](crate::ErrorKind::Invalid) for an unknown option, for one of new images only,
    ///   and for a value that this image cannot have;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if images of this format have no such
    ///   options, or if the image has something that prevents the change: version 2, for example,
    ///   does not have data files, extended L2 entries, Zstandard, and snapshots of another size;
    /// - [`Limit`](crate::ErrorKind::Limit) if a refcount is too large for the new width;
    /// - [`Refused`](crate::ErrorKind::Refused) as [`Resize::run`](crate::Resize::run);
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if the image is damaged;
    /// - [`Cancelled`](crate::ErrorKind::Cancelled) if the progress callback breaks;
    /// - the errors of [`OpenOptions::open`] and of writing.
    ///
    /// After an error of writing or flushing, each option has its old or its new value; after any
    /// other error, its old value, except that a damaged image may be found when the size was changed
    /// already and the other options were not, or the other way around.
    pub fn run(&self, path: impl AsRef<Path>) -> Result<Amended> {
        modify_file(path.as_ref(), |storage, name| self.run_on(storage, name))
    }

    /// Changes the options of an image in any storage. Errors refer to the image as `name`.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn run_on(&self, storage: Arc<dyn Storage>, name: impl Into<String>) -> Result<Amended> {
        let name = name.into();
        self.amend(&storage, &name).map_err(|e| e.in_file(name))
    }

    fn amend(&self, storage: &Arc<dyn Storage>, name: &str) -> Result<Amended> {
        storage.lock(Lock::WRITE).map_err(|e| Error::io("cannot lock it", e))?;
        let with_size = self.options.get("size").is_some();
        let open_options = self.open_options.clone().snapshot(None).disk(None);
        let open_options = open_options.metadata_only(!with_size).with_chain(with_size);
        let image = open_options.open_source(Reopened::of(storage), name)?;
        let (format, driver) = (image.format(), image.format().driver());
        let (Some(amending), None) = (&driver.amend, image.compression_at(0)) else {
            let message = format!("Format driver '{format}' does not support option amendment");
            return Err(Error::unsupported(message));
        };
        self.require_known(amending, driver)?;
        let mut report = |done, total| progress::report(self.progress, done, total);
        let backing = image.backing();
        let mut request = AmendRequest {
            options: &self.options,
            format_probed: open_options.is_probed(),
            backing: backing.as_ref(),
            report: &mut report,
        };
        open_options.amend(storage, amending.amend, &mut request)
    }

    /// Verifies that all options can be changed.
    fn require_known(&self, amending: &Amending, driver: &Driver) -> Result<()> {
        let is_new_only = |name: &str| {
            let is_in = |specs: &[crate::OptionSpec]| specs.iter().any(|spec| spec.name == name);
            !is_in(amending.options) && is_in(driver.options)
        };
        // An option that new images do not have either is worse.
        match self.options.iter().find(|(name, _)| is_new_only(name)) {
            Some((name, _)) if self.options.check(driver.options).is_ok() => {
                Err(Error::invalid(format!("Invalid parameter '{name}'"))
                    .hint("This option is only supported for image creation"))
            }
            _ => self.options.check(amending.options),
        }
    }
}
