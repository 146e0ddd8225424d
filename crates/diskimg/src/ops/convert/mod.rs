//! Conversion: plan → work → place.
//!
//! 1. [`plan`] maps the source and divides everything that is not known to be zero into tasks;
//!    holes cost nothing per byte. [`share`] decides which runs are reflinked or copied by the
//!    kernel.
//! 2. [`encode`] fetches, detects zeros and encodes, in parallel. [`pass`] decides which
//!    compressed units are copied as stored.
//! 3. [`place`] lets the target allocate in guest order; the workers then write ([`transfer`]).
//!
//! The output depends on the source's bytes, the options, and on what can be shared; never on the
//! number of threads.

mod bitmaps;
mod digest;
mod encode;
mod existing;
mod hash;
mod input;
mod load;
mod lookahead;
mod pass;
mod place;
mod plan;
mod read_back;
mod run;
mod salvage;
mod selection;
mod share;
mod task;
#[cfg(test)]
mod tests;
mod throttle;
mod transfer;

use crate::error::{Error, Result};
use crate::model::backing::Backing;
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::options::Options;
use crate::open::{OpenOptions, local_path};
use crate::ops::plan::{self as planning, Plan};
use crate::ops::progress::{Callback, report};
use crate::storage::caching::Caching;
use crate::storage::edit::Storage;
use crate::storage::output::{Durability, Output, Planned, existing_identity};
use run::refuse_own_files;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub(in crate::ops) use selection::{Selection, Write};

pub use hash::{DigestAlgorithm, Digests, FileDigest};
pub use share::Reflink;

/// Sector size in bytes. The size of every image except a raw file is a multiple of it.
const SECTOR: u64 = 512;

/// When a run of zeros becomes a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sparse {
    /// Never: every byte is written, so the output is fully allocated.
    Off,
    /// When it fills an aligned block of this many bytes. The value must be at least 512; it is
    /// rounded up to a power of two and capped at 2 MiB. A format with clusters leaves a cluster
    /// unallocated if all of its blocks are zero. Zeros that need not be read, because the source
    /// stores no data for them, are holes however short they are.
    Blocks(u64),
}

/// Largest block that zero detection works with. Blocks are held in memory.
const MAX_HOLE_BLOCK: u64 = 2 << 20;

impl Sparse {
    /// Returns `self` with the block size normalized to a power of two of at most
    /// [`MAX_HOLE_BLOCK`].
    fn normalized(self) -> Result<Self> {
        match self {
            Self::Blocks(block) if block < SECTOR => Err(Error::invalid(format!(
                "the hole size is {block} bytes, but must be at least {SECTOR}"
            ))),
            Self::Blocks(block) => Ok(Self::Blocks(block.min(MAX_HOLE_BLOCK).next_power_of_two())),
            Self::Off => Ok(self),
        }
    }
}

impl Default for Sparse {
    fn default() -> Self {
        Self::Blocks(4096)
    }
}

/// Converts an image: a builder that is configured and then run.
///
/// ```no_run
/// use diskimg::{Convert, Format, Image};
///
/// let image = Image::open("disk.vmdk")?;
/// let report = Convert::new(image).format(Format::Qcow2).compress(true).run("disk.qcow2")?;
/// println!("{} guest bytes, {} written", report.guest_bytes, report.stored_bytes);
/// # Ok::<(), diskimg::Error>(())
/// ```
pub struct Convert<'a> {
    images: Vec<Image>,
    settings: Settings<'a>,
}

/// The settings of a conversion: everything except the source.
struct Settings<'a> {
    format: Format,
    options: Options,
    compress: bool,
    backing: Option<Backing>,
    backing_options: OpenOptions,
    sparse: Sparse,
    threads: Option<usize>,
    rate_limit: Option<u64>,
    max_size: Option<u64>,
    salvage: bool,
    reflink: Reflink,
    offload: bool,
    recompress: bool,
    trust_source: bool,
    verify: bool,
    digest: Option<DigestAlgorithm>,
    durability: Durability,
    caching: Caching,
    target_is_zero: bool,
    bitmaps: bool,
    skip_broken_bitmaps: bool,
    verify_manifest: bool,
    source_digest: Option<(DigestAlgorithm, String)>,
    progress: Option<Callback<'a>>,
}

impl Settings<'_> {
    fn new() -> Self {
        Self {
            format: Format::default(),
            options: Options::default(),
            compress: false,
            backing: None,
            backing_options: OpenOptions::new(),
            sparse: Sparse::default(),
            threads: None,
            rate_limit: None,
            max_size: None,
            salvage: false,
            reflink: Reflink::default(),
            offload: false,
            recompress: false,
            trust_source: false,
            verify: false,
            digest: None,
            durability: Durability::default(),
            caching: Caching::default(),
            target_is_zero: false,
            bitmaps: false,
            skip_broken_bitmaps: false,
            verify_manifest: true,
            source_digest: None,
            progress: None,
        }
    }
}

/// The result of a conversion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Size of the disk in guest bytes. Of several concatenated disks it is the sum, including the
    /// gaps between them. If an existing image is written in place, the size of the source.
    pub guest_bytes: u64,
    /// Bytes of guest data written to the output, after encoding.
    pub stored_bytes: u64,
    /// How many of [`stored_bytes`](Self::stored_bytes) share their blocks with the source and
    /// take no additional space ([`Convert::reflink`]).
    pub shared_bytes: u64,
    /// Guest bytes in compressed units that were copied without recompression
    /// ([`Convert::recompress`]).
    pub passed_bytes: u64,
    /// Ranges that could not be read and were replaced by zeros ([`Convert::salvage`]), in guest
    /// order: at most 4,096 of them.
    pub salvaged: Vec<Salvaged>,
    /// Guest bytes in all ranges that could not be read and were replaced by zeros.
    pub salvaged_bytes: u64,
    /// Damage in the source that was tolerated; see [`Image::warnings`].
    pub warnings: Vec<String>,
    /// How existing files were treated: a sentence about each that could not be replaced and was
    /// overwritten; see [`Output::notes`].
    pub notes: Vec<String>,
    /// True if the output was read back and equals the source ([`Convert::verify`]).
    pub verified: bool,
    /// The digests requested with [`Convert::digest`].
    pub digests: Option<Digests>,
}

/// A guest range that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Salvaged {
    /// Guest offsets in bytes.
    pub guest: Range<u64>,
    /// The error message.
    pub error: String,
}

impl fmt::Debug for Convert<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Convert")
            .field("images", &self.images)
            .field("format", &self.settings.format)
            .field("options", &self.settings.options)
            .finish_non_exhaustive()
    }
}

impl<'a> Convert<'a> {
    /// Creates a conversion of `image` with default settings. The output format is raw unless
    /// [`format`](Self::format) is called.
    pub fn new(image: Image) -> Self {
        Self { images: vec![image], settings: Settings::new() }
    }

    /// Appends an image, whose guest bytes follow those of the previous one at the next sector
    /// boundary. In an appliance each image becomes a separate disk.
    #[must_use]
    pub fn append(mut self, image: Image) -> Self {
        self.images.push(image);
        self
    }

    /// Sets the output format.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.settings.format = format;
        self
    }

    /// Sets the output's create options; see [`Format::options`].
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.settings.options = options;
        self
    }

    /// Sets whether the output is compressed.
    #[must_use]
    pub fn compress(mut self, yes: bool) -> Self {
        self.settings.compress = yes;
        self
    }

    /// Sets the output's backing file. Only clusters that differ from it are written. A relative
    /// name is resolved against the output's directory.
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.settings.backing = Some(backing);
        self
    }

    /// Sets how the [`backing`](Self::backing) image is opened. Its format is set there.
    #[must_use]
    pub fn backing_options(mut self, options: OpenOptions) -> Self {
        self.settings.backing_options = options;
        self
    }

    /// Sets when a run of zeros becomes a hole.
    #[must_use]
    pub fn sparse(mut self, sparse: Sparse) -> Self {
        self.settings.sparse = sparse;
        self
    }

    /// Sets the maximum number of threads, which is capped at 16. The default is the number of
    /// processors, or fewer if the address space is limited.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.settings.threads = Some(threads);
        self
    }

    /// Limits the average write rate to this many bytes per second. 0 means no limit.
    #[must_use]
    pub fn rate_limit(mut self, bytes_per_second: u64) -> Self {
        self.settings.rate_limit = Some(bytes_per_second).filter(|&rate| rate > 0);
        self
    }

    /// Limits the bytes that are written to all files of the output together: guest data, metadata,
    /// explicit zeros and reserved space. Holes do not count, except in a pipe, and shared blocks
    /// count as if they were written. Bytes that are written twice, such as a header, count twice.
    /// Of an existing image ([`run_existing`](Self::run_existing)), only guest data counts.
    ///
    /// A conversion that exceeds it fails with [`Limit`](crate::ErrorKind::Limit).
    /// [`Limits::output_bytes`](crate::Limits::output_bytes) of a source is a limit as well.
    #[must_use]
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.settings.max_size = Some(bytes);
        self
    }

    /// Sets whether unreadable data is replaced by zeros instead of ending the conversion.
    /// [`Report::salvaged`] lists the affected ranges.
    #[must_use]
    pub fn salvage(mut self, yes: bool) -> Self {
        self.settings.salvage = yes;
        self
    }

    /// Sets whether data that the output stores verbatim shares its blocks with the source. Zeros
    /// inside shared runs are not detected; they take no additional space. With
    /// [`salvage`](Self::salvage), [`Reflink::Auto`] shares nothing.
    #[must_use]
    pub fn reflink(mut self, reflink: Reflink) -> Self {
        self.settings.reflink = reflink;
        self
    }

    /// Sets whether the kernel copies (`copy_file_range`) data that cannot be shared. Zeros inside
    /// copied runs are not detected and take space.
    #[must_use]
    pub fn offload(mut self, yes: bool) -> Self {
        self.settings.offload = yes;
        self
    }

    /// Sets whether compressed units are always decoded and compressed again. By default they are
    /// copied as stored if source and output use the same codec and unit size and no compression
    /// level was requested.
    #[must_use]
    pub fn recompress(mut self, yes: bool) -> Self {
        self.settings.recompress = yes;
        self
    }

    /// Sets whether compressed units that are copied as stored are not decoded to find damage. The
    /// conversion takes less time, but damage in the source is copied, and found when the output is
    /// read.
    #[must_use]
    pub fn trust_source(mut self, yes: bool) -> Self {
        self.settings.trust_source = yes;
        self
    }

    /// Sets whether the output is read back and compared with the source after it was flushed and
    /// before it is renamed to its final name. This reads both images once more; the output is
    /// dropped from the page cache first. Output to a pipe or a writer cannot be verified.
    ///
    /// If the output differs, the conversion fails with [`Corrupt`](crate::ErrorKind::Corrupt) and
    /// no file is left behind. An output that was written in place is not restored.
    #[must_use]
    pub fn verify(mut self, yes: bool) -> Self {
        self.settings.verify = yes;
        self
    }

    /// Requests digests ([`Report::digests`]) of the guest's bytes, computed during the conversion,
    /// and of each output file, which is read back for this. Zeros are hashed too, so holes are
    /// not free.
    #[must_use]
    pub fn digest(mut self, algorithm: DigestAlgorithm) -> Self {
        self.settings.digest = Some(algorithm);
        self
    }

    /// Sets whether the output is on stable storage when the conversion returns.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.settings.durability = durability;
        self
    }

    /// Sets how the page cache is used for the output. For the source this is set in its
    /// [`OpenOptions`](crate::OpenOptions).
    #[must_use]
    pub fn caching(mut self, caching: Caching) -> Self {
        self.settings.caching = caching;
        self
    }

    /// Declares that the target of [`run_existing`](Self::run_existing) reads as zeros, so that
    /// zeros need not be written.
    #[must_use]
    pub fn target_is_zero(mut self, yes: bool) -> Self {
        self.settings.target_is_zero = yes;
        self
    }

    /// Sets whether the output gets the dirty bitmaps of the source: names, granularities, contents,
    /// and whether they are enabled. Those of its backing files are not copied. There must be a
    /// single source, of a format with bitmaps, and the output must have the same size. An existing
    /// image ([`run_existing`](Self::run_existing)) keeps its own bitmaps as well, which must have
    /// other names.
    ///
    /// If a bitmap is inconsistent, the conversion fails before anything is written.
    #[must_use]
    pub fn bitmaps(mut self, yes: bool) -> Self {
        self.settings.bitmaps = yes;
        self
    }

    /// Sets whether [`bitmaps`](Self::bitmaps) leaves out inconsistent bitmaps, with a
    /// [warning](Report::warnings).
    #[must_use]
    pub fn skip_broken_bitmaps(mut self, yes: bool) -> Self {
        self.settings.skip_broken_bitmaps = yes;
        self
    }

    /// Sets whether a source that comes with digests of its files (an appliance) is verified before
    /// the conversion starts, which reads it once more. The default is true. See
    /// [`Layer::verify_manifest`](crate::Layer::verify_manifest).
    #[must_use]
    pub fn verify_manifest(mut self, yes: bool) -> Self {
        self.settings.verify_manifest = yes;
        self
    }

    /// Requires that the source's file has this digest, in hexadecimal. It is read once more for
    /// this, before the conversion starts, after its metadata was read to open it.
    ///
    /// The source must be one image in one file: not an appliance, whose files have digests of their
    /// own ([`verify_manifest`](Self::verify_manifest)), and without a backing file.
    #[must_use]
    pub fn source_digest(mut self, algorithm: DigestAlgorithm, digest: &str) -> Self {
        self.settings.source_digest = Some((algorithm, digest.to_ascii_lowercase()));
        self
    }

    /// Sets a callback that receives progress and can cancel the conversion.
    #[must_use]
    pub fn progress(mut self, callback: Callback<'a>) -> Self {
        self.settings.progress = Some(callback);
        self
    }

    /// Converts into a new file, which appears under `path` when it is complete. An existing file
    /// is replaced only then. A device is written in place; `-` is standard output.
    ///
    /// # Errors
    /// Returns any error from reading the source and from creating or writing the output,
    /// [`Refused`](crate::ErrorKind::Refused) if the output is one of the source's own files,
    /// [`Limit`](crate::ErrorKind::Limit) if the source or the output exceeds a limit, and
    /// [`Cancelled`](crate::ErrorKind::Cancelled) if the progress callback stops the conversion.
    /// No file is left behind after an error.
    pub fn run(self, path: impl AsRef<Path>) -> Result<Report> {
        let path = path.as_ref();
        if path == Path::new("-") {
            let output = Output::stdout();
            return self
                .run_to(output.map_err(|e| Error::io("cannot write to standard output", e))?);
        }
        let path = local_path(path).map_err(|e| e.in_file(path))?;
        let input = self.settings.join(self.images)?;
        refuse_own_files(&input, existing_identity(&path), &path)?;
        // Opening a named pipe blocks until it has a reader; the callback can cancel that.
        let mut is_cancelled = || report(self.settings.progress, 0, input.size()).is_err();
        let output =
            Output::create_unless(&path, &mut is_cancelled).map_err(|e| match e.kind() {
                std::io::ErrorKind::Interrupted => Error::cancelled(),
                _ => Error::io("cannot create the output", e).in_file(&path),
            })?;
        self.settings.run(input, output, None)
    }

    /// Returns what [`run`](Self::run) would do, without creating or changing anything. The metadata
    /// of the source is read, and all of it if digests were given for it
    /// ([`source_digest`](Self::source_digest), [`verify_manifest`](Self::verify_manifest)).
    ///
    /// # Errors
    /// The errors of [`run`](Self::run) that are known before data is read and written.
    pub fn plan(self, path: impl AsRef<Path>) -> Result<Plan> {
        let path = path.as_ref();
        let input = self.settings.join(self.images)?;
        if path == Path::new("-") {
            return self.settings.plan(input, Planned::stdout(), None);
        }
        let path = local_path(path).map_err(|e| e.in_file(path))?;
        refuse_own_files(&input, existing_identity(&path), &path)?;
        self.settings.plan(input, planning::output(&path)?, None)
    }

    /// Returns what [`run_existing`](Self::run_existing) would do, without changing the image. It is
    /// locked meanwhile.
    ///
    /// # Errors
    /// The errors of [`run_existing`](Self::run_existing) that are known before data is read and
    /// written.
    pub fn plan_existing(self, path: impl AsRef<Path>) -> Result<Plan> {
        let path = path.as_ref();
        let path = local_path(path).map_err(|e| e.in_file(path))?;
        let input = self.settings.join(self.images)?;
        refuse_own_files(&input, existing_identity(&path), &path)?;
        existing::plan(self.settings, input, &path)
    }

    /// Returns what writing a new image to another [`Output`], called `name`, would do: one that is
    /// not a file of this host and takes bytes in any order. It is assumed that it can be created.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_elsewhere(self, name: &str) -> Result<Plan> {
        let input = self.settings.join(self.images)?;
        self.settings.plan(input, Planned::elsewhere(name), None)
    }

    /// Returns what [`run_existing_on`](Self::run_existing_on) would do, without changing the image.
    ///
    /// # Errors
    /// As [`plan_existing`](Self::plan_existing).
    pub fn plan_existing_on(
        self,
        storage: Arc<dyn Storage>,
        name: impl Into<String>,
    ) -> Result<Plan> {
        let (name, input) = (name.into(), self.settings.join(self.images)?);
        refuse_own_files(&input, storage.identity(), Path::new(&name))?;
        existing::plan_on(self.settings, input, storage, name)
    }

    /// Converts into an existing image that is large enough. Its data beyond the size of the source
    /// is kept, and so are its options, snapshots, backing file, data file and extents; bitmaps
    /// record what is written. Create options are ignored.
    ///
    /// The guest data is written in place. After a failure, the image is consistent, and each guest
    /// byte is the old or the new one. A stream-optimized VMDK cannot be written in place and is
    /// replaced by a new one with the same options.
    ///
    /// With [`backing`](Self::backing), which must have the same content as the target's backing
    /// file, what is the same in both becomes unallocated. The files that the target names are
    /// opened as [`backing_options`](Self::backing_options) say.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Invalid`](crate::ErrorKind::Invalid) if the target is too
    /// small, [`Corrupt`](crate::ErrorKind::Corrupt) if it is damaged, and
    /// [`Locked`](crate::ErrorKind::Locked) if another process uses it.
    pub fn run_existing(self, path: impl AsRef<Path>) -> Result<Report> {
        let path = path.as_ref();
        let path = local_path(path).map_err(|e| e.in_file(path))?;
        let input = self.settings.join(self.images)?;
        refuse_own_files(&input, existing_identity(&path), &path)?;
        existing::run(self.settings, input, &path)
    }

    /// Converts into an existing image in any storage; see [`run_existing`](Self::run_existing).
    /// Errors refer to the image as `name`.
    ///
    /// # Errors
    /// As [`run_existing`](Self::run_existing), and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the image can only be written as a whole.
    pub fn run_existing_on(
        self,
        storage: Arc<dyn Storage>,
        name: impl Into<String>,
    ) -> Result<Report> {
        let (name, input) = (name.into(), self.settings.join(self.images)?);
        refuse_own_files(&input, storage.identity(), Path::new(&name))?;
        existing::run_on(self.settings, input, storage, name)
    }

    /// Converts into an [`Output`] that the caller provides.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_to(self, output: Output) -> Result<Report> {
        let input = self.settings.join(self.images)?;
        refuse_own_files(&input, output.existing(), Path::new(&output.name()))?;
        self.settings.run(input, output, None)
    }
}
