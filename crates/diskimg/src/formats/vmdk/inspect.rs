//! Whether an untrusted VMDK is safe to accept: a single file that contains the whole disk, and
//! whose descriptor and footer mean the same to every reader.
//!
//! Everything that OpenStack's `format_inspector` rejects is refused here, too.

use super::descriptor_rules as rules;
use super::header::{GD_AT_END, Header, MAGIC};
use super::stream::MARKER_FOOTER;
use super::{COWD_MAGIC, SECTOR, SESPARSE_MAGIC};
use crate::error::{Error, ErrorKind};
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::open::probe::ProbeBuffer;
use crate::report::finding::Severity;
use crate::report::inspection::{Code, Inspection};
use crate::storage::number::to_u64;

pub(super) const INSPECT: Inspect = Inspect { also_matches: has_create_type, examine };

/// Maximum length of a descriptor in bytes: as much of it as QEMU reads.
const MAX_DESCRIPTOR: u64 = (1 << 20) - 1;

/// Some readers treat any text that contains `createType` as a descriptor, even without its title.
fn has_create_type(subject: &Subject<'_>) -> bool {
    const KEY: &[u8] = b"createtype";
    let head = subject.head;
    let start = &head[..head.len().min(512)];
    let is_text = start.iter().all(|&b| b == b' ' || b.is_ascii_graphic() || (9..=13).contains(&b));
    let end = head.iter().position(|&b| b == 0).unwrap_or(head.len());
    is_text && head[..end].windows(KEY.len()).any(|word| word.eq_ignore_ascii_case(KEY))
}

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let head = subject.head;
    if head.starts_with(&MAGIC) {
        sparse(subject, found);
    } else if head.starts_with(&COWD_MAGIC) || head.starts_with(&SESPARSE_MAGIC) {
        found.add(Code::Subformat, 0, "an extent of an ESX snapshot, or a disk of VMware 2 or 3");
    } else {
        descriptor_file(subject, found);
    }
}

/// Examines a descriptor that is a separate file.
fn descriptor_file(subject: &Subject<'_>, found: &mut Inspection) {
    found.add(Code::Extents, None, "a descriptor whose extents are other files");
    match rules::text_at(subject, 0, subject.len()) {
        Ok(text) => rules::apply(&text, 0, false, found),
        Err(error) => found.unreadable(&error),
    }
    opens(subject, found);
}

/// Examines a sparse extent with an embedded descriptor.
fn sparse(subject: &Subject<'_>, found: &mut Inspection) {
    let Some(sector) = subject.head.first_chunk::<512>() else {
        return found.add(Code::Unreadable, None, "the file ends within the header");
    };
    let header = match Header::parse(sector, 0) {
        Ok(header) => header,
        Err(error) => return found.unreadable(&error),
    };
    found.virtual_size = header.capacity.checked_mul(SECTOR);
    if header.unclean {
        found.add(Code::Dirty, 72, "the image was not closed properly");
    }
    if header.capacity == 0 {
        let message = "the header has capacity 0: the extents are other files";
        found.add(Code::Extents, 12, message);
    }
    descriptor(subject, &header, found);
    if header.gd_offset == GD_AT_END {
        footer(subject, sector, found);
    }
    opens(subject, found);
}

fn descriptor(subject: &Subject<'_>, header: &Header, found: &mut Inspection) {
    let (sector, sectors) = (header.descriptor_offset, header.descriptor_sectors);
    if sector == 0 {
        return found.add(Code::Extents, 28, "no descriptor: one of several extents of a disk");
    }
    if sector != 1 {
        let message =
            format!("the descriptor is at sector {sector}; some readers expect it at sector 1");
        found.add(Code::Descriptor, 28, message);
    }
    let (at, len) = (sector * SECTOR, sectors * SECTOR);
    if len == 0 || len > MAX_DESCRIPTOR {
        let message = format!("a descriptor of {len} bytes; accepted are 1 to {MAX_DESCRIPTOR}");
        return found.add(Code::Descriptor, 36, message);
    }
    if at.checked_add(len).is_none_or(|end| end > subject.len()) {
        let message = "the descriptor extends beyond the end of the file";
        return found.add(Code::TableOutside, at, message);
    }
    match rules::text_at(subject, at, len) {
        Ok(text) => rules::apply(&text, at, true, found),
        Err(error) => found.unreadable(&error),
    }
}

/// Verifies the footer, which overrides the header. It must be exactly at the end of the file,
/// between its markers, and differ from the header only in the location of the tables.
fn footer(subject: &Subject<'_>, header: &[u8; 512], found: &mut Inspection) {
    let start = subject.len().saturating_sub(to_u64(ProbeBuffer::TAIL));
    let Some(&tail) = subject.tail.first_chunk::<{ ProbeBuffer::TAIL }>() else {
        return found.add(
            Code::Footer,
            None,
            "the header refers to a footer, but the file is too short for one",
        );
    };
    let (marker, rest) = tail.split_at(512);
    let (footer, end) = rest.split_at(512);
    let mut expected = [0; 512];
    // Writers disagree on the number of sectors that follow. The size in the marker is 0.
    expected[..8].copy_from_slice(&marker[..8]);
    expected[12..16].copy_from_slice(&MARKER_FOOTER.to_le_bytes());
    let mut add = |at: u64, message: &'static str| found.add(Code::Footer, start + at, message);
    if marker != expected {
        add(0, "expected a footer marker in the third sector from the end");
    }
    if end.iter().any(|&byte| byte != 0) {
        add(1024, "the file does not end with an end-of-stream marker");
    }
    // Everything except rgdOffset, gdOffset, overHead and uncleanShutdown. The flag for the
    // redundant directory may be set in only one of the two.
    let common = |header: &[u8]| {
        let mut common = [0; 512];
        common.copy_from_slice(header);
        common[8] &= !2;
        common[48..73].fill(0);
        common
    };
    if common(footer) != common(header) {
        add(512, "header and footer differ");
    }
    if footer[56..64] == GD_AT_END.to_le_bytes() {
        add(512 + 56, "the footer refers to another footer");
    }
}

/// Opens the image as a reader would, and reports why that fails.
fn opens(subject: &Subject<'_>, found: &mut Inspection) {
    let known = |error: &Error| {
        error.kind() == ErrorKind::Refused || error.to_string().contains("is encrypted")
    };
    let refused = found.findings.iter().any(|finding| finding.severity == Severity::Error);
    match subject.open(Format::Vmdk) {
        Ok(layer) => found.virtual_size = Some(layer.disk_layout().size),
        Err(error) if known(&error) && refused => {}
        Err(error) => found.unreadable(&error),
    }
}
