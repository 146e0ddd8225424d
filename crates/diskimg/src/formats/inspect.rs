//! Inspecting untrusted bytes: which formats claim them, and what each of those finds.
//!
//! The findings themselves are in [`report::inspection`](crate::report::inspection); each format's
//! own checks are in its `inspect.rs`; the operation [`inspect`](crate::inspect()) adds the claimed
//! format, the bounds and the verdict.

use crate::error::Error;
use crate::formats::signatures::SIGNATURES;
use crate::model::format::Format;
use crate::model::layer::Layer;
use crate::open::OpenContext;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::open::limits::Limits;
use crate::open::probe::ProbeBuffer;
use crate::partition;
use crate::report::inspection::{Code, Inspection, Severity};
use crate::storage::source::Source;
use std::path::Path;
use std::sync::Arc;

/// The bytes that are looked at.
pub(crate) struct Subject<'a> {
    /// All of them.
    pub(crate) source: &'a Arc<dyn Source>,
    /// The first of them, at most [`ProbeBuffer::BYTES`](crate::open::probe::ProbeBuffer::BYTES).
    pub(crate) head: &'a [u8],
    /// The last of them, at most [`Subject::TAIL`]; they may be among the first.
    pub(crate) tail: &'a [u8],
    /// Bounds on what the image may demand.
    pub(crate) limits: &'a Limits,
}

impl Subject<'_> {
    /// How much is looked at of the end: a VMDK's footer with its markers.
    pub(crate) const TAIL: usize = 1536;

    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        self.source.len()
    }

    /// What the format's reader is told: facts are wanted, and no other file may be opened.
    pub(crate) fn context(&self) -> OpenContext<'_> {
        OpenContext {
            resolver: Resolver::new(None, ExternalFiles::None),
            limits: self.limits,
            snapshot: None,
            disk: None,
            metadata_only: true,
            with_extents: false,
            with_parent: false,
            probed: true,
        }
    }

    /// The image as its format's reader has it.
    ///
    /// # Errors
    /// What that said.
    pub(crate) fn open(&self, format: Format) -> crate::Result<Arc<dyn Layer>> {
        (format.driver().open)(Arc::clone(self.source), &self.context())
    }
}

/// A format's part in a look at an image.
pub(crate) struct Inspect {
    /// Whether other programs may take the bytes for this format, though the probe does not.
    pub(crate) also_matches: fn(&Subject<'_>) -> bool,
    /// Looks at an image of the format: opens no other file, reads a bounded amount.
    pub(crate) examine: fn(&Subject<'_>, &mut Inspection),
}

/// How deep appliances may stand in one another: a disk of one is no appliance.
pub(crate) const DEPTH: usize = 1;

/// Looks at the bytes of `source`, as what they claim to be. Opens no other file, and reads a
/// bounded amount. `depth`: whether it may be an appliance.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) if it cannot be read.
pub(crate) fn look(
    source: &Arc<dyn Source>,
    name: String,
    limits: &Limits,
    depth: usize,
) -> crate::Result<Inspection> {
    let cannot = |e| Error::io("cannot read it", e);
    let len = source.len();
    let mut head = vec![0; len.min(ProbeBuffer::BYTES as u64) as usize];
    source.read_exact_at(&mut head, 0).map_err(cannot)?;
    let mut tail = vec![0; len.min(Subject::TAIL as u64) as usize];
    let tail_at = len - tail.len() as u64;
    source.read_exact_at(&mut tail, tail_at).map_err(cannot)?;
    let subject = Subject { source, head: &head, tail: &tail, limits };
    let mut found = Inspection::new(name, &**source);
    // A window into an appliance has the appliance's path.
    let path = source.path().filter(|_| depth > 0);
    let formats = matching(&subject, path);
    let signatures: Vec<_> = SIGNATURES.iter().filter(|known| (known.matches)(&subject)).collect();
    let names = formats.iter().map(|format| format.name());
    let mut names = names.chain(signatures.iter().map(|signature| signature.name));
    if let Some(first) = names.next() {
        found.format = first;
        found.other_formats = names.collect();
    }
    for format in &formats {
        match format.driver().appliance {
            Some(_) if depth == 0 => {
                found.add(Code::Packed, 0, "an appliance inside an appliance");
            }
            _ => (format.driver().inspect.examine)(&subject, &mut found),
        }
    }
    for signature in &signatures {
        found.virtual_size = found.virtual_size.or((signature.size)(&subject));
        let name = signature.name;
        found.add(Code::FormatNotRead, None, format!("{name} images are not read"));
        if signature.encrypted {
            found.encrypted = true;
            found.add(Code::Encrypted, 0, format!("{name} images are encrypted"));
        }
    }
    if formats.is_empty() && signatures.is_empty() {
        (Format::Raw.driver().inspect.examine)(&subject, &mut found);
    } else if partition::inspect::is_divided(&subject) {
        divided(&subject, &mut found);
    }
    if !found.other_formats.is_empty() {
        let others = found.other_formats.join(", ");
        found.add(Code::SeveralFormats, None, format!("it is {others} as well"));
    }
    Ok(found)
}

/// The formats, but raw, that any program may take the bytes for.
fn matching(subject: &Subject<'_>, path: Option<&Path>) -> Vec<Format> {
    let head = ProbeBuffer { bytes: subject.head, path };
    let matches = |format: &Format| {
        let driver = format.driver();
        (driver.probe)(&head) || (driver.inspect.also_matches)(subject)
    };
    Format::ALL.iter().copied().filter(matches).collect()
}

/// Something that is a disk with partitions as well. ISO images that start from USB sticks are:
/// what breaks a rule there is odd at the most.
fn divided(subject: &Subject<'_>, found: &mut Inspection) {
    if found.format == Format::Iso.name() && found.other_formats.is_empty() {
        let before = found.findings.len();
        partition::inspect::examine(subject, found);
        for finding in &mut found.findings[before..] {
            (finding.code, finding.severity) = (Code::Partitions, Severity::Warn);
        }
        found.add(Code::HybridIso, 510, "it is a disk with partitions as well");
    } else {
        found.other_formats.push("gpt");
    }
}
