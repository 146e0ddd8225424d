//! `inspect`: decides whether an untrusted image is safe to accept.
//!
//! ```text
//!   formats and their findings ──► claimed format, size bounds ──► allowed findings ──► verdict
//!   (`formats/inspect.rs` and each format's `inspect.rs`)
//! ```
//!
//! Opens one file, reads a bounded amount of it, and follows none of the names in it.

use crate::error::{Error, Result};
use crate::formats::inspect::{MAX_NESTING, examine};
use crate::formats::signatures::{Kind, SIGNATURES, Signature};
use crate::model::format::Format;
use crate::open::limits::Limits;
use crate::open::local_path;
use crate::remedy::Remedy;
use crate::report::finding::Severity;
use crate::report::inspection::{Code, Inspection, Verdict};
use crate::report::printable::printable;
use crate::storage::source::{FileSource, Source, stdin_up_to};
use std::path::Path;
use std::sync::Arc;

/// The requirements that an image must meet to be accepted.
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
    /// Creates options without a claimed format, without size bounds and without exceptions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the format that the image is claimed to have: the name of a [`Format`], `gpt` or `mbr`
    /// (raw with a partition table), or the name of a format that is only recognized by its
    /// signature. An image of another format is refused.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if there is no such format.
    pub fn claimed(mut self, name: &str) -> Result<Self> {
        if !known_formats().any(|known| known == name) {
            let known: Vec<_> = known_formats().collect();
            return Err(Error::invalid(format!("Unknown format '{name}'"))
                .hint(format!("known formats: {}", known.join(", "))));
        }
        self.claimed = Some(name.to_owned());
        Ok(self)
    }

    /// Sets the limits for reading the image.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the maximum file size in bytes.
    #[must_use]
    pub fn max_size(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_size = bytes.into();
        self
    }

    /// Sets the maximum virtual size in bytes. A disk of unknown size is refused.
    #[must_use]
    pub fn max_virtual_size(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_virtual_size = bytes.into();
        self
    }

    /// Sets the maximum ratio of virtual size to file size.
    #[must_use]
    pub fn max_ratio(mut self, ratio: impl Into<Option<u64>>) -> Self {
        self.max_ratio = ratio.into();
        self
    }

    /// Returns the maximum number of bytes that are copied of an image that can only be read once,
    /// such as a pipe: the maximum file size, or else the limit `unpacked_bytes`.
    pub fn max_copied(&self) -> u64 {
        self.max_size.unwrap_or(self.limits.unpacked_bytes)
    }

    /// Reduces findings with this code to warnings.
    #[must_use]
    pub fn allow(mut self, code: Code) -> Self {
        self.allowed.push(code);
        self
    }
}

/// Inspects the image at `path`, a regular file or block device; `-` is standard input. Opens no
/// other file, whatever the image refers to.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the file cannot be opened or read, and
/// [`Limit`](crate::ErrorKind::Limit) if standard input is longer than the maximum file size.
/// The content of the image never causes an error, only findings.
pub fn inspect(path: impl AsRef<Path>, options: &InspectOptions) -> Result<Inspection> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let source = open(path, options).map_err(|e| e.in_file(&name))?;
    inspect_source(source, name, options)
}

/// As [`inspect()`], for a source that is already open. `name` is its name in the result and in
/// errors.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if it cannot be read.
pub fn inspect_source(
    source: Arc<dyn Source>,
    name: impl Into<String>,
    options: &InspectOptions,
) -> Result<Inspection> {
    let name = name.into();
    let found = examine(&source, name.clone(), &options.limits, MAX_NESTING);
    let mut found = found.map_err(|e| e.in_file(name))?;
    if let Some(claimed) = &options.claimed {
        check_claimed_format(claimed, &mut found);
    }
    check_bounds(options, &mut found);
    for finding in &mut found.findings {
        // Messages may quote the image, which is untrusted.
        finding.message = printable(&finding.message).into_owned();
        if options.allowed.contains(&finding.code) {
            finding.severity = finding.severity.min(Severity::Warning);
        }
    }
    found.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let worst = found.findings.first().map(|finding| finding.severity);
    found.verdict = if worst == Some(Severity::Error) { Verdict::Unsafe } else { Verdict::Safe };
    Ok(found)
}

fn open(path: &Path, options: &InspectOptions) -> Result<Arc<dyn Source>> {
    let cannot_open = |e| Error::io("cannot open it", e);
    if path == Path::new("-") {
        let most = options.max_copied();
        let source = stdin_up_to(most).map_err(|e| Error::io("cannot read standard input", e))?;
        let Some(source) = source else {
            return Err(Error::limit(format!("standard input is longer than {most} bytes"))
                .with_remedy(Remedy::RaiseMaxSize));
        };
        return Ok(source);
    }
    Ok(Arc::new(FileSource::open(local_path(path)?).map_err(cannot_open)?))
}

/// Returns the names that are accepted as a claimed format.
fn known_formats() -> impl Iterator<Item = &'static str> {
    let read = Format::ALL.iter().flat_map(|format| {
        let (name, other) = (format.name(), format.openstack_name());
        [Some(name), Some(other).filter(|&other| other != name)]
    });
    let signatures = SIGNATURES.iter().flat_map(|known| [Some(known.name), known.alias]).flatten();
    read.flatten().chain(["gpt", "mbr"]).chain(signatures)
}

/// Adds a finding if the format is not the claimed one.
fn check_claimed_format(claimed: &str, found: &mut Inspection) {
    found.claimed_format = Some(claimed.to_owned());
    if claimed == Format::Raw.name() {
        accept_packed_as_raw(found);
    }
    let alias = SIGNATURES.iter().find(|known| known.alias == Some(claimed));
    let read = claimed.parse::<Format>().map(Format::openstack_name);
    let name = alias.map_or(read.unwrap_or(claimed), |known| known.name);
    let agrees = match name {
        "gpt" | "mbr" => found.format == "raw" && found.partition_table.is_some(),
        name => found.format == name,
    };
    if !agrees {
        let actual = found.format;
        found.add(
            Code::FormatMismatch,
            None,
            format!("the claimed format is {claimed}, but the content is {actual}"),
        );
    }
}

/// Accepts a compressed file or an archive as the content of a raw disk, because the caller claims
/// that the format is raw.
fn accept_packed_as_raw(found: &mut Inspection) {
    let is_archive = |known: &&Signature| known.kind == Kind::Packed && known.name == found.format;
    if let Some(packed) = SIGNATURES.iter().find(is_archive) {
        found.format = Format::Raw.name();
        found.findings.retain(|finding| finding.code != Code::Packed);
        found.add(Code::Archive, 0, format!("the first bytes are those of {}", packed.what));
    } else if found.format == Format::Raw.name() {
        found.accept_archives();
    }
}

/// Adds findings if the sizes exceed the bounds.
fn check_bounds(options: &InspectOptions, found: &mut Inspection) {
    let (file, disk) = (found.file_size, found.virtual_size);
    if let Some(most) = options.max_size.filter(|&most| file > most) {
        found.add(
            Code::FileTooLarge,
            None,
            format!("the file has {file} bytes, more than the allowed {most}"),
        );
    }
    if let Some(most) = options.max_virtual_size.filter(|&most| disk.is_none_or(|d| d > most)) {
        let message = match disk {
            Some(disk) => format!("the disk has {disk} bytes, more than the allowed {most}"),
            None => format!("the size of the disk is unknown; at most {most} bytes are allowed"),
        };
        found.add(Code::DiskTooLarge, None, message);
    }
    let Some(most) = options.max_ratio else { return };
    if disk.is_none_or(|disk| disk > most.saturating_mul(file)) {
        let size = disk.map_or("an unknown number of".into(), |disk| disk.to_string());
        let message = format!(
            "the disk has {size} bytes; at most {most} times the file's {file} bytes are allowed"
        );
        found.add(Code::RatioTooLarge, None, message);
    }
}
