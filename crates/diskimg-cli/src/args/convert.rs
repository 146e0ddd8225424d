//! Arguments of `convert`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input, Policy};
use crate::failure::Failure;
use crate::output::Program;
use crate::output::progress::{ProgressFormat, ProgressMode};
use crate::output::report::ReportFormat;
use crate::remote::{self, NetworkArgs, Server};
use diskimg::open::local_path;
use diskimg::{
    Caching, DigestAlgorithm, Durability, ExternalFiles, Format, OpenOptions, Options, Reflink,
    Sparse,
};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  diskimg convert -c disk.vmdk disk.qcow2
  diskimg convert -O vmdk -o subformat=streamOptimized disk.raw disk.vmdk
  diskimg convert -O qcow2 appliance.ova:2 disk.qcow2
  diskimg convert -O ova -o name=web,memory=4G a.qcow2 b.vmdk web.ova

Several SRC are concatenated or, with -O ova, become one disk each. FILE.ova:N is disk N of an
appliance. DST is created or replaced when it is complete. '-' is standard input or output.
Sizes may end in k, M, G, T, P or E.";

const NO_UPLOAD: &str = "--resume is for new images in stores (s3: URLs)";

/// Maximum value of `-S`, as in QEMU.
const MAX_SPARSE: u64 = 16 << 20;

/// Convert an image to another format.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The source images and the image to write.
    #[arg(value_name = "SRC... DST", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Format of SRC (default: probed)
    #[arg(short = 'f', long, value_name = "FMT", alias = "format")]
    source_format: Option<String>,
    /// Format of DST (default: by extension)
    #[arg(long_help = "Format of DST (default: from its extension, else raw)")]
    #[arg(short = 'O', long, value_name = "FMT", alias = "target-format")]
    output_format: Option<String>,
    /// Options of the format ('help': a list)
    #[arg(long_help = "Set options of the output format, which 'help' lists; repeatable")]
    #[arg(short, long, value_name = "NAME=VALUE,...", alias = "target-options")]
    options: Vec<String>,
    /// Compress the output
    #[arg(short, long)]
    compress: bool,
    /// Write only what differs from FILE
    #[arg(long_help = "Use FILE as the backing file of DST; write only differences")]
    #[arg(short = 'B', long, value_name = "FILE")]
    backing: Option<String>,
    /// Format of the backing file (with -B)
    #[arg(long_help = "Format of the backing file; required with -B")]
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,
    /// Convert this snapshot of SRC
    #[arg(long_help = "Convert this internal snapshot of SRC: an ID or a name")]
    #[arg(short = 'l', long, value_name = "SNAPSHOT", alias = "source-snapshot")]
    snapshot: Option<String>,
    /// Shortest hole (default: 4k); 0: none
    #[arg(long_help = "Minimum run of zeros stored as a hole; 0: no holes (default: 4k)")]
    #[arg(short = 'S', long, value_name = "SIZE")]
    sparse_size: Option<String>,
    /// Write into the existing image DST
    #[arg(long_help = "Write into the existing image DST, which keeps its options")]
    #[arg(short = 'n', long)]
    no_create: bool,
    /// Check all, say what would be written
    #[arg(long_help = "Check everything, say what would be written, and change nothing")]
    #[arg(long)]
    dry_run: bool,
    /// Replace an existing DST by several SRC
    #[arg(long_help = "Replace an existing DST even with several SRC")]
    #[arg(long)]
    force: bool,
    /// Fail if DST exists
    #[arg(long_help = "Fail if DST exists, instead of replacing it; also on S3")]
    #[arg(long)]
    no_clobber: bool,
    /// With -n: assume that DST reads as zeros
    #[arg(long)]
    target_is_zero: bool,
    /// Replace unreadable data with zeros
    #[arg(long_help = "Replace unreadable data with zeros and continue")]
    #[arg(long)]
    salvage: bool,
    /// Contradictions in an OVA are errors
    #[arg(long_help = "Treat contradictions in an OVA or OVF source as errors")]
    #[arg(long)]
    strict: bool,
    /// Do not verify the manifest of an OVA
    #[arg(long_help = "Do not verify an OVA or OVF source against its manifest")]
    #[arg(long)]
    no_verify: bool,
    /// Fail unless SRC has this digest
    #[arg(long_help = "Require that the file SRC has this SHA-256 digest")]
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Threads, 1 to 16 (default: all CPUs)
    #[arg(long_help = "Maximum number of threads, 1 to 16 (default: number of processors)")]
    #[arg(short = 'm', long, value_name = "N", alias = "parallel")]
    threads: Option<String>,
    /// Write at most BYTES per second
    #[arg(short, long, value_name = "BYTES")]
    rate: Option<String>,
    /// Continue an upload that STATE records
    #[arg(long_help = "Record the upload to an s3: URL in STATE, and continue it if STATE exists")]
    #[arg(long, value_name = "STATE", value_hint = clap::ValueHint::FilePath)]
    resume: Option<PathBuf>,
    /// Write at most SIZE bytes
    #[arg(long_help = "Write at most SIZE bytes to the files of DST together")]
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// Cache mode of DST
    #[arg(long_help = "DST's cache mode: none, directsync (direct I/O), unsafe (no flush)")]
    #[arg(short = 't', long, value_name = "MODE", alias = "target-cache")]
    cache: Option<String>,
    /// Cache mode of SRC
    #[arg(long_help = "Cache mode of SRC: as for -t")]
    #[arg(short = 'T', long, value_name = "MODE")]
    source_cache: Option<String>,
    /// Share blocks with SRC: auto, always, never
    #[arg(
        long_help = "Share data with SRC by reflink: auto, always (or fail), never (default: auto, or never with -S or --salvage)"
    )]
    #[arg(long, value_name = "WHEN")]
    reflink: Option<String>,
    /// Copy data in the kernel, with its zeros
    #[arg(long_help = "Copy data with copy_file_range; do not detect zeros in it")]
    #[arg(short = 'C', long)]
    copy_range_offloading: bool,
    /// Do not copy compressed clusters as is
    #[arg(long_help = "Recompress data instead of copying compressed clusters from SRC")]
    #[arg(long)]
    recompress: bool,
    /// Do not verify clusters copied as is
    #[arg(long_help = "Do not verify compressed clusters that are copied from SRC")]
    #[arg(long)]
    trust_source: bool,
    /// Read DST back and compare it with SRC
    #[arg(long_help = "Read the new image back and compare it with SRC")]
    #[arg(long)]
    verify: bool,
    /// Print digests: sha256, blake3
    #[arg(long_help = "Print digests of the disk and of each file written: sha256, blake3")]
    #[arg(long, value_name = "ALGORITHM")]
    digest: Option<String>,
    /// Print a summary, or JSON (=json)
    #[arg(long_help = "Print a summary to standard error; =json: as JSON")]
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "text", hide_possible_values = true)]
    report: Option<ReportFormat>,
    /// Accepted for compatibility; has no effect
    #[arg(short = 'W', long, hide = true)]
    oob_writes: bool,
    /// Print percentages, or JSON (=json)
    #[arg(long_help = "Print (12.34/100%), or lines of JSON to standard error (=json)")]
    #[arg(short, long, value_name = "FORMAT", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "text", hide_possible_values = true)]
    progress: Option<ProgressFormat>,
    /// Show neither progress nor a summary
    #[arg(long_help = "Show neither progress nor a summary, even on a terminal")]
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image_args: ImageArgs,
    #[command(flatten)]
    network_args: NetworkArgs,
    #[arg(long, hide = true)]
    target_image_opts: bool,
    /// Copy the dirty bitmaps of SRC
    #[arg(long_help = "Copy the dirty bitmaps of SRC, not those of its backing files (qcow2)")]
    #[arg(long)]
    bitmaps: bool,
    /// Leave out inconsistent bitmaps
    #[arg(long_help = "With --bitmaps: leave out inconsistent bitmaps instead of failing")]
    #[arg(long)]
    skip_broken_bitmaps: bool,
}

/// A conversion.
#[derive(Debug)]
pub(crate) struct Job {
    /// The sources; at least one.
    pub(crate) inputs: Vec<Input>,
    /// Where the image is written.
    pub(crate) output: Destination,
    /// `-O`.
    pub(crate) format: Format,
    /// `-o`, `-B` and `-F`.
    pub(crate) options: Options,
    /// `-c`.
    pub(crate) compress: bool,
    /// How the backing file is opened.
    pub(crate) backing_options: OpenOptions,
    /// Files that the backing file may refer to.
    pub(crate) external_files: ExternalFiles,
    /// Files that may be parents.
    pub(crate) parents: Vec<PathBuf>,
    /// `--reflink`.
    pub(crate) reflink: Reflink,
    /// `--recompress`.
    pub(crate) recompress: bool,
    /// `--trust-source`.
    pub(crate) trust_source: bool,
    /// `--verify`.
    pub(crate) verify: bool,
    /// `--digest`.
    pub(crate) digest: Option<DigestAlgorithm>,
    /// `--report`.
    pub(crate) report: Option<ReportFormat>,
    /// `-C`.
    pub(crate) offload: bool,
    /// `-S`.
    pub(crate) sparse: Sparse,
    /// `-m`.
    pub(crate) threads: Option<usize>,
    /// `-r`.
    pub(crate) rate: Option<u64>,
    /// `--resume`.
    pub(crate) resume: Option<PathBuf>,
    /// `--max-size`.
    pub(crate) max_size: Option<u64>,
    /// `--salvage`.
    pub(crate) salvage: bool,
    /// False with `--no-verify`.
    pub(crate) verify_manifest: bool,
    /// `--sha256`.
    pub(crate) sha256: Option<String>,
    /// `--dry-run`.
    pub(crate) dry_run: bool,
    /// `--no-clobber`.
    pub(crate) no_clobber: bool,
    /// `--target-is-zero`.
    pub(crate) target_is_zero: bool,
    /// `--bitmaps`.
    pub(crate) bitmaps: bool,
    /// `--skip-broken-bitmaps`.
    pub(crate) skip_broken_bitmaps: bool,
    /// `-t`.
    pub(crate) durability: Durability,
    /// `-t`.
    pub(crate) caching: Caching,
    /// `-p`, `-q`.
    pub(crate) progress: ProgressMode,
}

/// Where the converted image is written.
#[derive(Debug)]
pub(crate) enum Destination {
    /// A new file, or a device.
    New(PathBuf),
    /// An existing image, into which the guest data is written (`-n`).
    Existing(PathBuf),
    /// A new image on a server.
    NewOn(Server),
    /// An existing image on a server (`-n`).
    ExistingOn(Server),
    /// Standard output.
    Stdout,
}

impl Destination {
    /// Returns the image if it is on a server.
    pub(crate) fn server(&self) -> Option<&Server> {
        match self {
            Self::NewOn(server) | Self::ExistingOn(server) => Some(server),
            Self::New(_) | Self::Existing(_) | Self::Stdout => None,
        }
    }
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(mut self, program: Program) -> Result<Parsed<Job>, Failure> {
        self.check_conflicts()?;
        let policy = self.image_args.policy()?.with_network(self.network_args.clone());
        let described = self.described_target(&policy)?;
        let format = common::new_format(self.output_format.as_deref(), self.files.last(), program)?;
        let Some(mut options) = common::create_options(&self.options)? else {
            return Ok(Parsed::Show(common::options_help(format, !self.files.is_empty())));
        };
        common::suggest_option(&options, format)?;
        if !self.no_create {
            common::set_qemu_defaults(&mut options, format, program);
        }
        common::add_backing(&mut options, self.backing.take(), self.backing_format.take())?;
        if options.get("backing_file").is_some() && options.get("backing_fmt").is_none() {
            return Err(Failure::error(
                "Use of backing file requires explicit backing format (-F)",
            ));
        }
        common::check_cache_mode("source cache", self.source_cache.as_deref())?;
        let durability = common::durability(self.cache.as_deref())?;
        let output = match self.files.pop() {
            Some(name) if !self.files.is_empty() => match described {
                Some(server) => self.existing_on(server)?,
                None => self.destination(&name, &policy)?,
            },
            _ => {
                return Err(Failure::usage(
                    "convert",
                    "Must specify image file names, SRC and DST",
                ));
            }
        };
        if let Destination::New(path) = &output
            && self.files.len() > 1
            && !self.force
            && program != Program::QemuImg
            && std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0)
        {
            return Err(Failure::error(format!(
                "{} exists and would be replaced by {} images in one (--force replaces it)",
                path.display(),
                self.files.len()
            )));
        }
        let progress = ProgressMode {
            requested: self.progress,
            quiet: self.quiet,
            stdout_taken: matches!(output, Destination::Stdout),
        };
        Ok(Parsed::Job(Job {
            inputs: self.inputs(&policy)?,
            output,
            format,
            options,
            compress: self.compress,
            backing_options: policy.options(),
            external_files: policy.external_files,
            parents: policy.parents,
            offload: self.copy_range_offloading,
            sparse: sparse(self.sparse_size.as_deref())?,
            threads: threads(self.threads.as_deref())?,
            rate: self.rate.as_deref().map(|r| common::size("rate limit", r)).transpose()?,
            resume: self.resume.clone(),
            max_size: self
                .max_size
                .as_deref()
                .map(|s| common::size("--max-size", s))
                .transpose()?,
            salvage: self.salvage,
            verify_manifest: !self.no_verify,
            sha256: self.sha256.as_deref().map(sha256).transpose()?,
            reflink: self.reflink()?,
            recompress: self.recompress,
            trust_source: self.trust_source,
            verify: self.verify,
            digest: self.digest.as_deref().map(str::parse).transpose()?,
            report: self.report,
            dry_run: self.dry_run,
            no_clobber: self.no_clobber,
            target_is_zero: self.target_is_zero,
            bitmaps: self.bitmaps,
            skip_broken_bitmaps: self.skip_broken_bitmaps,
            durability,
            caching: common::caching(self.cache.as_deref()),
            progress,
        }))
    }

    /// Rejects unsupported options and options that contradict each other.
    fn check_conflicts(&self) -> Result<(), Failure> {
        if self.skip_broken_bitmaps && !self.bitmaps {
            return Err(Failure::error("Use of --skip-broken-bitmaps requires --bitmaps"));
        }
        let requests_help = matches!(common::create_options(&self.options), Ok(None));
        if self.no_create && !self.options.is_empty() && !requests_help {
            return Err(Failure::error("-o has no effect when skipping image creation (-n)"));
        }
        if self.target_image_opts && !self.no_create {
            return Err(Failure::error("--target-image-opts requires use of -n flag"));
        }
        if self.no_clobber && (self.no_create || self.force) {
            let other = if self.no_create { "-n" } else { "--force" };
            let message = format!("--no-clobber and {other} are mutually exclusive");
            return Err(Failure::error(message));
        }
        if self.copy_range_offloading && self.sparse_size.is_some() {
            return Err(Failure::error("Cannot enable copy offloading when -S is used"));
        }
        if self.copy_range_offloading && self.compress {
            return Err(Failure::error("Cannot enable copy offloading when -c is used"));
        }
        if self.target_is_zero && !self.no_create {
            return Err(Failure::error("--target-is-zero requires use of -n flag"));
        }
        Ok(())
    }

    /// Replaces the description of an existing target by its file name and format, or returns the
    /// server that it describes.
    fn described_target(&mut self, policy: &Policy) -> Result<Option<Server>, Failure> {
        let Some(name) = self.files.last_mut().filter(|_| self.no_create) else { return Ok(None) };
        let policy = policy.describing_images(self.target_image_opts);
        let server = policy.described_server(Path::new(name))?;
        let format = match &server {
            Some((_, format)) => *format,
            None => match policy.described_file(Path::new(name))? {
                Some(target) => {
                    *name = target.path.into_os_string();
                    target.format
                }
                None => None,
            },
        };
        if let Some(format) = format {
            self.output_format = Some(format.name().to_owned());
        }
        Ok(server.map(|(server, _)| server))
    }

    /// Returns an existing image on a server, which must not be one of the sources.
    fn existing_on(&self, server: Server) -> Result<Destination, Failure> {
        self.require_other_sources(&server)?;
        remote::prepare(server.url.scheme());
        Ok(Destination::ExistingOn(server))
    }

    fn require_other_sources(&self, server: &Server) -> Result<(), Failure> {
        let is_same = |name: &OsString| remote::url(Path::new(name)).as_ref() == Some(&server.url);
        match self.files.iter().any(is_same) {
            true => {
                let url = &server.url;
                Err(Failure::error(format!("{url}: the output is one of the sources")))
            }
            false => Ok(()),
        }
    }

    /// Returns the reflink mode. With `-S`, the default is not to share, because zeros in shared
    /// data are not detected and sharing does not allocate space.
    fn reflink(&self) -> Result<Reflink, Failure> {
        match self.reflink.as_deref() {
            None if self.sparse_size.is_some() => Ok(Reflink::Never),
            None => Ok(Reflink::Auto),
            Some(mode) => mode.parse().map_err(|e| Failure::error(format!("--reflink: {e}"))),
        }
    }

    fn inputs(&self, policy: &Policy) -> Result<Vec<Input>, Failure> {
        if self.files.iter().filter(|name| *name == "-").count() > 1 {
            return Err(Failure::error("standard input can be read only once"));
        }
        let snapshot = common::snapshot(self.snapshot.as_deref())?;
        if snapshot.is_some() && self.files.len() > 1 {
            return Err(Failure::error("a snapshot (-l) can be read only with a single SRC"));
        }
        let caching = common::caching(self.source_cache.as_deref());
        let input = |name| {
            let mut input = Input::new(name, self.source_format.as_deref(), policy)?;
            let options = input.options.snapshot(snapshot.clone()).caching(caching);
            input.options = options.strict(self.strict).salvage(self.salvage);
            Ok(input)
        };
        self.files.iter().map(input).collect()
    }

    fn destination(&self, name: &OsString, policy: &Policy) -> Result<Destination, Failure> {
        let path = Path::new(name);
        if path == Path::new("-") {
            if self.no_create {
                return Err(Failure::error("-n requires an existing image, not standard output"));
            }
            return match self.resume {
                Some(_) => Err(Failure::error(NO_UPLOAD)),
                None => Ok(Destination::Stdout),
            };
        }
        if let Some(mut server) = policy.server(path, self.no_clobber) {
            if let Some(state) = &self.resume
                && (self.no_create || !server.resume(state))
            {
                return Err(Failure::error(NO_UPLOAD));
            }
            if self.no_create {
                return self.existing_on(server);
            }
            self.require_other_sources(&server)?;
            remote::prepare(server.url.scheme());
            return Ok(Destination::NewOn(server));
        }
        if self.resume.is_some() {
            return Err(Failure::error(NO_UPLOAD));
        }
        let path = local_path(path).map_err(|e| e.in_file(path))?;
        common::require_device(self.output_format.as_deref(), &path)?;
        Ok(if self.no_create { Destination::Existing(path) } else { Destination::New(path) })
    }
}

fn sha256(text: &str) -> Result<String, Failure> {
    match text.len() == 64 && text.chars().all(|digit| digit.is_ascii_hexdigit()) {
        true => Ok(text.to_owned()),
        false => Err(Failure::error("--sha256: expected 64 hexadecimal digits")),
    }
}

fn sparse(text: Option<&str>) -> Result<Sparse, Failure> {
    let Some(text) = text else { return Ok(Sparse::default()) };
    match diskimg::parse_size(text) {
        Some(0) => Ok(Sparse::Off),
        Some(bytes) if bytes % 512 == 0 && bytes <= MAX_SPARSE => Ok(Sparse::Blocks(bytes)),
        _ => Err(Failure::error(format!(
            "Invalid buffer size for sparse output specified: '{text}'. Valid sizes are multiples \
             of 512 up to {MAX_SPARSE}. Select 0 to disable sparse detection (fully allocates \
             output)."
        ))),
    }
}

fn threads(text: Option<&str>) -> Result<Option<usize>, Failure> {
    let Some(text) = text else { return Ok(None) };
    match text.parse() {
        Ok(n @ 1..=16) => Ok(Some(n)),
        _ => Err(Failure::error(format!(
            "Invalid number of threads specified: '{text}'. Must be between 1 and 16."
        ))),
    }
}
