//! Inspection of untrusted bytes: which formats match, and what each of them finds.
//!
//! The findings themselves are in [`report::inspection`](crate::report::inspection); each format's
//! own checks are in its `inspect.rs`; the operation [`inspect`](crate::inspect()) adds the claimed
//! format, the bounds and the verdict.

use crate::formats::embedded_archives;
use crate::formats::signatures::{Kind, SIGNATURES, Signature};
use crate::model::format::Format;
use crate::model::layer::Layer;
use crate::open::OpenContext;
use crate::open::limits::Limits;
use crate::open::probe::{ProbeBuffer, ProbeBytes};
use crate::partition;
use crate::report::finding::Severity;
use crate::report::inspection::{Code, Finding, Inspection};
use crate::storage::source::Source;
use std::sync::Arc;

/// The file that is inspected.
pub(crate) struct Subject<'a> {
    /// The whole file.
    pub(crate) source: &'a Arc<dyn Source>,
    /// Its first bytes, at most [`ProbeBuffer::HEAD`].
    pub(crate) head: &'a [u8],
    /// Its last bytes, at most [`ProbeBuffer::TAIL`]; they may overlap `head`.
    pub(crate) tail: &'a [u8],
    /// The limits for reading the image.
    pub(crate) limits: &'a Limits,
}

impl Subject<'_> {
    /// Returns the length of the file in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.source.len()
    }

    /// Returns the context for opening the image: metadata only, all of it, and no other file.
    pub(crate) fn context(&self) -> OpenContext<'_> {
        OpenContext {
            metadata_only: true,
            strict: true,
            probed: true,
            ..OpenContext::isolated(self.limits)
        }
    }

    /// Opens the image in this format.
    ///
    /// # Errors
    /// As the format's [`Driver::open`](crate::open::driver::Driver::open).
    pub(crate) fn open(&self, format: Format) -> crate::Result<Arc<dyn Layer>> {
        (format.driver().open)(Arc::clone(self.source), &self.context())
    }

    /// Opens the image in this format, checks it and reports the first error.
    pub(crate) fn check(&self, format: Format, found: &mut Inspection) {
        let layer = match self.open(format) {
            Ok(layer) => layer,
            Err(error) => return found.unreadable(&error),
        };
        let mut first = None;
        let checked = layer.check(&mut |finding| {
            if finding.severity == Severity::Error {
                first.get_or_insert(finding.message);
            }
        });
        match (checked, first) {
            (Err(error), _) => found.unreadable(&error),
            (Ok(_), Some(message)) => found.add(Code::Unreadable, None, message),
            (Ok(_), None) => {}
        }
    }
}

/// A format's part in inspections.
pub(crate) struct Inspect {
    /// Returns true if other programs may recognize this format in the file although the format's
    /// probe does not.
    pub(crate) also_matches: fn(&Subject<'_>) -> bool,
    /// Examines an image of the format. Opens no other file and reads a bounded amount.
    pub(crate) examine: fn(&Subject<'_>, &mut Inspection),
}

/// Maximum nesting of appliances: a disk in an appliance must not be an appliance itself.
pub(crate) const MAX_NESTING: usize = 1;

/// Examines `source` in every format that matches. Opens no other file and reads a bounded amount.
/// An appliance is allowed only if `nesting` is not 0.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the source cannot be read.
pub(crate) fn examine(
    source: &Arc<dyn Source>,
    name: String,
    limits: &Limits,
    nesting: usize,
) -> crate::Result<Inspection> {
    let bytes = ProbeBytes::read(&**source)?;
    // A disk inside an appliance has the path of the appliance, which must not be probed again.
    let buffer = bytes.of(source.path().filter(|_| nesting > 0));
    let subject = Subject { source, head: buffer.head, tail: buffer.tail, limits };
    let mut found = Inspection::new(name, &**source);
    let formats = matching(&subject, &buffer);
    let known = |kind| {
        SIGNATURES.iter().filter(move |known| known.kind == kind).filter(|k| (k.matches)(&buffer))
    };
    let signatures: Vec<_> = known(Kind::Image).collect();
    let names = formats.iter().map(|format| format.openstack_name());
    let mut names = names.chain(signatures.iter().map(|signature| signature.name));
    if let Some(first) = names.next() {
        found.format = first;
        found.other_formats = names.collect();
    }
    for format in &formats {
        match format.driver().appliance {
            Some(_) if nesting == 0 => {
                found.add(Code::Packed, 0, "an appliance within an appliance");
            }
            _ => (format.driver().inspect.examine)(&subject, &mut found),
        }
    }
    for signature in &signatures {
        found.virtual_size = found.virtual_size.or((signature.size)(&buffer));
        let name = signature.name;
        found.add(Code::FormatNotRead, None, format!("{name} images are not supported"));
        if signature.encrypted {
            found.encrypted = true;
            found.add(Code::Encrypted, 0, format!("{name} images are encrypted"));
        }
    }
    let mut packed = known(Kind::Packed);
    if formats.is_empty() && signatures.is_empty() {
        (Format::Raw.driver().inspect.examine)(&subject, &mut found);
        match packed.next() {
            Some(packed) => {
                found.format = packed.name;
                let message = format!("it is {}: its content is unknown", packed.what);
                found.add(Code::Packed, 0, message);
            }
            None => examine_embedded(&subject, &mut found)?,
        }
    } else {
        if partition::inspect::has_mbr(subject.head) {
            examine_partitions(&subject, &mut found);
        }
        // An appliance is an archive itself.
        let is_appliance =
            formats.first().is_some_and(|format| format.driver().appliance.is_some());
        let own = is_appliance.then_some("tar");
        // The first chunk of a DMG may be a stream.
        let is_chunk = |name: &str| found.format == "dmg" && matches!(name, "bzip2" | "xz");
        let packed: Vec<_> = packed
            .map(|known| known.name)
            .filter(|name| Some(*name) != own && !is_chunk(name))
            .collect();
        found.other_formats.extend(packed);
        let within = [
            embedded_archives::uuencoded(&subject)?,
            embedded_archives::archive_in_program(&subject, own)?,
        ];
        for archive in within.into_iter().flatten() {
            if !found.other_formats.contains(&archive.name) {
                found.other_formats.push(archive.name);
            }
        }
        if !known(Kind::Packed).any(|known| known.name == "zip") {
            examine_end(&subject, &mut found)?;
        }
    }
    if !found.other_formats.is_empty() {
        let others = found.other_formats.join(", ");
        found.add(Code::SeveralFormats, None, format!("it is also {others}"));
    }
    Ok(found)
}

/// Examines raw bytes for archives that programs find although the file does not begin with one.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the source cannot be read.
fn examine_embedded(subject: &Subject<'_>, found: &mut Inspection) -> crate::Result<()> {
    use embedded_archives::{archive_within, begins_with_lines, uuencoded, zip_at_end};
    for search in [zip_at_end, archive_within, uuencoded] {
        if let Some(archive) = search(subject)? {
            let message = format!("some programs find {} in it", archive.what);
            found.add(Code::Packed, archive.at, message);
            return Ok(());
        }
    }
    if begins_with_lines(subject)? {
        let message = "it begins with lines of text: some programs find an mtree specification";
        found.add(Code::Packed, 0, message);
    }
    Ok(())
}

/// Examines an image for a zip archive at its end. One that bytes follow is often a file of the
/// guest or of the volume: it makes an image not unsafe.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the source cannot be read.
fn examine_end(subject: &Subject<'_>, found: &mut Inspection) -> crate::Result<()> {
    match embedded_archives::zip_at_end(subject)? {
        Some(archive) if archive.ends_file => found.other_formats.push("zip"),
        Some(archive) => {
            let message = "some programs find a zip archive near its end";
            let finding = Finding::new(Code::SeveralFormats, Severity::Warning, message);
            found.findings.push(Finding { offset: Some(archive.at), ..finding });
        }
        None => {}
    }
    Ok(())
}

/// Returns true if this is the name of an image format other than raw.
pub(crate) fn is_image(format: &str) -> bool {
    let is_packed = |known: &Signature| known.name == format && known.kind == Kind::Packed;
    format != Format::Raw.name() && !SIGNATURES.iter().any(is_packed)
}

/// Returns all formats, other than raw, that any program may recognize in the file.
fn matching(subject: &Subject<'_>, buffer: &ProbeBuffer<'_>) -> Vec<Format> {
    let matches = |format: &Format| {
        let driver = format.driver();
        (driver.probe)(buffer) || (driver.inspect.also_matches)(subject)
    };
    Format::ALL.iter().copied().filter(matches).collect()
}

/// Examines the partition table of a file that matches another format too. That is normal for ISO
/// images that boot from USB sticks, so their errors in it are warnings only. A volume without a
/// descriptor of ISO 9660 is only a disk to OpenStack.
fn examine_partitions(subject: &Subject<'_>, found: &mut Inspection) {
    if found.format == "iso" && found.other_formats.is_empty() {
        let before = found.findings.len();
        partition::inspect::examine(subject.head, &**subject.source, found);
        if subject.head.get(32769..32774) == Some(b"CD001") {
            for finding in &mut found.findings[before..] {
                (finding.code, finding.severity) = (Code::Partitions, Severity::Warning);
            }
        }
        found.add(Code::HybridIso, 510, "it is also a disk with partitions");
    } else {
        found.other_formats.push("gpt");
    }
}

/// Examines the data in raw sectors, which programs extract into a file of its own: that file must
/// not be in another format either.
pub(crate) fn examine_sector_data(
    subject: &Subject<'_>,
    data: &Arc<dyn Source>,
    found: &mut Inspection,
) {
    let bytes = match ProbeBytes::read(&**data) {
        Ok(bytes) => bytes,
        Err(error) => return found.unreadable(&error),
    };
    let buffer = bytes.of(None);
    let extracted =
        Subject { source: data, head: buffer.head, tail: buffer.tail, limits: subject.limits };
    let images = SIGNATURES.iter().filter(|known| known.kind == Kind::Image);
    let signatures = images.filter(|known| (known.matches)(&buffer)).map(|known| known.name);
    let formats = matching(&extracted, &buffer).into_iter().map(Format::openstack_name);
    for name in formats.chain(signatures) {
        if name != found.format && !found.other_formats.contains(&name) {
            found.other_formats.push(name);
        }
    }
    if partition::inspect::has_mbr(extracted.head) {
        examine_partitions(&extracted, found);
    }
}
