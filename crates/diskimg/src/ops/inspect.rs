//! Inspecting: whether to let an untrusted image in.
//!
//! ```text
//!   look at the bytes ──► claimed? sizes? ──► what is allowed ──► verdict
//!   (vocabulary/inspection, and each format's own `inspect.rs`)
//! ```
//!
//! One file is opened, a bounded amount of it is read, and nothing that it names is followed.

use crate::error::{Error, Result};
use crate::formats::inspect::{DEPTH, look};
use crate::formats::signatures::SIGNATURES;
use crate::model::format::Format;
use crate::open::limits::Limits;
use crate::open::local_path;
use crate::report::inspection::{Code, Inspection, Severity, Verdict};
use crate::report::printable::printable;
use crate::storage::source::{FileSource, Source, stdin_up_to};
use std::path::Path;
use std::sync::Arc;

/// What an image may be, to be let in.
///
/// ```no_run
/// use diskimg::{InspectOptions, inspect};
///
/// let options = InspectOptions::new().claimed("qcow2")?.max_virtual_size(1 << 40);
/// let found = inspect("upload.img", &options)?;
/// if !found.is_safe() {
///     for finding in &found.findings {
///         eprintln!("{}: {}", finding.code, diskimg::printable(&finding.message));
///     }
/// }
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct InspectOptions {
    claimed: Option<String>,
    limits: Limits,
    max_size: Option<u64>,
    max_virtual_size: Option<u64>,
    max_ratio: Option<u64>,
    allowed: Vec<Code>,
}

impl InspectOptions {
    /// Nothing is claimed, sizes are not bounded, nothing is allowed that need not be.
    pub fn new() -> Self {
        Self::default()
    }

    /// The format that who brings the image says it is: the name of a [`Format`], `gpt` or `mbr`
    /// (raw, with a partition table), or a format that is known by its signature alone.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if there is no such format.
    pub fn claimed(mut self, name: &str) -> Result<Self> {
        if !known_formats().any(|known| known == name) {
            let known: Vec<_> = known_formats().collect();
            return Err(Error::invalid(format!("Unknown format '{name}'"))
                .hint(format!("known formats: {}", known.join(", "))));
        }
        self.claimed = Some(name.to_owned());
        Ok(self)
    }

    /// Bounds on what the image may demand while it is looked at.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Bytes that the file may have.
    #[must_use]
    pub fn max_size(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_size = bytes.into();
        self
    }

    /// Guest bytes that the disk may have. A disk whose size is not known is larger.
    #[must_use]
    pub fn max_virtual_size(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_virtual_size = bytes.into();
        self
    }

    /// How many times as large as its file the disk may be.
    #[must_use]
    pub fn max_ratio(mut self, ratio: impl Into<Option<u64>>) -> Self {
        self.max_ratio = ratio.into();
        self
    }

    /// What this finding tells is put up with: it becomes a warning.
    #[must_use]
    pub fn allow(mut self, code: Code) -> Self {
        self.allowed.push(code);
        self
    }
}

/// Looks at the image at `path`, a regular file or block device; `-` is standard input. Opens no
/// other file, whatever the image names.
///
/// # Errors
/// Only if there is nothing to look at: [`Io`](crate::ErrorKind::Io) if the file cannot be opened
/// or read, [`Limit`](crate::ErrorKind::Limit) if standard input does not end within the
/// largest size. Whatever the bytes, there is an answer.
pub fn inspect(path: impl AsRef<Path>, options: &InspectOptions) -> Result<Inspection> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let source = open(path, options).map_err(|e| e.in_file(&name))?;
    inspect_source(source, name, options)
}

/// As [`inspect()`], of bytes that are at hand. `name` is what the result and errors call them.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) if they cannot be read.
pub fn inspect_source(
    source: Arc<dyn Source>,
    name: impl Into<String>,
    options: &InspectOptions,
) -> Result<Inspection> {
    let name = name.into();
    let found = look(&source, name.clone(), &options.limits, DEPTH);
    let mut found = found.map_err(|e| e.in_file(name))?;
    if let Some(claimed) = &options.claimed {
        hold_against_claim(claimed, &mut found);
    }
    hold_against_bounds(options, &mut found);
    for finding in &mut found.findings {
        // What it quotes of the image is the author's of that.
        finding.message = printable(&finding.message).into_owned();
        if options.allowed.contains(&finding.code) {
            finding.severity = finding.severity.min(Severity::Warn);
        }
    }
    found.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let worst = found.findings.first().map(|finding| finding.severity);
    found.verdict = if worst == Some(Severity::Refuse) { Verdict::Unsafe } else { Verdict::Safe };
    Ok(found)
}

fn open(path: &Path, options: &InspectOptions) -> Result<Arc<dyn Source>> {
    let cannot = |e| Error::io("cannot open it", e);
    if path == Path::new("-") {
        let most = options.max_size.unwrap_or(options.limits.unpacked_bytes);
        let source = stdin_up_to(most).map_err(|e| Error::io("cannot read standard input", e))?;
        let Some(source) = source else {
            return Err(Error::limit(format!("standard input goes on behind {most} bytes"))
                .hint("the largest size that is let in: InspectOptions::max_size, --max-size"));
        };
        return Ok(Arc::new(source));
    }
    Ok(Arc::new(FileSource::open(local_path(path)?).map_err(cannot)?))
}

/// What a format may be called.
fn known_formats() -> impl Iterator<Item = &'static str> {
    let read = Format::ALL.iter().map(|format| format.name());
    let signatures = SIGNATURES.iter().flat_map(|known| [Some(known.name), known.alias]).flatten();
    read.chain(["gpt", "mbr"]).chain(signatures)
}

fn hold_against_claim(claimed: &str, found: &mut Inspection) {
    found.claimed_format = Some(claimed.to_owned());
    let alias = SIGNATURES.iter().find(|known| known.alias == Some(claimed));
    let name = alias.map_or(claimed, |known| known.name);
    let agrees = match name {
        "gpt" | "mbr" => found.format == "raw" && found.partition_table.is_some(),
        name => found.format == name,
    };
    if !agrees {
        let by_bytes = found.format;
        found.add(
            Code::FormatMismatch,
            None,
            format!("it is said to be {claimed}, and is {by_bytes} by its bytes"),
        );
    }
}

fn hold_against_bounds(options: &InspectOptions, found: &mut Inspection) {
    let (file, disk) = (found.file_size, found.virtual_size);
    if let Some(most) = options.max_size.filter(|&most| file > most) {
        found.add(Code::FileTooLarge, None, format!("{file} bytes; at most {most} are let in"));
    }
    if let Some(most) = options.max_virtual_size.filter(|&most| disk.is_none_or(|d| d > most)) {
        let size = disk.map_or("unknown".into(), |disk| format!("{disk} bytes"));
        let message = format!("the disk's size is {size}; at most {most} bytes are let in");
        found.add(Code::DiskTooLarge, None, message);
    }
    let Some(most) = options.max_ratio else { return };
    if disk.is_none_or(|disk| disk > most.saturating_mul(file)) {
        let size = disk.map_or("unknown".into(), |disk| format!("{disk} bytes"));
        let message = format!(
            "the disk's size is {size}; at most {most} times the file's {file} bytes are let in"
        );
        found.add(Code::RatioTooLarge, None, message);
    }
}
