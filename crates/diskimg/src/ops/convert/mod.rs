//! Conversion: plan → work → place.
//!
//! 1. [`plan`] asks the source for extents and cuts what is not known to be
//!    zero into tasks; holes cost nothing per byte. [`share`] says what goes from
//!    file to file.
//! 2. [`carry`] fetches, looks for zeros, encodes: on all workers. [`pass`] says
//!    what stays encoded as it is.
//! 3. [`place`] lets the target allocate, in guest order; the workers write.
//!
//! The output depends on the source's bytes, the options, and on what can be
//! shared; never on the number of threads.

mod digest;
mod existing;
mod hash;
mod input;
mod pass;
mod place;
mod plan;
mod read_back;
mod run;
mod salvage;
mod share;
mod task;
mod throttle;
mod transfer;

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::options::Options;
use crate::model::target::Backing;
use crate::open::external_files::ExternalFiles;
use crate::open::limits::Limits;
use crate::open::local_path;
use crate::ops::progress::{Callback, report};
use crate::storage::caching::Caching;
use crate::storage::output::{Durability, Output};
use run::refuse_own_files;
use std::fmt;
use std::ops::Range;
use std::path::Path;

pub use hash::{DigestAlgorithm, Digests, FileDigest};
pub use share::Reflink;

/// Images are made of sectors of this many bytes, except raw files.
const SECTOR: u64 = 512;

/// When a run of zeros becomes a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sparse {
    /// Never: every byte is written, the output is fully allocated.
    Off,
    /// When it fills an aligned block of this many bytes: at least 512, rounded
    /// up to a power of two; more than 2 MiB counts as 2 MiB. A format with
    /// clusters leaves out what is whole clusters of such blocks.
    Blocks(u64),
}

/// The largest block of zeros that is looked for as one: blocks are held in memory.
const MAX_HOLE_BLOCK: u64 = 2 << 20;

impl Sparse {
    /// The same in blocks that the engine works with.
    fn whole_blocks(self) -> Result<Self> {
        match self {
            Self::Blocks(block) if block < SECTOR => Err(Error::invalid(format!(
                "holes of {block} bytes: they must have at least {SECTOR}"
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

/// A conversion, to be configured and run.
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

/// Everything but the source.
struct Settings<'a> {
    format: Format,
    options: Options,
    compress: bool,
    backing: Option<Backing>,
    backing_external_files: ExternalFiles,
    backing_limits: Limits,
    sparse: Sparse,
    threads: Option<usize>,
    rate_limit: Option<u64>,
    salvage: bool,
    reflink: Reflink,
    offload: bool,
    recompress: bool,
    verify: bool,
    digest: Option<DigestAlgorithm>,
    durability: Durability,
    caching: Caching,
    target_is_zero: bool,
    verify_manifest: bool,
    progress: Option<Callback<'a>>,
}

/// What a conversion did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Size of the disk, in guest bytes; several disks are counted with the gaps
    /// between them.
    pub guest_bytes: u64,
    /// Bytes of guest data in the output, after encoding.
    pub stored_bytes: u64,
    /// How many of these share their blocks with the source
    /// ([`Convert::reflink`]) and took no space.
    pub shared_bytes: u64,
    /// Guest bytes of compressed units that were taken as the source stores them
    /// ([`Convert::recompress`]).
    pub passed_bytes: u64,
    /// What could not be read and was replaced by zeros ([`Convert::salvage`]),
    /// in guest order.
    pub salvaged: Vec<Salvaged>,
    /// What was damaged in the source and is made up for: see
    /// [`Image::warnings`].
    pub warnings: Vec<String>,
    /// The output was read again and says what the source says ([`Convert::verify`]).
    pub verified: bool,
    /// What was asked for by [`Convert::digest`].
    pub digests: Option<Digests>,
}

/// Guest bytes that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// Which.
    pub guest: Range<u64>,
    /// Why.
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
    /// Converts `image`; to raw, unless [`format`](Self::format) says otherwise.
    pub fn new(image: Image) -> Self {
        Self {
            images: vec![image],
            settings: Settings {
                format: Format::default(),
                options: Options::default(),
                compress: false,
                backing: None,
                backing_external_files: ExternalFiles::default(),
                backing_limits: Limits::default(),
                sparse: Sparse::default(),
                threads: None,
                rate_limit: None,
                salvage: false,
                reflink: Reflink::default(),
                offload: false,
                recompress: false,
                verify: false,
                digest: None,
                durability: Durability::default(),
                caching: Caching::default(),
                target_is_zero: false,
                verify_manifest: true,
                progress: None,
            },
        }
    }

    /// A further image, whose guest bytes follow the last one's in the same
    /// output, starting at a whole sector. In an appliance it is a disk of its own.
    #[must_use]
    pub fn append(mut self, image: Image) -> Self {
        self.images.push(image);
        self
    }

    /// The output's format.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.settings.format = format;
        self
    }

    /// The output's create options; see [`Format::options`].
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.settings.options = options;
        self
    }

    /// Whether the output's units shall be compressed.
    #[must_use]
    pub fn compress(mut self, yes: bool) -> Self {
        self.settings.compress = yes;
        self
    }

    /// The output builds on this image: only what differs from it is written.
    /// A relative name is resolved against the output's directory.
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.settings.backing = Some(backing);
        self
    }

    /// Which files the [`backing`](Self::backing) image may name, in its turn.
    #[must_use]
    pub fn backing_external_files(mut self, policy: ExternalFiles) -> Self {
        self.settings.backing_external_files = policy;
        self
    }

    /// Bounds on what the new image's backing image may demand.
    #[must_use]
    pub fn backing_limits(mut self, limits: Limits) -> Self {
        self.settings.backing_limits = limits;
        self
    }

    /// When a run of zeros becomes a hole.
    #[must_use]
    pub fn sparse(mut self, sparse: Sparse) -> Self {
        self.settings.sparse = sparse;
        self
    }

    /// How many threads work at most (16 are enough for anything); by default as many as there are
    /// processors, fewer under a limit on the address space.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.settings.threads = Some(threads);
        self
    }

    /// No more than this many bytes are written per second, on average.
    #[must_use]
    pub fn rate_limit(mut self, bytes_per_second: u64) -> Self {
        self.settings.rate_limit = Some(bytes_per_second).filter(|&rate| rate > 0);
        self
    }

    /// Replaces what cannot be read by zeros, and goes on;
    /// [`Report::salvaged`] tells what.
    #[must_use]
    pub fn salvage(mut self, yes: bool) -> Self {
        self.settings.salvage = yes;
        self
    }

    /// Whether stored runs share their blocks with the source, where the output stores them
    /// verbatim. Zeros inside such runs are not looked for: they cost no space. A
    /// [salvage](Self::salvage) shares nothing by default.
    #[must_use]
    pub fn reflink(mut self, reflink: Reflink) -> Self {
        self.settings.reflink = reflink;
        self
    }

    /// Whether the kernel copies stored runs that cannot be shared. Zeros inside them are
    /// not looked for, and take space.
    #[must_use]
    pub fn offload(mut self, yes: bool) -> Self {
        self.settings.offload = yes;
        self
    }

    /// Whether compressed units are decoded and compressed anew even where the output takes
    /// them as the source stores them (same codec, same unit). So is everything where a
    /// compression level is asked for.
    #[must_use]
    pub fn recompress(mut self, yes: bool) -> Self {
        self.settings.recompress = yes;
        self
    }

    /// Whether the output is opened and read again when all of it is written and flushed, and
    /// compared with the source, before it gets its name: one more pass over both. A file
    /// leaves the page cache for that. What goes to a pipe or a writer cannot be verified.
    ///
    /// An output that differs is [`Corrupt`](crate::ErrorKind::Corrupt), and no file is left
    /// behind; what was written in place is what it is.
    #[must_use]
    pub fn verify(mut self, yes: bool) -> Self {
        self.settings.verify = yes;
        self
    }

    /// Asks for digests ([`Report::digests`]): of the guest's bytes, computed as they are
    /// task; and of each file that is written, which is read again for that. Every byte of
    /// the disk counts, so this takes its time for zeros, too.
    #[must_use]
    pub fn digest(mut self, algorithm: DigestAlgorithm) -> Self {
        self.settings.digest = Some(algorithm);
        self
    }

    /// Whether the output is on stable storage when the conversion returns.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.settings.durability = durability;
        self
    }

    /// What becomes of the page cache while the output is written. How the source
    /// is read, its [`OpenOptions`](crate::OpenOptions) say.
    #[must_use]
    pub fn caching(mut self, caching: Caching) -> Self {
        self.settings.caching = caching;
        self
    }

    /// For [`run_existing`](Self::run_existing): the caller knows that the
    /// target reads as zeros, so zeros need not be written.
    #[must_use]
    pub fn target_is_zero(mut self, yes: bool) -> Self {
        self.settings.target_is_zero = yes;
        self
    }

    /// Whether a source that comes with digests of its files (an appliance) is
    /// verified before the first byte is converted, which reads it once more;
    /// the default. See [`Layer::verify_manifest`](crate::Layer::verify_manifest).
    #[must_use]
    pub fn verify_manifest(mut self, yes: bool) -> Self {
        self.settings.verify_manifest = yes;
        self
    }

    /// Called as the work goes on; may stop it.
    #[must_use]
    pub fn progress(mut self, callback: Callback<'a>) -> Self {
        self.settings.progress = Some(callback);
        self
    }

    /// Converts into a new file, which appears under `path` when it is
    /// complete. A file that was there stays whole until then. A device is
    /// written in place; `-` is standard output.
    ///
    /// # Errors
    /// Whatever reading the source, creating or writing the output said;
    /// [`Refused`](crate::ErrorKind::Refused) if the output is one of the
    /// source's own files; [`Cancelled`](crate::ErrorKind::Cancelled). No file
    /// is left behind then.
    pub fn run(self, path: impl AsRef<Path>) -> Result<Report> {
        let path = path.as_ref();
        if path == Path::new("-") {
            return self.run_to(Output::writer(std::io::stdout()));
        }
        let path = local_path(path).map_err(|e| e.in_file(path))?;
        let input = self.settings.join(self.images)?;
        refuse_own_files(&input, &path)?;
        // A pipe may wait for its reader for ever.
        let mut stopped = || report(self.settings.progress, 0, input.size()).is_err();
        let output = Output::create_unless(&path, &mut stopped).map_err(|e| match e.kind() {
            std::io::ErrorKind::Interrupted => Error::cancelled(),
            _ => Error::io("cannot create the output", e).in_file(&path),
        })?;
        self.settings.run(input, output, None)
    }

    /// Converts into a file or device that exists already and is large enough;
    /// what lies behind the source's size in it stays.
    ///
    /// Raw targets are overwritten where they stand. Images of other formats
    /// are rewritten with their own create options.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Invalid`](crate::ErrorKind::Invalid) if the
    /// target is too small.
    pub fn run_existing(self, path: impl AsRef<Path>) -> Result<Report> {
        let path = path.as_ref();
        let path = local_path(path).map_err(|e| e.in_file(path))?;
        let input = self.settings.join(self.images)?;
        refuse_own_files(&input, &path)?;
        existing::run(self.settings, input, &path)
    }

    /// Converts into an [`Output`] of the caller's.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_to(self, output: Output) -> Result<Report> {
        let input = self.settings.join(self.images)?;
        self.settings.run(input, output, None)
    }
}
